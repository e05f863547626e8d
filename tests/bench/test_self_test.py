"""The self-test itself, on a subject whose time is made up: it must find a rule that works, and one that does not."""

import numpy as np
import pytest

from leo_edge.bench.measure import ANSWER
from leo_edge.bench.self_test import Rate, SlowedSubject, kept, rates_text, rounds_for, run_trials
from tests.bench.made_results import MadeUpSubject


def trials(noise: float, rounds: int) -> tuple[Rate, ...]:
    subject = MadeUpSubject(noise)
    random = np.random.default_rng(0)
    return run_trials(subject, random, trials=20, rounds=rounds, answer_tokens=4, clock=subject.clock)


def test_a_quiet_machine_passes() -> None:
    rates = trials(0.02, 30)
    assert [(rate.slowdown, rate.alarms) for rate in rates] == [(0.0, 0), (0.05, 20), (0.10, 20)]
    assert kept(rates)
    lines = rates_text(rates).splitlines()
    assert lines[1].split() == ["none", "0", "of", "20", "[0.0%,", "16.1%]", "at", "most", "2%"]


def test_too_few_rounds_for_the_noise_do_not_pass() -> None:
    rates = trials(0.4, 30)
    assert rates[2].alarms < 19
    assert not kept(rates)


def test_false_alarms_do_not_pass() -> None:
    assert kept((Rate(0.0, 2, 100), Rate(0.05, 0, 100), Rate(0.10, 95, 100)))
    assert not kept((Rate(0.0, 3, 100), Rate(0.05, 0, 100), Rate(0.10, 95, 100)))
    assert not kept((Rate(0.0, 2, 100), Rate(0.05, 0, 100), Rate(0.10, 94, 100)))


def test_only_the_whole_is_slowed_by_its_share() -> None:
    subject = MadeUpSubject(0.0)
    stages = SlowedSubject(subject, 0.10, clock=subject.clock).round(0)
    assert stages["encode"].ms == 20
    assert stages[ANSWER].ms == pytest.approx(44, abs=0.02)


def test_rounds_are_chosen_by_the_noise() -> None:
    quiet, noisy = rounds_for(MadeUpSubject(0.01)), rounds_for(MadeUpSubject(0.3))
    assert quiet[1] == 30
    assert noisy[1] > 300
    assert noisy[0] > quiet[0]


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="30 rounds are needed, got 1 and 29"):
        run_trials(MadeUpSubject(0), np.random.default_rng(0), trials=1, rounds=29, answer_tokens=4)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        SlowedSubject(MadeUpSubject(0), -1)
