"""What the node's tests share: streams of frames on a made-up clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from leo_edge.ros_node.synchronizer import Arrival, ReadySet, Synchronizer, SyncRules, Taken

CAMERAS = ("front", "left", "right", "back")
RULES = SyncRules(CAMERAS, anchor="front")
MS = 1_000_000
PERIOD_MS = 1000 / 12
START_MS = 1_700_000_000_000.0  # the cameras' clock and the machine's have nothing in common

Event = tuple[float, str, float]
"""When a frame arrives, its camera, its stamp: all in milliseconds."""


def fire(
    seconds: float,
    *,
    cameras: Iterable[str] = CAMERAS,
    period_ms: float = PERIOD_MS,
    stagger_ms: float = 0.0,
    start_ms: float = START_MS,
    keep: Callable[[str, int], bool] = lambda _channel, _number: True,
) -> list[Event]:
    """Frames of cameras that fire one after another, `stagger_ms` apart, and take 5 ms to arrive."""
    events = []
    for number in range(round(seconds * 1000 / period_ms)):
        for i, channel in enumerate(cameras):
            at = number * period_ms + i * stagger_ms
            if keep(channel, number):
                events.append((at + 5, channel, start_ms + at))
    return sorted(events)


def run(
    events: Iterable[Event], rules: SyncRules = RULES, sync: Synchronizer[str] | None = None, *, every_ms: float = 1.0
) -> tuple[list[ReadySet[str]], Synchronizer[str]]:
    """Plays events and takes each set as soon as it is there, as a worker would that is never busy."""
    sync = Synchronizer(rules) if sync is None else sync
    sets: list[ReadySet[str]] = []
    now_ms = 0.0

    def look() -> None:
        sync.settle(round(now_ms * MS))
        if (ready := sync.take()) is not None:
            sets.append(ready)

    for at, channel, stamp in events:
        while now_ms + every_ms < at:
            now_ms += every_ms
            look()
        now_ms = at
        sync.add(Arrival(channel, round(stamp * MS), round(at * MS), f"{channel} {stamp:.0f}"))
        look()
    for _ in range(200):
        now_ms += every_ms
        look()
    return sets, sync


def left_out(sync: Synchronizer[str], taken: Taken) -> int:
    """How many frames came to this."""
    return sum(count for (_, what), count in sync.counts.frames.items() if what is taken)
