"""A result against its baseline: only what is alike is compared, and as sharply as the way it was measured allows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from leo_edge.bench.baseline import Regression, compare_results
from leo_edge.bench.budget_report import regression_text
from leo_edge.bench.result import BenchResult
from leo_edge.runtime.errors import LeoEdgeError
from tests.bench.made_results import LOAD, MACHINE, made_result, noisy_rounds


def two_results(slip: float, rounds: int = 60, noise: float = 0.02, **changes: Any) -> tuple[BenchResult, BenchResult]:
    """Returns a baseline and a result of one run whose answer takes `slip` longer; `changes` are the result's."""
    old, new = noisy_rounds(np.random.default_rng(0), rounds, slip=slip, noise=noise)
    return made_result({"answer": old}), made_result({"answer": new}, **changes)


def compared(baseline: BenchResult, result: BenchResult, tolerance: float | None = None) -> Regression:
    return compare_results(baseline, result, np.random.default_rng(0), tolerance=tolerance)


def test_in_turns_a_slip_of_5_percent_does_not_pass() -> None:
    regression = compared(*two_results(0.05))
    assert (regression.paired, regression.tolerance, regression.passed) == (True, 0.03, False)
    assert "SLOWER" in regression_text(regression)
    assert compared(*two_results(0.0)).passed
    assert compared(*two_results(0.05), tolerance=0.2).passed


def test_of_two_runs_only_a_larger_slip_counts_and_it_says_so() -> None:
    regression = compared(*two_results(0.05, run_id="b2"))
    assert (regression.paired, regression.tolerance, regression.passed) == (False, 0.10, True)
    assert "only a slip of more than 10% counts" in regression_text(regression)
    old, new = (made_result({"answer": np.random.default_rng(i).normal(20 + 6 * i, 0.5, 60)}, run_id=str(i)) for i in (0, 1))
    assert not compared(old, new).passed


def test_a_noisy_machine_is_told_how_many_rounds_it_needs() -> None:
    regression = compared(*two_results(0.0, rounds=30, noise=0.2))
    assert regression.rounds_needed is not None
    assert regression.rounds_needed > 300
    assert f"--repeat {regression.rounds_needed}" in regression_text(regression)
    assert "--repeat" not in regression_text(compared(*two_results(0.0, noise=0.005)))
    assert compared(*two_results(0.0), tolerance=0.05).rounds_needed is None


def test_stages_that_only_one_has_are_named() -> None:
    samples = [20.0 + i % 3 for i in range(30)]
    text = regression_text(
        compared(made_result({"old": samples, "answer": samples}), made_result({"new": samples, "answer": samples}))
    )
    assert "only the baseline has, not compared: old" in text
    assert "only the result has, not compared: new" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": replace(MACHINE, power_mode="30W")}, "power_mode 30W, its baseline of MAXN"),
        ({"machine": replace(MACHINE, threads=2)}, "threads 2, its baseline of 4"),
        ({"load": replace(LOAD, cameras=1, answer_tokens=4)}, "cameras 1, expected 6, answer_tokens 4, expected 8"),
    ],
)
def test_results_that_are_not_alike_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LeoEdgeError, match=message):
        compared(*two_results(0.0, **changes))


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(LeoEdgeError, match="cannot be told from 29 rounds, expected at least 30"):
        compared(*two_results(0.0, rounds=29))


def test_files_of_one_run_with_unequal_rounds_are_refused() -> None:
    baseline, _ = two_results(0.0)
    with pytest.raises(LeoEdgeError, match="got 60 and 40: one of the files was altered"):
        compared(baseline, two_results(0.0, rounds=40)[1])


def test_a_result_without_the_whole_is_refused() -> None:
    baseline, _ = two_results(0.0)
    with pytest.raises(LeoEdgeError, match="the result has no stage 'answer'"):
        compared(baseline, made_result({"fuse": [1.0] * 60}))
