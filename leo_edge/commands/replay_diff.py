"""`leo-edge replay-diff RUN_A RUN_B`: two replay runs, answer by answer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from leo_edge.runtime.errors import DatasetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("first", metavar="RUN_A", type=Path)
    parser.add_argument("second", metavar="RUN_B", type=Path)
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON, with every answer that differs")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if an answer differs."""
    from leo_edge.replay.diff import diff_lines, diff_runs
    from leo_edge.replay.run_files import read_run

    first, second = (read_run(path) for path in (args.first, args.second))
    diff = diff_runs(first, second, _summary(args.first), _summary(args.second))
    print(json.dumps(diff, indent=1) if args.json else "\n".join(diff_lines(diff)))
    return 1 if diff["differing"] else 0


def _summary(directory: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"no summary.json in {directory}: the run is not finished, go on with it") from None
    except ValueError as error:
        raise DatasetError(
            f"{directory / 'summary.json'} is not JSON ({error}): run the replay again, it is made anew"
        ) from None
    return summary
