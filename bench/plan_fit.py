"""Calibration of a plan by measured results, and how far predictions are from results that were not used for it.

One result: each stage's time is so many times what the roofline says, so that it predicts the result itself, and FLOPs and
bytes decide what other settings take. Several: a fixed part and a proportional one, neither below 0, by least squares on
relative errors, so that a small setting counts as much as a large one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leo_edge.bench.devices import Device
from leo_edge.bench.plan import Fit, Predictor
from leo_edge.bench.plan_work import FRAME_SET, TOKEN, Setting, StageWork
from leo_edge.bench.result import BenchResult, Load
from leo_edge.runtime.errors import LeoEdgeError

ALLOWED_ERROR = 0.2

CountLoad = Callable[[Setting], Sequence[StageWork]]


@dataclass(frozen=True)
class Compared:
    """A stage, or the whole, predicted and measured, per run of it."""

    name: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a fraction of what was measured; above 0 where it is too long."""
        return self.predicted_ms / self.measured_ms - 1 if self.measured_ms else 0.0


@dataclass(frozen=True)
class Check:
    """One result against its prediction."""

    load: Load
    stages: tuple[Compared, ...]
    whole: Compared

    @property
    def passed(self) -> bool:
        """Whether the whole is within `ALLOWED_ERROR`."""
        return abs(self.whole.error) <= ALLOWED_ERROR


def setting_of(load: Load) -> Setting:
    """Returns what a benchmark asked for as a setting; every camera was encoded."""
    return Setting(
        cameras=load.cameras,
        encoded_cameras=load.cameras,
        tiles=load.tiles_per_camera,
        visual_tokens=load.visual_tokens,
        text_tokens=load.text_tokens,
        question_tokens=load.question_tokens,
        answer_tokens=load.answer_tokens,
        image_px=load.image_px,
    )


def calibrate(results: Sequence[BenchResult], count: CountLoad, device: Device) -> Predictor:
    """Returns a predictor that agrees with the results as well as its two numbers a stage can.

    Raises:
        LeoEdgeError: a result lacks a stage that the bundle has, or they are of several machines.
    """
    machines = {(result.machine.device, result.machine.threads, result.backend.split()[0]) for result in results}
    if len(machines) > 1:
        stated = "; ".join(f"{name}, {threads} threads, {backend}" for name, threads, backend in sorted(machines))
        raise LeoEdgeError(f"calibration takes results of one machine and engine, got {stated}")
    roofline = Predictor(device)
    points: dict[str, list[tuple[float, float]]] = {}
    rests = []
    for result in results:
        works = count(setting_of(result.load))
        medians = _medians(result, works)
        for work in works:
            points.setdefault(work.stage, []).append((roofline.roofline_ms(work), medians[work.stage]))
        rests.append(statistics.median(result.stages["answer"].samples_ms) - _whole_ms(works, medians, result.load))
    fits = {stage: fit(pairs) for stage, pairs in points.items()}
    return Predictor(device, fits, max(0.0, statistics.median(rests)))


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Fits (roofline_ms, measured_ms): measured = fixed + scale x roofline, least squares of relative errors, none below 0."""
    rows = [(1 / y, x / y) for x, y in points if y > 0]
    if not rows:
        return Fit(0.0, 0.0)
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = aa * bb - ab * ab
    proportional = Fit(0.0, b / bb if bb else 0.0)
    if len({x for x, _ in points}) < 2 or determinant <= 1e-9 * aa * bb:
        return proportional if bb else Fit(a / aa, 0.0)
    fixed, scale = (a * bb - b * ab) / determinant, (b * aa - a * ab) / determinant
    if fixed < 0:
        return proportional
    return Fit(a / aa, 0.0) if scale < 0 else Fit(fixed, scale)


def check(result: BenchResult, count: CountLoad, predictor: Predictor) -> Check:
    """Predicts a result's load and compares.

    Raises:
        LeoEdgeError: it lacks a stage that the bundle has.
    """
    works = count(setting_of(result.load))
    medians = _medians(result, works)
    predicted = {work.stage: predictor.stage_ms(work) for work in works}
    whole_ms = statistics.median(result.stages["answer"].samples_ms)
    stages = tuple(Compared(work.stage, predicted[work.stage], medians[work.stage]) for work in works)
    return Check(
        result.load, stages, Compared("answer", _whole_ms(works, predicted, result.load) + predictor.rest_ms, whole_ms)
    )


def _medians(result: BenchResult, works: Sequence[StageWork]) -> dict[str, float]:
    """Returns each stage's median of a result that has them all."""
    if result.savings:
        raise LeoEdgeError(
            f"the result of {result.bundle} was measured with savings: measure it without, so that all work is done"
        )
    wanted = [*(work.stage for work in works), "answer"]
    absent = [name for name in wanted if name not in result.stages]
    if absent:
        raise LeoEdgeError(f"the result of {result.bundle} has no stage {', '.join(absent)}: measure this bundle with bench")
    return {work.stage: statistics.median(result.stages[work.stage].samples_ms) for work in works}


def _whole_ms(works: Sequence[StageWork], times: Mapping[str, float], load: Load) -> float:
    """Adds stages up to a frame set and its answer. The first token comes out of prefill."""
    runs = {TOKEN: load.answer_tokens - 1, FRAME_SET: 1}
    return sum(times[work.stage] * runs.get(work.per, 1) for work in works)
