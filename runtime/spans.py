"""Where the time went: named spans on one monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], int]


@dataclass(frozen=True)
class Span:
    """A stage's start and end in nanoseconds of `time.perf_counter_ns`."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def duration_ms(self) -> float:
        """Length in milliseconds."""
        return (self.end_ns - self.start_ns) / 1e6


class SpanRecorder:
    """Collects the spans of one piece of work."""

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self.clock = clock
        self.spans: list[Span] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Records the time spent inside, also when it ends in an error."""
        start_ns = self.clock()
        try:
            yield
        finally:
            self.spans.append(Span(name, start_ns, self.clock()))


def spans_to_json(spans: Sequence[Span]) -> list[dict[str, object]]:
    """Returns spans as JSON values, in milliseconds from the first one's start."""
    start_ns = min((span.start_ns for span in spans), default=0)
    return [
        {"name": span.name, "start_ms": (span.start_ns - start_ns) / 1e6, "duration_ms": span.duration_ms} for span in spans
    ]
