"""`leo-edge demo world DIR`: draws a world and writes it as a dataset in nuScenes format."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.runtime.errors import DatasetError

if TYPE_CHECKING:
    from leo_edge.demo.dataset.plan import DatasetOptions
    from leo_edge.demo.dataset.writer import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to write it; must not exist")
    parser.add_argument("--scenes", type=int, default=1, metavar="N", help="the first N scenes (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives another world (default 0)")
    parser.add_argument(
        "--split", choices=("train", "dev", "val"), help="only scenes of this split, the first N of them (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of each scene (default 20, all of it)")
    parser.add_argument("--keyframes-only", action="store_true", help="2 images a second of each camera instead of 12")
    parser.add_argument(
        "--scored-only", action="store_true", help="only the keyframes and questions that `demo score` asks about, of a --split"
    )
    parser.add_argument(
        "--size", default="full", metavar="SIZE", help="of the images: full (1600x900), small (288x288) or WIDTHxHEIGHT"
    )
    parser.add_argument("--png", action="store_true", help="images without loss, every pixel as drawn (default JPEG)")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="draw in N processes (default: one per core); the result is the same"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.demo.dataset.plan import DatasetOptions
    from leo_edge.demo.dataset.writer import write_dataset

    options = DatasetOptions(
        num_scenes=args.scenes,
        seed=args.seed,
        split=args.split,
        seconds=args.seconds,
        keyframes_only=args.keyframes_only or args.scored_only,
        scored_only=args.scored_only,
        size_px=_size(args.size),
        lossless=args.png,
    )
    processes = (os.cpu_count() or 1) if args.processes is None else args.processes
    report = write_dataset(args.directory, options, processes=processes)
    if args.json:
        print(json.dumps({"directory": str(args.directory)} | dataclasses.asdict(report)))
    else:
        print(_line(args.directory, options, report))
    return 0


def _size(text: str) -> tuple[int, int]:
    """Reads --size: a name, or a width and a height in pixels.

    Raises:
        DatasetError: it is neither.
    """
    from leo_edge.demo.world.observe import SMALL_SIZE_PX
    from leo_edge.demo.world.rig import FULL_SIZE_PX

    if text in ("full", "small"):
        return FULL_SIZE_PX if text == "full" else SMALL_SIZE_PX
    if not (sides := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)):
        raise DatasetError(f"--size must be full, small or a width and height like 800x450, got {text!r}")
    return int(sides[1]), int(sides[2])


def _line(directory: Path, options: DatasetOptions, report: Report) -> str:
    """Says in one line what was written, and how fast."""
    width, height = options.size_px
    counts = [
        _count(report.num_scenes, "scene"),
        _count(report.num_keyframes, "keyframe"),
        f"{report.num_images:,} images of {width}x{height}",
        f"{report.num_annotations:,} annotations",
        f"{sum(report.num_questions.values()):,} questions ({report.num_in_doubt:,} left out in doubt)",
        f"{report.size_bytes / 1e6:,.1f} MB",
    ]
    processes = "1 process" if report.processes == 1 else f"{report.processes} processes"
    return f"{directory}: {', '.join(counts)}; {report.images_per_s:.1f} images/s with {processes}"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
