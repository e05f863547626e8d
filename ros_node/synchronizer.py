"""Which frames belong together: rounds of the cameras, the newest of which wins.

A round begins with the first frame that is younger than half an interval after the last one. It is ready when every camera
that is due has its frame in it, or `max_wait_ms` after it began, whichever is first; so a lost frame, staggered cameras or a
dead one cost a wait, never a set. The anchor camera gives the round its stamp; where it is late or dead, the newest frame does.

In a round a camera is fresh (its frame is near the round's stamp), stale (older, but young enough to be used again) or
missing. Only the newest frame of each camera and the newest ready set are held, whatever the load.

What the stamps do:
  zero           the time of arrival is taken in their place, by the caller
  the same       the frame is a duplicate and left out
  a little back  the frame came late and is left out
  far back       (more than max_camera_age_ms) time has jumped, as when a bag starts again: all that was held is forgotten
  forward        the others are too old then; where most cameras do not follow, it is one clock that runs ahead: it is missing
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Generic, TypeVar

from leo_edge.runtime.errors import FrameError

Payload = TypeVar("Payload")

_NUM_INTERVALS = 9  # of which the median is taken: one lost frame in four does not move it
_ENOUGH_INTERVALS = 3  # fewer of the anchor's may be one long silence
_DEAD_AFTER = 3.0  # intervals without a frame: nobody waits for that camera


class Taken(Enum):
    """What became of a frame on arrival."""

    NEWEST = "newest"
    DUPLICATE = "duplicate"
    LATE = "late"
    JUMP = "jump"


class CameraState(Enum):
    """What a set has of a camera; the values are those of leo_edge_msgs/CameraUse."""

    FRESH = 0
    STALE = 1
    MISSING = 2


@dataclass(frozen=True)
class SyncRules:
    """Cameras in prompt order, and the bounds between fresh, stale and missing.

    Raises:
        FrameError: no camera, one named twice, an anchor that is none of them, or bounds that contradict each other.
    """

    channels: tuple[str, ...]
    anchor: str
    max_time_diff_ms: float = 150.0
    max_age_ms: float = 1000.0
    max_wait_ms: float = 80.0
    min_cameras: int = 1

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise FrameError(f"cameras must be one or more different names, got {', '.join(self.channels) or 'none'}")
        if self.anchor not in self.channels:
            raise FrameError(f"anchor_camera {self.anchor!r} is none of the cameras: take one of {', '.join(self.channels)}")
        if not 1 <= self.min_cameras <= len(self.channels):
            raise FrameError(f"min_cameras must be 1 to {len(self.channels)}, the number of cameras, got {self.min_cameras}")
        if self.max_age_ms < self.max_time_diff_ms:
            raise FrameError(
                f"max_camera_age_ms must be at least max_camera_time_diff_ms {self.max_time_diff_ms:g}, got {self.max_age_ms:g}"
            )


@dataclass(frozen=True)
class Arrival(Generic[Payload]):
    """A frame as it came. `stamp_ns` is on the cameras' clock, `arrived_ns` on the machine's monotonic one."""

    channel: str
    stamp_ns: int
    arrived_ns: int
    payload: Payload


@dataclass(frozen=True)
class ReadySet(Generic[Payload]):
    """Frames that belong together, in prompt order; there since `ready_ns`, which is on the machine's monotonic clock."""

    number: int
    stamp_ns: int
    ready_ns: int
    frames: Mapping[str, Arrival[Payload]]
    states: Mapping[str, CameraState]

    @property
    def missing(self) -> tuple[str, ...]:
        """The cameras without a frame that is young enough."""
        return tuple(channel for channel, state in self.states.items() if state is CameraState.MISSING)


@dataclass
class SyncCounts:
    """What happened since the start.

    `sets` became ready; of these `dropped` were wanted, but a newer one came before their turn. `apart_ms`: of the cameras that
    are missing in the last set though they have delivered, how far their last stamps are from the set's.
    """

    sets: int = 0
    dropped: int = 0
    partial: int = 0
    too_few: int = 0
    jumps: int = 0
    frames: Counter[tuple[str, Taken]] = field(default_factory=Counter)
    apart_ms: dict[str, float] = field(default_factory=dict)


class Synchronizer(Generic[Payload]):
    """Takes frames as they come and holds the newest ready set. Not thread-safe: its owner holds a lock.

    `is_wanted` says of a set's stamp whether it would have been answered: only such a set counts as dropped.
    """

    def __init__(self, rules: SyncRules, is_wanted: Callable[[int], bool] = lambda _: True) -> None:
        self.rules, self._is_wanted = rules, is_wanted
        self.counts = SyncCounts()
        self._forget()

    def _forget(self) -> None:
        self._newest: dict[str, Arrival[Payload]] = {}
        self._intervals: dict[str, deque[int]] = {}
        self._last_stamp_ns: int | None = None  # of the last round
        self._began_ns: int | None = None  # when the pending round began
        self._floor_ns = -math.inf  # the pending round's frames are younger: as it was at its beginning, intervals change
        self._ready: ReadySet[Payload] | None = None

    def add(self, arrival: Arrival[Payload]) -> Taken:
        """Takes a frame in; says whether it is the newest of its camera, and if not, why it was left out."""
        self.settle(arrival.arrived_ns)
        taken = self._judge(arrival)
        self.counts.frames[arrival.channel, taken] += 1
        if taken in (Taken.DUPLICATE, Taken.LATE):
            return taken
        if taken is Taken.JUMP:
            self.counts.jumps += 1
            self._forget()
        if self._began_ns is not None and arrival.stamp_ns > self._stamp_ns() + self._round_interval_ns() / 2:
            self._finish(arrival.arrived_ns)  # it is of the next round already
        before = self._newest.get(arrival.channel)
        if before is not None:
            steps = self._intervals.setdefault(arrival.channel, deque(maxlen=_NUM_INTERVALS))
            steps.append(arrival.stamp_ns - before.stamp_ns)
        self._newest[arrival.channel] = arrival
        if self._began_ns is None and self._in_new_round(arrival):
            self._began_ns, self._floor_ns = arrival.arrived_ns, self._new_floor_ns()
        self.settle(arrival.arrived_ns)
        return taken

    def settle(self, now_ns: int) -> None:
        """Makes the pending round a ready set if it is time."""
        if self._began_ns is None:
            return
        if now_ns < self._began_ns + self.rules.max_wait_ms * 1e6 and self._awaited(now_ns):
            return
        self._finish(now_ns)

    def due_ns(self) -> int | None:
        """Returns when the pending round is ready at the latest; None: there is none."""
        return None if self._began_ns is None else self._began_ns + math.ceil(self.rules.max_wait_ms * 1e6)

    def take(self) -> ReadySet[Payload] | None:
        """Returns the newest ready set, once."""
        ready, self._ready = self._ready, None
        return ready

    def peek(self) -> ReadySet[Payload] | None:
        """Returns the newest ready set without taking it."""
        return self._ready

    def interval_ns(self, channel: str) -> float | None:
        """Returns the time between a camera's frames; None before the second one."""
        steps = self._intervals.get(channel)
        return median(steps) if steps else None

    def _judge(self, arrival: Arrival[Payload]) -> Taken:
        before = self._newest.get(arrival.channel)
        if before is None or arrival.stamp_ns > before.stamp_ns:
            return Taken.NEWEST
        if arrival.stamp_ns == before.stamp_ns:
            return Taken.DUPLICATE
        return Taken.JUMP if before.stamp_ns - arrival.stamp_ns > self.rules.max_age_ms * 1e6 else Taken.LATE

    def _round_interval_ns(self) -> float:
        """The time between rounds: the anchor's, once it is known well, else the cameras' median, else what is surely less."""
        if len(self._intervals.get(self.rules.anchor, ())) >= _ENOUGH_INTERVALS:
            return median(self._intervals[self.rules.anchor])
        known = [interval for channel in self._newest if (interval := self.interval_ns(channel)) is not None]
        return median(known) if known else self.rules.max_time_diff_ms * 1e6 / 2

    def _in_new_round(self, arrival: Arrival[Payload]) -> bool:
        """Whether a frame is of the pending round; while there is none, whether it would begin one."""
        return arrival.stamp_ns > (self._new_floor_ns() if self._began_ns is None else self._floor_ns)

    def _new_floor_ns(self) -> float:
        return -math.inf if self._last_stamp_ns is None else self._last_stamp_ns + self._round_interval_ns() / 2

    def _awaited(self, now_ns: int) -> bool:
        """Whether a camera that should fire in this round has not done so yet."""
        stamp_ns, half_ns = self._stamp_ns(), self._round_interval_ns() / 2
        for channel in self.rules.channels:
            newest = self._newest.get(channel)
            if newest is None:
                if self._last_stamp_ns is None:
                    return True  # before the first set nobody knows which cameras there are
                continue
            if self._in_new_round(newest):
                continue
            interval_ns = self.interval_ns(channel) or self._round_interval_ns()
            if self._is_alive(newest, now_ns) and newest.stamp_ns + interval_ns <= stamp_ns + half_ns:
                return True
        return False

    def _stamp_ns(self) -> int:
        """The pending round's stamp: the anchor's, if it is in it."""
        anchor = self._newest.get(self.rules.anchor)
        if anchor is not None and self._in_new_round(anchor):
            return anchor.stamp_ns
        return max(arrival.stamp_ns for arrival in self._newest.values() if self._in_new_round(arrival))

    def _finish(self, now_ns: int) -> None:
        """Ends the pending round: makes it the ready set, unless too few cameras are in it."""
        stamp_ns = self._stamp_ns()
        self._began_ns = None
        states = {channel: self._state(channel, stamp_ns) for channel in self.rules.channels}
        if self._is_one_clock_ahead(stamp_ns, states, now_ns):
            return
        self._last_stamp_ns = stamp_ns
        missing = [newest for channel, newest in self._newest.items() if states[channel] is CameraState.MISSING]
        self.counts.apart_ms = {newest.channel: (newest.stamp_ns - stamp_ns) / 1e6 for newest in missing}
        if list(states.values()).count(CameraState.FRESH) < self.rules.min_cameras:
            self.counts.too_few += 1
            return
        frames = {c: self._newest[c] for c, state in states.items() if state is not CameraState.MISSING}
        self.counts.dropped += self._ready is not None and self._is_wanted(self._ready.stamp_ns)
        self.counts.partial += len(frames) < len(states)
        self._ready = ReadySet(self.counts.sets, stamp_ns, now_ns, frames, states)
        self.counts.sets += 1

    def _is_one_clock_ahead(self, stamp_ns: int, states: Mapping[str, CameraState], now_ns: int) -> bool:
        """Whether time seems to have gone far ahead, but most cameras that are alive do not say so."""
        if self._last_stamp_ns is None or stamp_ns - self._last_stamp_ns <= self.rules.max_age_ms * 1e6:
            return False
        alive = [channel for channel, newest in self._newest.items() if self._is_alive(newest, now_ns)]
        return 2 * sum(states[channel] is CameraState.FRESH for channel in alive) < len(alive)

    def _is_alive(self, newest: Arrival[Payload], now_ns: int) -> bool:
        interval_ns = self.interval_ns(newest.channel) or self._round_interval_ns()
        return now_ns - newest.arrived_ns <= _DEAD_AFTER * interval_ns

    def _state(self, channel: str, stamp_ns: int) -> CameraState:
        newest = self._newest.get(channel)
        return CameraState.MISSING if newest is None else state_at(newest.stamp_ns, stamp_ns, self.rules)


def state_at(frame_stamp_ns: int, set_stamp_ns: int, rules: SyncRules) -> CameraState:
    """Says whether a frame is fresh, stale or of no use for a set."""
    age_ms = (set_stamp_ns - frame_stamp_ns) / 1e6
    if abs(age_ms) <= rules.max_time_diff_ms:
        return CameraState.FRESH
    return CameraState.STALE if 0 < age_ms <= rules.max_age_ms else CameraState.MISSING
