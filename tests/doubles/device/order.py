"""Which work is ordered before which: vector clocks over streams, events and synchronisations, and the races they find.

After Lamport's happens-before: each stream counts its work; a clock says of each stream how much of it is known to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Clock = dict[int, int]
"""By stream, the number of its last work that is ordered before."""


@dataclass(frozen=True)
class Access:
    """A range of memory that some work reads or writes. `what` names it in an error."""

    address: int
    size: int
    writes: bool
    what: str

    def conflicts(self, other: Access) -> bool:
        """Whether the ranges meet and one of the two writes."""
        meet = self.address < other.address + other.size and other.address < self.address + self.size
        return meet and self.size > 0 and other.size > 0 and (self.writes or other.writes)


@dataclass(frozen=True)
class _Past:
    access: Access
    stream: int
    number: int


class Order:
    """Follows all accesses that may still run."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.host: Clock = {}
        self._past: list[_Past] = []

    def work(self, stream: int, clock: Clock, accesses: Sequence[Access]) -> str | None:
        """Puts work on a stream, whose clock it moves; returns what it is in a race with, None where all is ordered."""
        merge(clock, self.host)
        clock[stream] = clock.get(stream, 0) + 1
        if not self.enabled:
            return None
        self._past = [past for past in self._past if self.host.get(past.stream, 0) < past.number]
        for access in accesses:
            for past in self._past:
                if past.access.conflicts(access) and clock.get(past.stream, 0) < past.number:
                    return (
                        f"{access.what} on stream {stream:#x} is not ordered after {past.access.what} on {past.stream:#x}: "
                        "make the stream wait for an event"
                    )
        self._past += [_Past(access, stream, clock[stream]) for access in accesses]
        return None

    def synchronized(self, clock: Clock) -> None:
        """The host knows that everything in `clock` is done."""
        merge(self.host, clock)


def merge(into: Clock, other: Clock) -> None:
    """Takes over what `other` knows."""
    for stream, number in other.items():
        into[stream] = max(into.get(stream, 0), number)
