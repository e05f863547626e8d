"""Options that choose recorded drives, and frame sets of them, shared by the commands that read them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS

if TYPE_CHECKING:
    from leo_edge.replay.queries import Queries, Query
    from leo_edge.replay.source import FrameSource, PlannedSet, SourceOptions

QUESTIONS_HELP = "FILE, nuscenes-qa:FILE, drivelm:FILE, builtin:driving, recorded:BAG"


def add_drive_arguments(group: argparse._ArgumentGroup, *, required: bool = True) -> None:
    """Declares what `source_options` reads."""
    source = group.add_mutually_exclusive_group(required=required)
    source.add_argument("--nuscenes", type=Path, metavar="ROOT", help="a nuScenes dataset")
    source.add_argument("--folders", nargs="+", type=Path, metavar="DIR", help="images or videos, with a drive.json in each")
    source.add_argument("--bags", nargs="+", type=Path, metavar="BAG", help="ROS bags: folders of rosbag2, .mcap, .db3, .bag")
    group.add_argument("--version", metavar="V", help="of the dataset, such as v1.0-mini (default: the only one there)")
    scenes = group.add_mutually_exclusive_group()
    scenes.add_argument("--scenes", metavar="A,B", help="names of scenes, with commas between (default: all)")
    scenes.add_argument("--split", metavar="S", help="scenes of a split of nuScenes, such as val or mini_val")
    group.add_argument(
        "--cameras", nargs="+", metavar="CAMERA", help="in prompt order (default: nuScenes' six; a folder's or a bag's all)"
    )
    group.add_argument(
        "--camera-topics", nargs="+", metavar="CAMERA=TOPIC", help="whose images a bag's topic has, if its name does not say so"
    )


def source_options(args: argparse.Namespace, *, all_frames: bool = False) -> SourceOptions:
    """Returns the source that the options choose.

    Raises:
        LeoEdgeError: options that do not go together.
    """
    cameras = None if args.cameras is None else tuple(args.cameras)
    if args.camera_topics is not None and args.bags is None:
        raise LeoEdgeError("--camera-topics names topics of --bags: leave it out, or give the bags to play")
    if args.nuscenes is not None:
        from leo_edge.replay.nuscenes_source import NuScenesOptions

        scenes = tuple(args.scenes.split(",")) if args.scenes is not None else ()
        return NuScenesOptions(args.nuscenes, args.version, scenes, args.split, all_frames, cameras or NUSCENES_CAMERAS)
    for option in ("version", "scenes", "split"):
        if getattr(args, option) is not None:
            raise LeoEdgeError(
                f"--{option} chooses from a --nuscenes dataset: leave it out and name the --folders or --bags to play"
            )
    if args.bags is not None:
        from leo_edge.replay.bag_source import BagOptions

        return BagOptions(tuple(args.bags), all_frames, cameras, _camera_topics(args.camera_topics or ()))
    from leo_edge.replay.folder_source import FolderOptions

    return FolderOptions(tuple(args.folders), all_frames, cameras)


def _camera_topics(entries: Sequence[str]) -> dict[str, str]:
    topics: dict[str, str] = {}
    for entry in entries:
        camera, _, topic = entry.partition("=")
        if not camera or not topic:
            raise LeoEdgeError(
                f"--camera-topics got '{entry}': expected CAMERA=TOPIC, such as CAM_FRONT=/sensing/camera/front/image_raw"
            )
        if camera in topics:
            raise LeoEdgeError(f"--camera-topics names {camera} twice, with {topics[camera]} and {topic}: leave one out")
        topics[camera] = topic
    return topics


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
