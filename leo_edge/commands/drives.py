"""Options that choose recorded drives, and frame sets of them, shared by the commands that read them."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS

if TYPE_CHECKING:
    from leo_edge.replay.queries import Queries, Query
    from leo_edge.replay.source import FrameSource, PlannedSet, SourceOptions

QUESTIONS_HELP = "FILE, nuscenes-qa:FILE, drivelm:FILE, builtin:driving"


def add_drive_arguments(group: argparse._ArgumentGroup, *, required: bool = True) -> None:
    """Declares what `source_options` reads."""
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument("--nuscenes", type=Path, metavar="ROOT", help="a nuScenes dataset")
    source.add_argument("--folders", nargs="+", type=Path, metavar="DIR", help="images or videos, with a drive.json in each")
    group.add_argument("--version", metavar="V", help="of the dataset, such as v1.0-mini (default: the only one there)")
    scenes = group.add_mutually_exclusive_group()
    scenes.add_argument("--scenes", metavar="A,B", help="names of scenes, with commas between (default: all)")
    scenes.add_argument("--split", metavar="S", help="scenes of a split of nuScenes, such as val or mini_val")
    group.add_argument(
        "--cameras", nargs="+", metavar="CAMERA", help="in prompt order (default: nuScenes' six; a folder's all)"
    )


def source_options(args: argparse.Namespace, *, all_frames: bool = False) -> SourceOptions:
    """Returns the source that the options choose.

    Raises:
        LeoEdgeError: options that do not go together.
    """
    from leo_edge.replay.folder_source import FolderOptions
    from leo_edge.replay.nuscenes_source import NuScenesOptions

    if args.folders is None:
        scenes = tuple(args.scenes.split(",")) if args.scenes is not None else ()
        cameras = NUSCENES_CAMERAS if args.cameras is None else tuple(args.cameras)
        return NuScenesOptions(args.nuscenes, args.version, scenes, args.split, all_frames, cameras)
    for option in ("version", "scenes", "split"):
        if getattr(args, option) is not None:
            raise LeoEdgeError(f"--{option} chooses from a --nuscenes dataset: leave it out and name the --folders to play")
    return FolderOptions(tuple(args.folders), all_frames, None if args.cameras is None else tuple(args.cameras))


@dataclass(frozen=True)
class ChosenSet:
    """A frame set that was chosen, and the questions about it."""

    planned: PlannedSet
    queries: tuple[Query, ...]


def choose(source: FrameSource, queries: Queries, frames: int, per_frame: int, seed: int) -> list[ChosenSet]:
    """Chooses frame sets and questions about them, spread over conditions, drives and kinds.

    Raises:
        CalibrationError: there are fewer frame sets with questions than asked for.
    """
    from leo_edge.calib.sample import Candidate, choose_frames, choose_questions, conditions_of
    from leo_edge.replay.source import plan_sets

    planned: dict[tuple[str, int], PlannedSet] = {}
    candidates = []
    for name in source.drive_names():
        drive = source.drive(name)
        for one in plan_sets(drive):
            if queries.about(one):
                planned[name, one.number] = one
                candidates.append(Candidate(name, one.number, conditions_of(drive.description)))
    asked: Counter[str] = Counter()
    chosen = []
    for candidate in choose_frames(candidates, frames, seed):
        one = planned[candidate.drive, candidate.number]
        about = list(queries.about(one))
        numbers = choose_questions([query.kind for query in about], per_frame, asked)
        chosen.append(ChosenSet(one, tuple(about[i] for i in numbers)))
    return chosen
