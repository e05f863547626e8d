"""The table: shares of the limits are those of the right limit, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leo_edge.bench.report import result_text
from leo_edge.bench.result import StageSamples
from tests.bench.made_results import MACHINE, made_result

_LIMITS = replace(MACHINE, read_gb_s=40.0, gemm_fp32_gops=200.0, gemm_int8_gops=800.0)


def _stages() -> dict[str, StageSamples]:
    return {
        "vision.vit": StageSamples("frame set", (9.0, 10.0, 20.0), 4_000_000_000, 50_000_000, "int8"),
        "fuse": StageSamples("question", (1.0, 1.0, 1.0), 100_000_000, 1_000_000, "float32"),
        "prompt": StageSamples("question", (0.5, 0.5, 0.5)),
        "decode": StageSamples("token", (2.0, 2.0, 2.0), 40_000_000, 20_000_000, "int8"),
        "first_token": StageSamples("question", (12.0, 12.0, 12.0)),
        "answer": StageSamples("frame set", (30.0, 30.0, 30.0)),
    }


def _rows(text: str) -> dict[str, str]:
    """The table's lines by stage, single spaces between."""
    table = text.partition("\n\n")[0]
    return {line.split()[0]: " ".join(line.split()) for line in table.splitlines()}


def test_shares_are_of_the_limit_of_the_stages_own_precision() -> None:
    rows = _rows(result_text(made_result(_stages(), machine=_LIMITS)))
    # 4 GFLOP in 10 ms are 400 GFLOP/s: half of 800; 100 MFLOP in 1 ms are 100: half of 200.
    assert rows["vision.vit"] == "vision.vit frame set 10.00 18.00 19.80 20.00 4.00 400 50% int8 50.0 5.00"
    assert rows["fuse"] == "fuse question 1.00 1.00 1.00 1.00 0.1 100 50% float32 1.00 1.00"
    # 20 MB in 2 ms are 10 GB/s, a quarter of 40; a product of one row is no matter of the GEMM peak.
    assert rows["decode"] == "decode token 2.00 2.00 2.00 2.00 0.04 20.0 20.0 10.0 25%"
    assert rows["prompt"] == "prompt question 0.50 0.50 0.50 0.50"


def test_without_limits_there_are_no_shares() -> None:
    text = result_text(made_result(_stages()))
    assert "%" not in text
    assert "limits here    not measured" in text
    assert _rows(text)["decode"].endswith(" 20.0 20.0 10.0")


def test_float16_is_not_held_against_the_peak_of_float32() -> None:
    stages = {"fuse": StageSamples("question", (1.0,), 100_000_000, 1_000_000, "float16")}
    assert "%" not in result_text(made_result(stages, machine=_LIMITS))


@pytest.mark.parametrize(
    "line",
    [
        "first token    12.00 ms after the question",
        "per token      2.00 ms, 500.0 tokens/s",
        "peak memory    9000 MB of the host",
        "warm-up        90.0 ms a round, not among the 3 rounds above",
        "load           6 cameras of 1600x900, tiles per camera 3",
        "limits here    read 40.0 GB/s, float32 200.0 GFLOP/s, int8 800.0 GOP/s",
    ],
)
def test_the_whole_is_said_below(line: str) -> None:
    assert line in result_text(made_result(_stages(), machine=_LIMITS)).splitlines()
