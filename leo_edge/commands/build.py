"""`leo-edge build BUNDLE`: the TensorRT engines of a bundle, on the device that will run them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.progress import open_with_progress, say

if TYPE_CHECKING:
    from leo_edge.export.build import BuildReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--opt-level", type=int, default=3, metavar="N", help="0 builds quickest, 5 runs fastest (default 3)")
    parser.add_argument("--workspace-mb", type=int, metavar="N", help="scratch memory of a kernel (default: all there is)")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="TensorRT's measurements (default: beside the plans)")
    parser.add_argument(
        "--profile-tiles",
        type=_three,
        metavar="MIN,OPT,MAX",
        help="tiles that a vision expert takes at once (default: 1 to those of six cameras)",
    )
    parser.add_argument("--context", type=int, metavar="N", help="most tokens of prompt and answer (default: the bundle's)")
    parser.add_argument(
        "--camera-size",
        type=_size,
        metavar="WxH",
        help="cut tiles of images of this size on the device (default: the host does)",
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="GRAPH", help="build these, leave the others as they are")
    parser.add_argument("--rebuild", action="store_true", help="build what is there already, too")
    parser.add_argument(
        "--safe-memory", action="store_true", help="build each graph in its own process, and say how much memory it took"
    )
    parser.add_argument("--json", action="store_true", help="print what was built, what was reused, and why, as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.export.build import BuildOptions, build_engines

    options = BuildOptions(
        opt_level=args.opt_level,
        workspace_mb=args.workspace_mb,
        timing_cache=args.timing_cache,
        profile_tiles=args.profile_tiles,
        context=args.context,
        camera_px=args.camera_size,
        only=tuple(args.only),
        rebuild=args.rebuild,
        safe_memory=args.safe_memory,
    )
    report = build_engines(open_with_progress(args.bundle), options, say)
    print(json.dumps(report.to_json(), indent=1) if args.json else _table(report))
    return 0


def _table(report: BuildReport) -> str:
    lines = [f"{'graph':<24}{'MB':>10}{'built in, s':>14}  "]
    lines += [
        f"{result.graph:<24}{result.size_bytes / 1e6:>10,.1f}{result.seconds:>14,.1f}  {'built' if result.built else 'reused'}"
        for result in report.results
    ]
    return "\n".join([*lines, str(report.directory)])


def _three(text: str) -> tuple[int, int, int]:
    try:
        least, likeliest, most = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected MIN,OPT,MAX, such as 1,6,18, got {text!r}") from None
    return least, likeliest, most


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, such as 1600x900, got {text!r}") from None
    return width, height
