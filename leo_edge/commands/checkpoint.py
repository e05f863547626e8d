"""`leo-edge checkpoint PRESET DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "preset", metavar="PRESET", help="leo-tiny, leo-mini-tiny, leo-mini-0.5b, or the papers' sizes leo-7b and leo-mini-8b"
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to write it; must not exist")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other weights (default 0)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.export.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(args.preset, args.directory, seed=args.seed)
    size = sum(path.stat().st_size for path in args.directory.iterdir())
    print(f"{args.directory}: random-weight checkpoint {args.preset}, {size / 1e6:,.1f} MB")
    return 0
