"""A result against an earlier one, its baseline: what may be compared, how sharply, and the stages' verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leo_edge.bench.measure import ANSWER
from leo_edge.bench.regression import (
    FEWEST_ROUNDS,
    SLOWER,
    TOLERANCE,
    TOLERANCE_APART,
    StageRegression,
    compare_stages,
    round_spread,
    rounds_needed,
)
from leo_edge.bench.result import BenchResult
from leo_edge.runtime.errors import LeoEdgeError

# The slip that a comparison should be able to see.
SLIP = 0.05


@dataclass(frozen=True)
class Regression:
    """How a result stands to its baseline.

    paired: both were measured in turns, in one run.
    only_baseline, only_result: stages that cannot be compared.
    rounds_needed: how many rounds catch a slip of `SLIP` of the whole on this machine as it was; None if not paired, or if that
    is within the tolerance.
    """

    paired: bool
    tolerance: float
    num_rounds: int
    rounds_needed: int | None
    stages: tuple[StageRegression, ...]
    only_baseline: tuple[str, ...]
    only_result: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no stage is slower."""
        return all(stage.verdict != SLOWER for stage in self.stages)


def compare_results(
    baseline: BenchResult, result: BenchResult, random: np.random.Generator, *, tolerance: float | None = None
) -> Regression:
    """Judges a result by its baseline.

    `tolerance` is how large a slip must be to matter, as a share of the baseline; None: `TOLERANCE` where both were measured in
    turns, `TOLERANCE_APART` where they were not.

    Raises:
        LeoEdgeError: they are not of one machine and load, have no whole answer, or too few rounds to tell.
    """
    _check_alike(baseline, result)
    old, new = (len(each.stages[ANSWER].samples_ms) for each in (baseline, result))
    if min(old, new) < FEWEST_ROUNDS:
        raise LeoEdgeError(
            f"a regression cannot be told from {min(old, new)} rounds, expected at least {FEWEST_ROUNDS}: "
            f"measure with leo-edge bench --repeat {FEWEST_ROUNDS}, or more"
        )
    paired = baseline.run_id == result.run_id
    if paired and old != new:
        raise LeoEdgeError(f"results of one run have as many rounds, got {old} and {new}: one of the files was altered")
    if tolerance is None:
        tolerance = TOLERANCE if paired else TOLERANCE_APART
    tokens = result.load.answer_tokens
    stages = compare_stages(baseline.stages, result.stages, random, answer_tokens=tokens, paired=paired, tolerance=tolerance)
    return Regression(
        paired=paired,
        tolerance=tolerance,
        num_rounds=min(old, new),
        rounds_needed=_rounds_needed(baseline, result, tolerance) if paired else None,
        stages=stages,
        only_baseline=tuple(name for name in baseline.stages if name not in result.stages),
        only_result=tuple(name for name in result.stages if name not in baseline.stages),
    )


def _check_alike(baseline: BenchResult, result: BenchResult) -> None:
    for what in ("device", "cpu", "cores", "threads", "power_mode"):
        old, new = getattr(baseline.machine, what), getattr(result.machine, what)
        if old != new:
            raise LeoEdgeError(
                f"the result is of {what} {new}, its baseline of {old}: measure both on one machine, set alike, "
                "best in turns: leo-edge bench NEW --vs OLD --json FILE"
            )
    if differences := result.load.differences(vars(baseline.load)):
        raise LeoEdgeError(f"the result is not of its baseline's load: {differences}: measure both with the same load")
    for name, each in (("result", result), ("baseline", baseline)):
        if ANSWER not in each.stages:
            raise LeoEdgeError(f"the {name} has no stage {ANSWER!r}, the whole: measure it with leo-edge bench")


def _rounds_needed(baseline: BenchResult, result: BenchResult, tolerance: float) -> int | None:
    if tolerance >= SLIP:
        return None
    spread = round_spread(baseline.stages[ANSWER].samples_ms, result.stages[ANSWER].samples_ms)
    return rounds_needed(spread, SLIP, tolerance=tolerance)
