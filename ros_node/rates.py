"""Rates and latencies over the last while."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

_WINDOW_S = 5.0
_NUM_LATENCIES = 512


class RateMeter:
    """Events per second over the last five seconds, on the machine's monotonic clock."""

    def __init__(self) -> None:
        self._times_ns: deque[int] = deque()

    def tick(self, now_ns: int) -> None:
        """Notes an event."""
        self._times_ns.append(now_ns)
        self._forget(now_ns)

    def per_second(self, now_ns: int) -> float:
        """Returns the rate; 0 when nothing has come for five seconds."""
        self._forget(now_ns)
        if len(self._times_ns) < 2:
            return 0.0
        return (len(self._times_ns) - 1) / max((now_ns - self._times_ns[0]) / 1e9, 1e-9)

    def _forget(self, now_ns: int) -> None:
        while self._times_ns and now_ns - self._times_ns[0] > _WINDOW_S * 1e9:
            self._times_ns.popleft()


class LatencyWindow:
    """The last 512 latencies, in milliseconds."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_NUM_LATENCIES)

    def add(self, ms: float) -> None:
        """Notes a latency."""
        self._values.append(ms)

    def percentile(self, percent: float) -> float:
        """Returns what `percent` (0 to 100) of them do not exceed; NaN without any."""
        return float(np.percentile(self._values, percent)) if self._values else math.nan

    def __len__(self) -> int:
        return len(self._values)
