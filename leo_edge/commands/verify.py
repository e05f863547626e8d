"""`leo-edge verify BUNDLE CHECKPOINT`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.progress import open_with_progress, say

if TYPE_CHECKING:
    from leo_edge.export.verify import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if the bundle is not the checkpoint."""
    from leo_edge.export.checkpoint import Checkpoint
    from leo_edge.export.verify import verify

    report = verify(open_with_progress(args.bundle), Checkpoint.open(args.checkpoint), seed=args.seed, say=say)
    print(json.dumps(dataclasses.asdict(report) | {"passed": report.passed}, indent=1) if args.json else _table(report))
    return 0 if report.passed else 1


def _table(report: Report) -> str:
    lines = [f"{'stage':<20}{'max abs error':>14}{'relative':>10}{'cosine':>12}{'other weights':>15}"]
    for stage in report.stages:
        verdict = "ok" if stage.passed else "MISS" if not stage.close else "MISS: other weights pass too"
        lines.append(
            f"{stage.name:<20}{stage.max_abs_error:>14.2e}{stage.relative_error:>10.1e}{stage.cosine:>12.7f}"
            f"{stage.control_cosine:>15.4f}  {verdict}"
        )
    first = report.stages[0]
    lines += [
        f"embedding table: {'equal' if report.embedding_equal else 'MISS: not the checkpoint'}",
        f"greedy tokens: {report.tokens_equal} of {report.num_steps} equal, {report.tokens_tied} tied within the error",
        f"limits: relative error {first.max_relative_error:g}, cosine {first.min_cosine:g}; "
        "other weights (another seed in the reference) must stay below that cosine",
        "passed" if report.passed else "FAILED",
    ]
    return "\n".join(lines)
