"""`leo-edge budget RESULT BUDGET`: a benchmark's result against limits, and against an earlier result."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.bench.result import BenchResult

_SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("result", metavar="RESULT", type=Path, help="from `leo-edge bench --json`")
    parser.add_argument("budget", metavar="BUDGET", type=Path, help="a file of limits")
    parser.add_argument(
        "--baseline", metavar="RESULT", type=Path, help="an earlier result, or the one measured in turns with it"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="PERCENT",
        help="slips of more than this count (default 3 where both were measured in turns, else 10)",
    )
    parser.add_argument("--init", action="store_true", help="write BUDGET, a new file, from the result")
    parser.add_argument("--headroom", type=float, metavar="PERCENT", help="with --init: limits above the result (default 20)")
    parser.add_argument("--json", action="store_true", help="print every limit and stage as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if a limit is broken or a stage is slower than the baseline's."""
    from leo_edge.bench.budget import check_budget, read_budget
    from leo_edge.bench.budget_report import budget_json, limits_text, regression_text
    from leo_edge.bench.result import read_result

    _check_options(args)
    result = read_result(args.result)
    if args.init:
        return _init(result, args.budget, 20.0 if args.headroom is None else args.headroom)
    checks = check_budget(result, read_budget(args.budget))
    regression = None
    if args.baseline is not None:
        import numpy as np

        from leo_edge.bench.baseline import compare_results

        tolerance = None if args.tolerance is None else args.tolerance / 100
        regression = compare_results(read_result(args.baseline), result, np.random.default_rng(_SEED), tolerance=tolerance)
    found = budget_json(checks, regression)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print(limits_text(checks) + ("" if regression is None else "\n\n" + regression_text(regression)))
    return 0 if found["passed"] else 1


def _check_options(args: argparse.Namespace) -> None:
    if args.headroom is not None and not args.init:
        raise LeoEdgeError("--headroom goes with --init")
    if args.tolerance is not None and args.baseline is None:
        raise LeoEdgeError("--tolerance goes with --baseline")
    if args.init and (args.baseline is not None or args.json):
        raise LeoEdgeError("--init writes a budget and compares nothing: leave out --baseline and --json")
    for option in ("headroom", "tolerance"):
        value = getattr(args, option)
        if value is not None and not 0 <= value < 1000:
            raise LeoEdgeError(f"--{option} must be a percentage from 0 to 1000, got {value:g}")


def _init(result: BenchResult, path: Path, headroom_percent: float) -> int:
    from leo_edge.bench.budget import FEWEST_SAMPLES, budget_from

    budget = budget_from(result, headroom_percent / 100)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(budget.to_json())
    except FileExistsError:
        raise LeoEdgeError(f"{path} is there already: choose a new name, or remove it") from None
    print(f"{path}: limits on {len(budget.stages)} stages and memory, {headroom_percent:g} % above the result")
    if all(limits.p99_ms is None for limits in budget.stages.values()):
        rounds = FEWEST_SAMPLES["p99_ms"]
        print(f"  without p99, which needs {rounds} rounds: leo-edge bench --repeat {rounds}")
    return 0
