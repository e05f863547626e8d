"""`leo-edge demo train DIR`: trains the tiny LEO-MINI on the drawn world, from nothing to a checkpoint."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.progress import say
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.demo.training.config import Sizes
    from leo_edge.demo.training.experts import Progress

_ABLATIONS = ("no-text", "no-mmoe", "half-tokens", "double-tokens", "semantics-only", "geometry-only")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("directory", metavar="DIR", type=Path, help="where the checkpoint is written; must not exist")
    parser.add_argument(
        "--work", type=Path, default=Path("out/demo-train"), help="drawn data, experts, features (default out/demo-train)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the questions (default 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: cuda where it is there (default)")
    parser.add_argument("--processes", type=int, metavar="N", help="draw in N processes (default: one per core)")
    parser.add_argument("--smoke", action="store_true", help="a run of about two minutes: everything, far too short")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="S", help="train on this share of the questions (default 1)"
    )
    parser.add_argument("--ablation", choices=_ABLATIONS, help="leave something out, with the same experts and data")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import torch

    from leo_edge.demo.training.config import SMOKE, Recipe
    from leo_edge.demo.training.run import Work, train

    if args.directory.exists():
        raise LeoEdgeError(f"{args.directory} exists already: remove it, or write to another directory")
    if args.seed < 0 or not 0 < args.share <= 1:
        raise LeoEdgeError(f"got --seed {args.seed} --share {args.share}: expected 0 or more, and above 0 up to 1")
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = replace(SMOKE if args.smoke else Recipe(), seed=args.seed).shortened(args.share)
    processes = args.processes or os.cpu_count() or 1
    train(Work(args.work), args.directory, recipe, _sizes(args.ablation), _report, processes=processes, device=device)
    print(f"{args.directory}: trained checkpoint; score it with `leo-edge demo score {args.directory}`")
    return 0


def _sizes(ablation: str | None) -> Sizes:
    from leo_edge.demo.training.config import Sizes

    full = Sizes()
    changed = {
        None: full,
        "no-text": replace(full, text=False),
        "no-mmoe": replace(full, mmoe=False),
        "half-tokens": replace(full, num_queries=full.num_queries // 2),
        "double-tokens": replace(full, num_queries=full.num_queries * 2),
        "semantics-only": replace(full, experts=("semantics",)),
        "geometry-only": replace(full, experts=("geometry",)),
    }
    return changed[ablation]


def _report(progress: Progress) -> None:
    figures = "  ".join(f"{name} {value:.3f}" for name, value in progress.figures.items() if name != "s")
    say(f"{progress.stage:<24}{progress.done:>6.1%}  {figures}")
