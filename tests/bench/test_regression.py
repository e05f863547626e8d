"""The rule that tells a slip from noise: on noise as a busy machine makes it, and on what it must not be fooled by."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from leo_edge.bench.regression import (
    FASTER,
    SAME,
    SLOWER,
    UNSURE,
    compare_stages,
    ratio_interval,
    round_spread,
    rounds_needed,
)
from leo_edge.bench.result import StageSamples
from tests.bench.made_results import noisy_rounds

_TRIALS = 200


def stages(answer: list[float], **others: list[float]) -> dict[str, StageSamples]:
    per = {"decode": "token"}
    named = {name: StageSamples(per.get(name, "question"), tuple(samples)) for name, samples in others.items()}
    return named | {"answer": StageSamples("frame set", tuple(answer))}


def verdicts(a: Mapping[str, StageSamples], b: Mapping[str, StageSamples], seed: int = 0) -> dict[str, str]:
    rows = compare_stages(a, b, np.random.default_rng(seed), answer_tokens=8)
    return {row.stage: row.verdict for row in rows}


def share_of_alarms(slip: float, rounds: int, alarm: Callable[[list[float], list[float]], bool]) -> float:
    random = np.random.default_rng(7)
    return sum(alarm(*noisy_rounds(random, rounds, slip=slip)) for _ in range(_TRIALS)) / _TRIALS


def called_slower(a: list[float], b: list[float]) -> bool:
    return SLOWER in verdicts(stages(a), stages(b)).values()


def medians_differ(a: list[float], b: list[float]) -> bool:
    return bool(np.median(b) / np.median(a) > 1.03)


def test_noise_raises_no_alarm_and_would_fool_a_comparison_of_medians() -> None:
    assert share_of_alarms(0.0, 30, called_slower) <= 0.02
    assert share_of_alarms(0.0, 30, medians_differ) > 0.04


def test_many_stages_are_not_many_chances_of_an_alarm() -> None:
    random, alarms = np.random.default_rng(11), 0
    for _ in range(_TRIALS // 2):
        pairs = {name: noisy_rounds(random, 30) for name in ("tiles", "vision", "fuse", "prefill", "answer")}
        old, new = (stages(**{name: pair[i] for name, pair in pairs.items()}) for i in (0, 1))
        alarms += SLOWER in verdicts(old, new).values()
    assert alarms <= 2


def test_slips_are_caught_with_as_many_rounds_as_the_noise_needs() -> None:
    random = np.random.default_rng(5)
    spread = round_spread(*noisy_rounds(random, 4000))
    assert 0.06 < spread < 0.09  # two sides of 5 % noise, and what is held up
    assert share_of_alarms(0.10, rounds_needed(spread, 0.10), called_slower) >= 0.95
    assert share_of_alarms(0.05, rounds_needed(spread, 0.05), called_slower) >= 0.90
    assert share_of_alarms(0.05, 30, called_slower) < 0.90  # too few


def test_a_slip_within_the_tolerance_is_never_one_however_sure() -> None:
    a, b = noisy_rounds(np.random.default_rng(0), 1000, slip=0.02)
    row = compare_stages(stages(a), stages(b), np.random.default_rng(0), answer_tokens=8)[0]
    assert row.interval.low > 1
    assert row.verdict == SAME
    assert compare_stages(stages(a), stages(b), np.random.default_rng(0), answer_tokens=8, tolerance=0.0)[0].verdict == SLOWER


def test_the_other_way_round_it_is_faster() -> None:
    a, b = noisy_rounds(np.random.default_rng(0), 200, slip=0.10)
    assert verdicts(stages(a), stages(b)) == {"answer": SLOWER}
    assert verdicts(stages(b), stages(a)) == {"answer": FASTER}


def test_too_few_rounds_for_the_noise_are_unsure() -> None:
    a, b = noisy_rounds(np.random.default_rng(1), 30, noise=0.4)
    assert verdicts(stages(a), stages(b)) == {"answer": UNSURE}


def test_which_goes_first_in_a_round_does_not_count() -> None:
    first, second = np.tile([1.0, 1.08], 30), np.tile([1.08, 1.0], 30)
    noise = np.random.default_rng(2).normal(1, 0.005, (2, 60))
    interval = ratio_interval((first * noise[0]).tolist(), (second * noise[1]).tolist(), np.random.default_rng(0))
    assert abs(interval.ratio - 1) < 0.01


def test_drift_within_a_run_cancels_in_turns_and_widens_the_interval_of_runs_that_were_not() -> None:
    a, b = noisy_rounds(np.random.default_rng(3), 100, noise=0.02, drift=0.05)
    in_turns, apart = (ratio_interval(a, b, np.random.default_rng(0), paired=paired) for paired in (True, False))
    assert apart.high - apart.low > 3 * (in_turns.high - in_turns.low)
    assert in_turns.low < 1 < in_turns.high


def test_the_interval_holds_the_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(13)
    intervals = [ratio_interval(*noisy_rounds(random, 40, slip=0.05), random, confidence=0.9) for _ in range(400)]
    held = sum(interval.low <= 1.05 <= interval.high for interval in intervals) / len(intervals)
    assert 0.85 <= held <= 0.95


def test_a_slip_of_a_stage_too_short_to_matter_is_none_unless_it_runs_for_every_token() -> None:
    random = np.random.default_rng(4)
    pairs = [noisy_rounds(random, 100, slip=slip, noise=0.02) for slip in (0.2, 0.0)]
    short, long = [[[x / 1000 for x in side] for side in pairs[0]], pairs[1]]
    sides = [stages(long[i], prompt=short[i]) for i in (0, 1)]
    assert verdicts(sides[0], sides[1]) == {"prompt": SAME, "answer": SAME}
    per_token = [stages(long[i], decode=[40 * x for x in short[i]]) for i in (0, 1)]
    assert verdicts(per_token[0], per_token[1]) == {"decode": SLOWER, "answer": SAME}


def test_a_stage_that_appears_where_there_was_none_is_slower() -> None:
    answers = [20.0] * 30
    assert verdicts(stages(answers, fuse=[0.0] * 30), stages(answers, fuse=[5.0] * 30))["fuse"] == SLOWER
    assert verdicts(stages(answers, fuse=[0.0] * 30), stages(answers, fuse=[0.0] * 30))["fuse"] == SAME


def test_long_runs_are_resampled_in_parts() -> None:
    a, b = noisy_rounds(np.random.default_rng(3), 12_000)
    interval = ratio_interval(a, b, np.random.default_rng(0), resamples=400)
    assert 0.98 < interval.low < 1 < interval.high < 1.02


def test_rounds_grow_with_the_square_of_the_noise() -> None:
    assert rounds_needed(0.01, 0.05) == 30
    assert 3.5 < rounds_needed(0.4, 0.05) / rounds_needed(0.2, 0.05) < 4.5


def test_wrong_samples_are_refused() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="got 3 and 2"):
        ratio_interval([1.0, 2.0, 3.0], [1.0, 2.0], random)
    with pytest.raises(ValueError, match="at least 0 ms, got -1"):
        ratio_interval([1.0, 2.0], [1.0, -1.0], random)
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        ratio_interval([1.0, 2.0], [1.0, 2.0], random, confidence=95)
    with pytest.raises(ValueError, match=r"0\.02 is within the tolerance of 0\.03"):
        rounds_needed(0.05, 0.02)
