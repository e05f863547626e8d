"""Does the rule of `regression` keep its word on this machine? Trials on real timings: nothing changed, and a known slowdown.

In each trial a subject is measured in turns with itself and with copies of itself that take a known share longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leo_edge.bench.measure import ANSWER, Round, StageTime, Subject, samples_of, take_turns
from leo_edge.bench.regression import FEWEST_ROUNDS, SLOWER, compare_stages, round_spread, rounds_needed
from leo_edge.replay.score import wilson_interval
from leo_edge.runtime.spans import Clock

SLOWDOWNS = (0.0, 0.05, 0.10)
# What a run must show: of trials where nothing changed, and of those at 10 %.
MOST_FALSE_ALARMS, FEWEST_DETECTIONS = 0.02, 0.95
_PILOT_ROUNDS = 30


@dataclass(frozen=True)
class Rate:
    """How many of the trials at a slowdown were called slower; at none, how many had any stage called so."""

    slowdown: float
    alarms: int
    trials: int

    @property
    def share(self) -> float:
        """Alarms per trial."""
        return self.alarms / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share."""
        return wilson_interval(self.alarms, self.trials)


class SlowedSubject:
    """A subject that takes `share` of its time longer each round, waiting busily at the end."""

    def __init__(self, subject: Subject, share: float, *, clock: Clock = time.perf_counter_ns) -> None:
        if share < 0:
            raise ValueError(f"share must be at least 0, got {share}")
        self._subject, self._share, self._clock = subject, share, clock

    def round(self, number: int) -> Round:
        """See `Subject`. Only the whole is longer."""
        stages = self._subject.round(number)
        whole = stages[ANSWER]
        start_ns = self._clock()
        waited_ns = 0
        while waited_ns < self._share * whole.ms * 1e6:
            waited_ns = self._clock() - start_ns
        return {**stages, ANSWER: StageTime(whole.per, whole.ms + waited_ns / 1e6)}


def rounds_for(subject: Subject) -> tuple[float, int]:
    """Returns how far the ratios of rounds spread on this machine now, and how many rounds catch a slip of 5 % with it."""
    pilot = take_turns((subject, subject), _PILOT_ROUNDS)
    spread = round_spread(*([each[ANSWER].ms for each in rounds] for rounds in pilot))
    return spread, rounds_needed(spread, SLOWDOWNS[1])


def run_trials(
    subject: Subject,
    random: np.random.Generator,
    *,
    trials: int,
    rounds: int,
    answer_tokens: int,
    on_trial: Callable[[Sequence[Rate]], None] = lambda _: None,
    clock: Clock = time.perf_counter_ns,
) -> tuple[Rate, ...]:
    """Measures `trials` times `rounds` rounds of the subject, and of it at each of `SLOWDOWNS`, and returns the rates.

    `on_trial` is given the rates so far.
    """
    if trials < 1 or rounds < FEWEST_ROUNDS:
        raise ValueError(f"at least 1 trial and {FEWEST_ROUNDS} rounds are needed, got {trials} and {rounds}")
    sides = [subject, *(SlowedSubject(subject, share, clock=clock) for share in SLOWDOWNS)]
    alarms = dict.fromkeys(SLOWDOWNS, 0)
    rates: tuple[Rate, ...] = ()
    for trial in range(1, trials + 1):
        baseline, *others = map(samples_of, take_turns(sides, rounds))
        for share, other in zip(SLOWDOWNS, others, strict=True):
            stages = compare_stages(baseline, other, random, answer_tokens=answer_tokens)
            slower = {stage.stage for stage in stages if stage.verdict == SLOWER}
            alarms[share] += ANSWER in slower if share else bool(slower)
        rates = tuple(Rate(share, count, trial) for share, count in alarms.items())
        on_trial(rates)
    return rates


def kept(rates: Sequence[Rate]) -> bool:
    """Returns whether nothing was called slower too often, and a slowdown of 10 % often enough."""
    by_slowdown = {rate.slowdown: rate.share for rate in rates}
    return by_slowdown[SLOWDOWNS[0]] <= MOST_FALSE_ALARMS and by_slowdown[SLOWDOWNS[-1]] >= FEWEST_DETECTIONS


def rates_text(rates: Sequence[Rate]) -> str:
    """Returns the table of rates."""
    lines = [f"{'slowdown':<10}{'called slower':>14}{'95 % interval':>18}  expected"]
    expected = {
        SLOWDOWNS[0]: f"at most {MOST_FALSE_ALARMS:.0%}",
        SLOWDOWNS[-1]: f"at least {FEWEST_DETECTIONS:.0%}",
    }
    for rate in rates:
        low, high = rate.interval
        interval = f"[{low:.1%}, {high:.1%}]"
        called = f"{rate.alarms} of {rate.trials}"
        name = f"{rate.slowdown:.0%}" if rate.slowdown else "none"
        lines.append(f"{name:<10}{called:>14}{interval:>18}  {expected.get(rate.slowdown, '')}".rstrip())
    return "\n".join(lines)
