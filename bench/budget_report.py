"""What a budget and a baseline say of a result: as tables to read, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from leo_edge.bench.baseline import SLIP, Regression
from leo_edge.bench.budget import LimitCheck
from leo_edge.bench.regression import SLOWER, StageRegression
from leo_edge.bench.report import columns

_BYTES_PER_MB = 1e6


def limits_text(checks: Sequence[LimitCheck]) -> str:
    """Returns the table of limits."""
    rows: list[tuple[str, ...]] = [("stage", "limit on", "measured", "limit", "margin", "")]
    for check in checks:
        in_bytes = check.limit_name.endswith("_bytes")
        unit, name = (_BYTES_PER_MB, f"{check.limit_name.removesuffix('_bytes')} MB") if in_bytes else (1, check.limit_name)
        values = (f"{check.measured / unit:,.2f}", f"{check.limit / unit:,.2f}", f"{check.margin:.1%}")
        rows.append((check.stage, name.replace("_", " "), *values, "ok" if check.passed else "BROKEN"))
    return "\n".join(columns(rows, "<<>>><"))


def regression_text(regression: Regression) -> str:
    """Returns the table of stages against their baseline, and what is to be known about it."""
    rows: list[tuple[str, ...]] = [("stage", "baseline", "result", "ratio", "interval", "tolerance", "")]
    rows += [_stage_row(stage) for stage in regression.stages]
    lines = columns(rows, "<>>>>><")
    if regression.paired:
        lines.append(f"p50 in ms of {regression.num_rounds} rounds in turns")
    else:
        lines.append(
            f"p50 in ms of two runs that were not in turns: the machine may have drifted between them, so only a slip of more "
            f"than {regression.tolerance:.0%} counts; leo-edge bench NEW --vs OLD measures in turns"
        )
    if regression.rounds_needed is not None and regression.rounds_needed > regression.num_rounds:
        lines.append(
            f"noise: on this machine as it was, {regression.rounds_needed} rounds would catch a slip of {SLIP:.0%} "
            f"in 95 of 100 runs: measure with leo-edge bench --repeat {regression.rounds_needed}"
        )
    for where, names in (("baseline", regression.only_baseline), ("result", regression.only_result)):
        if names:
            lines.append(f"only the {where} has, not compared: {', '.join(names)}")
    return "\n".join(lines)


def budget_json(checks: Sequence[LimitCheck], regression: Regression | None) -> dict[str, Any]:
    """Returns all of it as JSON."""
    limits = [dataclasses.asdict(check) | {"margin": check.margin, "passed": check.passed} for check in checks]
    compared = None if regression is None else dataclasses.asdict(regression) | {"passed": regression.passed}
    passed = all(check.passed for check in checks) and (regression is None or regression.passed)
    return {"passed": passed, "limits": limits, "regression": compared}


def _stage_row(stage: StageRegression) -> tuple[str, ...]:
    interval = f"[{stage.interval.low:.3f}, {stage.interval.high:.3f}]"
    times = (f"{stage.baseline_ms:.2f}", f"{stage.result_ms:.2f}", f"{stage.interval.ratio:.3f}")
    verdict = stage.verdict.upper() if stage.verdict == SLOWER else stage.verdict
    return (stage.stage, *times, interval, f"{stage.tolerance:.0%}", verdict)
