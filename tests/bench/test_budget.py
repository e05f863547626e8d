"""Limits: what keeps them passes, what breaks one does not, and what cannot be told or does not belong is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leo_edge.bench.budget import Budget, budget_from, check_budget, read_budget
from leo_edge.bench.budget_report import limits_text
from leo_edge.bench.result import BenchResult, StageSamples
from leo_edge.runtime.errors import LeoEdgeError
from tests.bench.made_results import LOAD, MACHINE, made_result

_SHIPPED = sorted((Path(__file__).parents[2] / "budgets").glob("*.json"))
_BUDGET: dict[str, Any] = {
    "format_version": 1,
    "note": "wanted",
    "device": "NVIDIA Jetson AGX Orin*",
    "load": {"cameras": 6, "tiles_per_camera": 3, "visual_tokens": 384, "answer_tokens": 8},
    "stages": {"answer": {"p50_ms": 60, "p99_ms": 110.0, "max_ms": 150}},
}


def budget(path: Path, **changes: Any) -> Budget:
    """Returns the budget that is read from a file with these changes."""
    path.mkdir(exist_ok=True)
    file = path / "budget.json"
    file.write_text(json.dumps(_BUDGET | changes))
    return read_budget(file)


def result(rounds: int = 100, **changes: Any) -> BenchResult:
    """Returns a result whose answer takes 1 to 100 ms, evenly."""
    answer = StageSamples("frame set", tuple(1 + 99 * i / (rounds - 1) for i in range(rounds)), 1000, 5_000_000)
    return made_result({"fuse": [1.0] * rounds, "answer": answer}, **changes)


def test_limits_hold_with_their_margins(tmp_path: Path) -> None:
    checks = check_budget(result(), budget(tmp_path, peak_memory_bytes=10_000_000_000))
    assert [(check.limit_name, round(check.measured, 2), check.passed) for check in checks] == [
        ("p50_ms", 50.5, True),
        ("p99_ms", 99.01, True),
        ("max_ms", 100.0, True),
        ("peak_memory_bytes", 9_000_000_000, True),
    ]
    assert checks[0].margin == pytest.approx(1 - 50.5 / 60)
    assert limits_text(checks).splitlines()[1].split() == ["answer", "p50", "ms", "50.50", "60.00", "15.8%", "ok"]


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"stages": {"answer": {"p50_ms": 50.4}}}, "p50_ms"),
        ({"stages": {"answer": {"p99_ms": 99}}}, "p99_ms"),
        ({"stages": {"answer": {"max_ms": 99.9}}}, "max_ms"),
        ({"stages": {"answer": {"moved_bytes": 4_999_999}}}, "moved_bytes"),
        ({"stages": {}, "peak_memory_bytes": 8_999_999_999}, "peak_memory_bytes"),
    ],
)
def test_each_limit_can_be_broken(tmp_path: Path, changes: dict[str, Any], broken: str) -> None:
    (check,) = check_budget(result(), budget(tmp_path, **changes))
    assert (check.limit_name, check.passed) == (broken, False)
    assert check.margin < 0
    assert "BROKEN" in limits_text([check])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "NVIDIA Jetson Orin NX*"}, r"Developer Kit, Orin \(aarch64\), the budget of NVIDIA Jetson Orin NX"),
        ({"power_mode": "30W"}, "power mode MAXN, the budget of 30W"),
        ({"bundle": "*7b*"}, r"bundle out/leo-mini-8b-int8, the budget of \*7b\*"),
        ({"precision": "float16"}, "precision int8, the budget of float16"),
        ({"threads": 1}, "of 4 threads, the budget of 1: measure with leo-edge bench --threads 1"),
        ({"load": _BUDGET["load"] | {"cameras": 5, "text_tokens": 9}}, "cameras 6, expected 5, text_tokens 80, expected 9"),
        ({"stages": {"encode": {"p50_ms": 9}}}, "limits stage 'encode', the result has fuse, answer"),
        ({"stages": {"fuse": {"moved_bytes": 9}}}, "moved_bytes of fuse, which the result has not counted"),
    ],
)
def test_what_a_budget_was_not_written_for_is_an_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LeoEdgeError, match=message):
        check_budget(result(), budget(tmp_path, **changes))


def test_a_device_may_be_named_by_its_cpu(tmp_path: Path) -> None:
    assert check_budget(result(), budget(tmp_path, device="aarch64"))


def test_a_quantile_is_not_told_from_too_few_samples(tmp_path: Path) -> None:
    with pytest.raises(LeoEdgeError, match=r"p99_ms of answer cannot be told from 99 samples.*--repeat 100"):
        check_budget(result(99), budget(tmp_path))
    with pytest.raises(LeoEdgeError, match="p50_ms of answer cannot be told from 9 samples"):
        check_budget(result(9), budget(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2, this leo_edge reads 1"),
        ({"p50": 3}, r"unknown fields \['p50'\]"),
        ({"stages": {"answer": {"p95_ms": 3}}}, r"budget.stages.answer has .*unknown fields \['p95_ms'\]"),
        ({"stages": {"answer": {}}}, "a stage needs one of the limits p50_ms, p99_ms, max_ms, moved_bytes"),
        ({"stages": {"answer": {"p50_ms": 0}}}, "above 0"),
        ({"stages": {"answer": {"p50_ms": "9"}}}, "p50_ms is '9', expected float"),
        ({"stages": {"answer": 9}}, "answer is 9, expected an object"),
        ({"stages": []}, r"stages is \[\], expected an object"),
        ({"stages": {}}, "a budget needs at least one limit"),
        ({"load": {"cameras": 6}}, "missing fields"),
        ({"peak_memory_bytes": 0}, "peak_memory_bytes must be at least 1"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LeoEdgeError, match=message):
        budget(tmp_path, **changes)


def test_a_budget_from_a_result_is_kept_by_it_and_broken_by_a_slower_one(tmp_path: Path) -> None:
    found = budget_from(result(), headroom=0.2)
    file = tmp_path / "budget.json"
    file.write_text(found.to_json())
    read = read_budget(file)
    assert read == found
    checks = check_budget(result(), read)
    assert {(check.stage, check.limit_name) for check in checks} == {
        ("fuse", "p50_ms"),
        ("answer", "p50_ms"),
        ("answer", "p99_ms"),
        ("answer", "moved_bytes"),
        ("", "peak_memory_bytes"),
    }
    margins = {check.stage: round(check.margin, 2) for check in checks}
    assert margins == {"fuse": 0.21, "answer": 0.17, "": 0.17}  # of fuse, 0.5 % of the answer
    slower = made_result({"fuse": [1.27] * 100, "answer": result().stages["answer"]})
    assert [check.stage for check in check_budget(slower, read) if not check.passed] == ["fuse"]


def test_a_budget_from_few_rounds_limits_what_they_can_tell() -> None:
    assert {limits.p99_ms for limits in budget_from(result(50), 0.2).stages.values()} == {None}
    assert budget_from(result(50, machine=replace(MACHINE, device="Board [rev 2]")), 0.2).device == "Board [[]rev 2]"
    with pytest.raises(LeoEdgeError, match="cannot be told from 9 rounds, expected at least 10"):
        budget_from(result(9), 0.2)


@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.name)
def test_shipped_budgets_can_be_read(path: Path) -> None:
    assert read_budget(path).note
    assert LOAD.differences({"cameras": read_budget(path).load.cameras}) == ""


def test_budgets_are_shipped() -> None:
    assert len(_SHIPPED) >= 2
