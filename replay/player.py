"""Plays a drive on its own clock: a frame set can be taken once it is there, the newest wins, and nothing waits in a queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from leo_edge.replay.source import PlannedSet
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import FrameSet

_SETS_AHEAD = 2
_SLOWEST, _FASTEST = 0.01, 1000.0


class Clock(Protocol):
    """Time in nanoseconds from any origin, never going back."""

    def now_ns(self) -> int:
        """Returns the time."""

    def wait_until(self, time_ns: int) -> None:
        """Returns at a time, or at once if it is over."""


class WallClock:
    """The machine's own."""

    def now_ns(self) -> int:
        """Returns `time.perf_counter_ns`, on which the pipeline's spans are too."""
        return time.perf_counter_ns()

    def wait_until(self, time_ns: int) -> None:
        """Sleeps."""
        if (left := time_ns - time.perf_counter_ns()) > 0:
            time.sleep(left / 1e9)


class SimulatedClock:
    """A clock that stands still unless it is told to go on: what a replay would do, without the wait."""

    def __init__(self) -> None:
        self.time_ns = 0

    def now_ns(self) -> int:
        """Returns the time."""
        return self.time_ns

    def wait_until(self, time_ns: int) -> None:
        """Goes on to a time."""
        self.time_ns = max(self.time_ns, time_ns)


@dataclass(frozen=True)
class Turn:
    """A set's turn: when all of it was there, and when it was taken (None: a newer one was), on the player's clock."""

    planned: PlannedSet
    ready_ns: int
    taken_ns: int | None

    @property
    def dropped(self) -> bool:
        """Whether a newer set was taken instead."""
        return self.taken_ns is None


def check_rate(rate: float) -> float:
    """Returns a rate, how many seconds of a drive pass in one.

    Raises:
        DatasetError: it is too small, too large or no number.
    """
    if not _SLOWEST <= rate <= _FASTEST:
        raise DatasetError(f"--rate must be {_SLOWEST:g} to {_FASTEST:g}, got {rate:g}: 1 is real time")
    return rate


def play(sets: Sequence[PlannedSet], clock: Clock, rate: float | None) -> Iterator[Turn]:
    """Yields each set's turn in order; the caller's work on a set that was taken is done before it asks for the next.

    At a `rate`, a set is there so long after the first one as its stamps say, divided by the rate; of those that are there the
    newest is taken, and older ones are dropped. Without one, every set is there as soon as it is asked for.
    """
    if rate is None:
        for planned in sets:
            now_ns = clock.now_ns()
            yield Turn(planned, now_ns, now_ns)
        return
    start_ns = clock.now_ns()
    ready = [start_ns + round((planned.ready_ns - sets[0].ready_ns) / rate) for planned in sets]
    i = 0
    while i < len(sets):
        clock.wait_until(ready[i])
        now_ns, newest = clock.now_ns(), i
        while newest + 1 < len(sets) and ready[newest + 1] <= now_ns:
            newest += 1
        yield from (Turn(sets[j], ready[j], None) for j in range(i, newest))
        yield Turn(sets[newest], ready[newest], now_ns)
        i = newest + 1


@contextmanager
def loading_ahead(sets: Sequence[PlannedSet]) -> Iterator[Callable[[PlannedSet], FrameSet]]:
    """Gives what returns a set's images, which are read ahead in a thread: on a vehicle they come decoded."""
    futures: dict[int, Future[FrameSet]] = {}
    numbers = {planned.number: i for i, planned in enumerate(sets)}
    with ThreadPoolExecutor(1) as pool:

        def load(planned: PlannedSet) -> FrameSet:
            place = numbers[planned.number]
            for i in [i for i in futures if i < place]:
                futures.pop(i).cancel()
            for i in range(place, min(place + 1 + _SETS_AHEAD, len(sets))):
                if i not in futures:
                    futures[i] = pool.submit(sets[i].load)
            return futures.pop(place).result()

        try:
            yield load
        finally:
            for future in futures.values():
                future.cancel()
