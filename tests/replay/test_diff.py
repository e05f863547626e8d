"""replay/diff.py: agreement counted by hand, McNemar's test against SciPy's binomial test."""

from typing import Any

import pytest
from scipy.stats import binomtest

from leo_edge.replay.diff import diff_lines, diff_runs, mcnemar_p
from leo_edge.replay.run_files import Json, Run
from leo_edge.runtime.errors import DatasetError


def run_of(answers: dict[str, str], truth: str | None = "yes", **changes: Any) -> Run:
    about = {"drive": "d", "stamp_ns": 1, "truth": truth}
    lines = [
        about | {"id": key, "sample": f"s{key}", "question": f"{key}?", "answer": text} | changes
        for key, text in answers.items()
    ]
    return Run({}, tuple(lines), ())


def summary(p50: float, p99: float) -> Json:
    return {"latency_ms": {"encode": {"p50": p50, "p99": p99}, "waited": {"p50": 0.0, "p99": 0.0}}}


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (1, 9), (12, 30), (0, 60), (480, 560), (2000, 2200)])
def test_mcnemar_equals_the_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p(second, first) == mcnemar_p(first, second)


def test_compares_answers_accuracy_and_latency() -> None:
    first = run_of({"1": "yes", "2": "no", "3": "yes", "4": "no", "5": "yes"})
    second = run_of({"1": "yes", "2": "yes", "3": "yes", "4": "maybe", "6": "yes"})
    diff = diff_runs(first, second, summary(10, 20), summary(5, 30))
    assert (diff["common"], diff["equal"], diff["only_first"], diff["only_second"]) == (4, 2, 1, 1)
    assert diff["accuracy"] == {
        "n": 4,
        "first": 0.5,
        "second": 0.75,
        "only_first_right": 0,
        "only_second_right": 1,
        "p": 1.0,
    }
    assert diff["latency_ratio"] == {"encode": {"p50": 0.5, "p99": 1.5}}
    assert [(one["id"], one["first"], one["second"]) for one in diff["differing"]] == [("2", "no", "yes"), ("4", "no", "maybe")]
    text = "\n".join(diff_lines(diff))
    assert "2 of 4 answers to the same questions are equal" in text
    assert "first 50.0 %, second 75.0 %, difference +25.0 points" in text
    assert "s2 2? 'no' -> 'yes' (truth 'yes')" in text


def test_a_run_equals_itself() -> None:
    run = run_of({"1": "yes", "2": "no"})
    diff = diff_runs(run, run, summary(1, 1), summary(1, 1))
    assert (diff["equal"], diff["differing"]) == (2, [])


def test_answers_without_truth_are_compared_too() -> None:
    diff = diff_runs(run_of({"1": "a"}, None), run_of({"1": "b"}, None), summary(1, 1), summary(1, 1))
    assert diff["accuracy"] is None
    assert "'a' -> 'b'" in "\n".join(diff_lines(diff))


def test_runs_of_other_frames_or_other_questions_are_refused() -> None:
    with pytest.raises(DatasetError, match="no question about the same frame in common"):
        diff_runs(run_of({"1": "a"}), run_of({"1": "a"}, sample="another"), summary(1, 1), summary(1, 1))
    with pytest.raises(DatasetError, match="question 1 about s1 is another one in the second run"):
        diff_runs(run_of({"1": "a"}), run_of({"1": "a"}, question="else?"), summary(1, 1), summary(1, 1))
