"""Results and rounds that no machine has measured: with any samples, and noise as a busy machine makes it."""

from dataclasses import replace
from typing import Any

import numpy as np

from leo_edge.bench.measure import ANSWER, Round, StageTime
from leo_edge.bench.result import FORMAT_VERSION, BenchResult, Load, Machine, StageSamples

MACHINE = Machine(
    device="NVIDIA Jetson AGX Orin Developer Kit, Orin",
    cpu="aarch64",
    cores=12,
    threads=4,
    memory_bytes=64 << 30,
    system="Linux",
    power_mode="MAXN",
    clocks_mhz=(2201.6,),
    read_gb_s=None,
    gemm_fp32_gops=None,
    gemm_int8_gops=None,
)
LOAD = Load(
    cameras=6,
    tiles_per_camera=3,
    image_px=(1600, 900),
    visual_tokens=384,
    text_tokens=80,
    question_tokens=12,
    answer_tokens=8,
)


def made_result(stages: dict[str, Any], **changes: Any) -> BenchResult:
    """Returns a result with these stages: `StageSamples`, or samples of a stage that runs once a question."""
    result = BenchResult(
        format_version=FORMAT_VERSION,
        run_id="a1",
        bundle="out/leo-mini-8b-int8",
        bundle_id="0123456789abcdef",
        precision="int8",
        backend="tensorrt 10.3",
        versions={"leo_edge": "0.1"},
        machine=MACHINE,
        load=LOAD,
        warm_up_ms=(90.0,),
        stages={
            name: stage if isinstance(stage, StageSamples) else StageSamples("question", tuple(map(float, stage)))
            for name, stage in stages.items()
        },
        sustained_sets_per_s=10.0,
        peak_memory_bytes=9_000_000_000,
    )
    return replace(result, **changes)


def noisy_rounds(
    random: np.random.Generator,
    rounds: int,
    *,
    slip: float = 0.0,
    noise: float = 0.05,
    drift: float = 0.02,
    outliers: float = 0.05,
) -> tuple[list[float], list[float]]:
    """Returns samples of two sides measured in turns, in ms; the second takes `slip` longer.

    Both share a clock that drifts from round to round; each has log-normal noise, and neighbours that now and then hold it up.
    """
    clock = np.exp(np.cumsum(random.normal(0, drift, rounds)))

    def side(factor: float) -> list[float]:
        held_up = np.where(random.random(rounds) < outliers, 1 + random.exponential(1.0, rounds), 1.0)
        times: list[float] = (factor * clock * np.exp(random.normal(0, noise, rounds)) * held_up).tolist()
        return times

    return side(20.0), side(20.0 * (1 + slip))


class MadeUpSubject:
    """Takes `whole_ms` with some noise, on a clock of its own."""

    def __init__(self, noise: float, whole_ms: float = 40.0) -> None:
        self._random, self._noise, self._whole_ms, self._now_ns = np.random.default_rng(0), noise, whole_ms, 0

    def clock(self) -> int:
        """A clock that goes on by 10 us whenever it is looked at."""
        self._now_ns += 10_000
        return self._now_ns

    def round(self, number: int) -> Round:  # noqa: ARG002 - all rounds are alike
        """See `Subject`."""
        encode, ask = (self._whole_ms / 2 * np.exp(self._random.normal(0, self._noise, 2))).tolist()
        return {"encode": StageTime("frame set", encode), ANSWER: StageTime("frame set", encode + ask)}
