"""Is B slower than A, or is it noise? Judged on the rounds of two results.

What two samples of a round share (a neighbour on the machine, its clock) cancels in their ratio, so it is the rounds' ratios
that are averaged, as logarithms, over their middle half: an outlier does not count, and neither does which of the two went
first. How sure the average is, is told by rounds drawn again in blocks (circular block bootstrap, Politis and Romano 1992),
since rounds one after the other are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

import numpy as np
from numpy.typing import NDArray

from leo_edge.bench.measure import ANSWER
from leo_edge.bench.result import StageSamples

FloatArray = NDArray[np.float64]

FEWEST_ROUNDS = 30
# What a slip must exceed to matter: of results in turns, and of results of two runs, between which a machine drifts.
TOLERANCE, TOLERANCE_APART = 0.03, 0.10
# A stage's slip matters from this share of the whole answer on.
_SHARE = 0.005
# How often any stage may be called slower where none is; half of it for the whole answer, half for all stages together.
_ALARMS = 0.01
_RESAMPLES = 1000
# Entries of the array that holds resampled rounds, 32 MB: longer runs are resampled in parts.
_MOST_ENTRIES = 1 << 22
_MOST_ROUNDS = 100_000
# A clock's step: what took no time at all has no logarithm.
_STEP_MS = 1e-6
# Standard error of the middle half's mean of normal values, in their standard deviation over the root of their number.
_MIDDLE_HALF = 1.093

SLOWER, FASTER, SAME, UNSURE = "slower", "faster", "same", "unsure"


@dataclass(frozen=True)
class RatioInterval:
    """How many times as long B takes as A, and the interval that holds it at the confidence asked for."""

    low: float
    ratio: float
    high: float


@dataclass(frozen=True)
class StageRegression:
    """How a stage stands to its baseline.

    tolerance: how large a slip must be to matter in this stage, as a share of the baseline.
    verdict: `SLOWER` where it is slower beyond doubt, and by more than the tolerance; `FASTER` likewise; `SAME` where a slip
    that matters is beyond doubt not there; else `UNSURE`.
    """

    stage: str
    baseline_ms: float
    result_ms: float
    interval: RatioInterval
    tolerance: float
    verdict: str


def ratio_interval(
    a: Sequence[float],
    b: Sequence[float],
    random: np.random.Generator,
    *,
    paired: bool = True,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
) -> RatioInterval:
    """Returns how `b` stands to `a`, in milliseconds each; if paired, entries of one index were measured in one round.

    Raises:
        ValueError: the samples are too few, paired and of unequal number, or below 0.
    """
    if min(len(a), len(b)) < 2 or (paired and len(a) != len(b)):
        raise ValueError(f"samples must be at least 2, and paired ones as many, got {len(a)} and {len(b)}")
    if min(*a, *b) < 0:
        raise ValueError(f"samples must be at least 0 ms, got {min(*a, *b)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    log_a, log_b = (np.log(np.maximum(samples, _STEP_MS)) for samples in (a, b))
    parts = [log_b - log_a] if paired else [log_b, -log_a]
    center = sum(float(_middle_half(part)) for part in parts)
    error = math.hypot(*(_standard_error(part, resamples, random) for part in parts))
    reach = error * _student((1 + confidence) / 2, min(map(len, parts)))
    return RatioInterval(_exp(center - reach), _exp(center), _exp(center + reach))


def compare_stages(
    baseline: Mapping[str, StageSamples],
    result: Mapping[str, StageSamples],
    random: np.random.Generator,
    *,
    answer_tokens: int,
    paired: bool = True,
    tolerance: float = TOLERANCE,
) -> tuple[StageRegression, ...]:
    """Judges every stage that both have; `ANSWER`, the whole, is among them. Samples of one index are of one round if `paired`.

    Several stages are several chances of a false alarm. The whole is what a deadline is for, so it keeps half of the error
    that is allowed; the stages share the other half (Bonferroni: Holm's procedure would break a build in just the same cases).
    """
    stages = [name for name in result if name in baseline]
    shares = {name: _ALARMS / 2 / max(1, len(stages) - 1) for name in stages} | {ANSWER: _ALARMS / 2}
    answer_ms = median(baseline[ANSWER].samples_ms)
    rows = []
    for name in stages:
        old, new = baseline[name], result[name]
        old_ms = median(old.samples_ms)
        matters = max(tolerance, smallest_slip_ms(old, answer_ms, answer_tokens) / max(old_ms, _STEP_MS))
        interval = ratio_interval(old.samples_ms, new.samples_ms, random, paired=paired, confidence=1 - 2 * shares[name])
        rows.append(StageRegression(name, old_ms, median(new.samples_ms), interval, matters, _verdict(interval, matters)))
    return tuple(rows)


def smallest_slip_ms(stage: StageSamples, answer_ms: float, answer_tokens: int) -> float:
    """Returns how much longer one run of a stage must take to matter in an answer of `answer_ms`."""
    runs = max(1, answer_tokens - 1) if stage.per == "token" else 1
    return _SHARE * answer_ms / runs


def round_spread(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns how far the ratios of rounds lie apart: the standard deviation of their logarithm, told from the middle half."""
    low, high = np.quantile(np.log(np.asarray(b) / np.asarray(a)), [0.25, 0.75])
    return float(high - low) / (2 * NormalDist().inv_cdf(0.75))


def rounds_needed(spread: float, slip: float, *, tolerance: float = TOLERANCE, power: float = 0.95) -> int:
    """Returns how many rounds catch a slip of the whole answer with probability `power`, if their ratios spread as told.

    Raises:
        ValueError: the slip is within the tolerance.
    """
    if slip <= tolerance:
        raise ValueError(f"a slip of {slip:g} is within the tolerance of {tolerance:g}: it is never called one")
    sure = NormalDist().inv_cdf(power)
    rounds = FEWEST_ROUNDS
    while rounds < _MOST_ROUNDS:
        error = _MIDDLE_HALF * spread / math.sqrt(rounds)
        threshold = max(math.log1p(tolerance), error * _student(1 - _ALARMS / 2, rounds))
        if math.log1p(slip) - sure * error >= threshold:
            break
        rounds += 1
    return rounds


def _verdict(interval: RatioInterval, tolerance: float) -> str:
    if interval.low > 1 and interval.ratio > 1 + tolerance:
        return SLOWER
    if interval.high < 1 and interval.ratio < 1 / (1 + tolerance):
        return FASTER
    return SAME if interval.high <= 1 + tolerance else UNSURE


def _middle_half(values: FloatArray) -> FloatArray:
    """Returns the mean of the middle half of the last axis."""
    count = values.shape[-1]
    cut = count // 4
    middle: FloatArray = np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return middle


def _standard_error(values: FloatArray, resamples: int, random: np.random.Generator) -> float:
    """Returns the standard error of the middle half's mean. A block that reaches the end goes on at the start."""
    count = len(values)
    length = round(count ** (1 / 3))  # the best grows so: Kuensch 1989, Annals of Statistics 17
    part = max(1, _MOST_ENTRIES // count)
    means: list[FloatArray] = []
    for done in range(0, resamples, part):
        starts = random.integers(count, size=(min(part, resamples - done), -(-count // length), 1))
        rounds = ((starts + np.arange(length)) % count).reshape(len(starts), -1)[:, :count]
        means.append(_middle_half(values[rounds]))
    return float(np.std(np.concatenate(means))) * math.sqrt(count / (count - 1))


def _student(probability: float, count: int) -> float:
    """Returns Student's t for a trimmed mean of `count` values: as if only those not cut were there (Tukey, McLaughlin 1963).

    By its expansion around the normal quantile (Abramowitz and Stegun 26.7.5).
    """
    z, freedom = NormalDist().inv_cdf(probability), max(1, count - 2 * (count // 4) - 1)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # beyond, there is no float: two samples that have nothing to do with each other
