"""ros_node/synchronizer.py: what cameras do, and which sets come of it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from leo_edge.ros_node.synchronizer import Arrival, CameraState, ReadySet, Synchronizer, SyncRules, Taken
from leo_edge.runtime.errors import FrameError
from tests.ros_node.streams import CAMERAS, MS, PERIOD_MS, RULES, START_MS, Event, fire, left_out, run

FRESH, STALE, MISSING = CameraState.FRESH, CameraState.STALE, CameraState.MISSING
WAIT_MS = RULES.max_wait_ms


def whole(sets: list[ReadySet[str]]) -> list[ReadySet[str]]:
    return [one for one in sets if not one.missing]


def waits_ms(sets: list[ReadySet[str]]) -> list[float]:
    """From the stamp of a set to its being ready, in milliseconds."""
    return [one.ready_ns / MS - (one.stamp_ns / MS - START_MS) for one in sets]


def test_cameras_that_fire_together_make_a_set_at_once() -> None:
    sets, sync = run(fire(2))
    assert len(whole(sets)) == 24
    assert max(waits_ms(sets)) < 6
    assert [set(one.states.values()) for one in sets] == [{FRESH}] * 24
    assert sync.counts.dropped == 0
    assert all(len({arrival.stamp_ns for arrival in one.frames.values()}) == 1 for one in sets)


def test_staggered_cameras_lose_no_set_and_are_not_mixed() -> None:
    sets, _ = run(fire(2, stagger_ms=10))
    assert len(whole(sets)) == 24
    for one in sets:
        assert one.stamp_ns == one.frames["front"].stamp_ns
        assert [round((arrival.stamp_ns - one.stamp_ns) / MS) for arrival in one.frames.values()] == [0, 10, 20, 30]


def test_the_anchor_may_be_the_last_to_fire() -> None:
    sets, _ = run(fire(2, stagger_ms=10), SyncRules(CAMERAS, anchor="back"))
    assert len(whole(sets)) == 24
    for one in sets:
        assert [round((arrival.stamp_ns - one.stamp_ns) / MS) for arrival in one.frames.values()] == [-30, -20, -10, 0]


@pytest.mark.parametrize("stagger_ms", [0, 10])
def test_one_frame_in_twenty_lost_loses_no_set(stagger_ms: float) -> None:
    lost = random.Random(0)
    gone = {(channel, number) for channel in CAMERAS for number in range(600) if lost.random() < 0.05}
    events = fire(50, stagger_ms=stagger_ms, keep=lambda channel, number: (channel, number) not in gone)
    sets, _ = run(events)
    assert len(gone) > 80
    assert len(whole(sets)) >= 598  # a set whose four frames are all lost is one that nobody can make
    assert max(waits_ms(sets)) < WAIT_MS + 50
    oldest_ms = max((one.stamp_ns - arrival.stamp_ns) / MS for one in sets for arrival in one.frames.values())
    assert oldest_ms < 2 * PERIOD_MS + 40


def test_a_dead_camera_costs_a_wait_and_then_nothing() -> None:
    events = fire(4, keep=lambda channel, number: channel != "left" or number < 12)
    sets, sync = run(events)
    assert len(sets) == 48
    states = [one.states["left"] for one in sets]
    assert states[:12] == [FRESH] * 12
    assert states[12:14] == [FRESH, STALE]  # 83 ms and 167 ms old
    assert states[12:].count(STALE) in (10, 11)  # up to a second old
    assert set(states[25:]) == {MISSING}
    assert max(waits_ms(sets[16:])) < 6
    assert sync.counts.partial == states.count(MISSING)


def test_a_camera_that_is_dead_at_the_start_is_missing() -> None:
    sets, _ = run(fire(2, cameras=("front", "left", "back")))
    assert len(sets) == 24
    assert {one.missing for one in sets} == {("right",)}
    assert waits_ms(sets)[0] == pytest.approx(WAIT_MS + 5, abs=2)
    assert max(waits_ms(sets[1:])) < 6


@pytest.mark.parametrize("dies_at", [0, 12])
def test_without_the_anchor_sets_go_on(dies_at: int) -> None:
    sets, _ = run(fire(4, stagger_ms=5, keep=lambda channel, number: channel != "front" or number < dies_at))
    assert len(sets) >= 46
    assert sets[-1].missing == ("front",)
    assert max(waits_ms(sets[-24:])) < WAIT_MS


def test_a_camera_that_returns_is_used_at_once() -> None:
    sets, _ = run(fire(6, keep=lambda channel, number: channel != "back" or not 12 <= number < 48))
    states = [one.states["back"] for one in sets]
    assert MISSING in states[12:48]
    assert states[48:] == [FRESH] * 24


def test_an_anchor_seen_for_the_second_time_after_a_silence_ends_no_round_that_others_began() -> None:
    sets, _ = run(fire(1, keep=lambda channel, number: channel != "front" or number in (0, 7)))
    assert [round(one.stamp_ns / MS - START_MS) for one in sets[:8]] == [round(number * PERIOD_MS) for number in range(8)]
    assert sets[7].states == dict.fromkeys(CAMERAS, FRESH)  # by then front's only interval is seven of the others'
    assert len(sets) > 8


@pytest.mark.parametrize(("share", "longest_ms"), [(0.3, 300), (0.6, 600), (0.9, 2500)])
def test_however_many_frames_are_lost_sets_go_on(share: float, longest_ms: float) -> None:
    for seed in range(8):
        lost = random.Random(seed)
        gone = {(channel, number) for channel in CAMERAS for number in range(120) if lost.random() < share}
        sets, _ = run(fire(10, stagger_ms=10, keep=lambda channel, number, gone=gone: (channel, number) not in gone))  # type: ignore[misc]
        stamps_ms = [one.stamp_ns / MS for one in sets]
        steps = [later - earlier for earlier, later in pairwise(stamps_ms)]
        assert 0 < min(steps) < max(steps) < longest_ms


def test_an_anchor_that_begins_late_loses_no_set() -> None:
    sets, _ = run(fire(4, keep=lambda channel, number: channel != "front" or number == 0 or number >= 24))
    assert len(sets) == 48
    assert {one.states["front"] for one in sets[24:]} == {FRESH}


def test_a_camera_at_half_rate_is_waited_for_only_when_it_is_due() -> None:
    sets, _ = run(fire(4, keep=lambda channel, number: channel != "left" or number % 2 == 0))
    assert len(whole(sets)) == 48
    settled = sets[8:]
    assert max(waits_ms(settled)) < 6
    assert {one.states["left"] for one in settled} == {FRESH}


def test_duplicates_and_late_frames_are_left_out() -> None:
    events: list[Event] = []
    for at, channel, stamp in fire(2):
        events += [(at, channel, stamp), (at + 1, channel, stamp), (at + 2, channel, stamp - 40)]
    sets, sync = run(sorted(events))
    assert len(whole(sets)) == 24
    assert left_out(sync, Taken.DUPLICATE) == left_out(sync, Taken.LATE) == 96
    assert sync.counts.jumps == 0


def test_a_jump_back_in_time_begins_anew() -> None:
    first = fire(2)
    again = [(at + 2000, channel, stamp - 10_000) for at, channel, stamp in fire(2)]
    sets, sync = run([*first, *again])
    stamps = [one.stamp_ns / MS for one in sets]
    assert len([stamp for stamp in stamps if stamp < START_MS]) == 24
    assert stamps[:24] == sorted(stamps[:24])
    assert sync.counts.jumps == 1
    for one in sets:
        assert len({arrival.stamp_ns for arrival in one.frames.values()}) == 1


def test_a_camera_whose_clock_runs_ahead_is_missing() -> None:
    events = [(at, channel, stamp + 5000 * (channel == "right")) for at, channel, stamp in fire(2)]
    sets, _ = run(events)
    assert len(sets) >= 23
    assert {one.missing for one in sets[1:]} == {("right",)}


def test_a_gap_in_time_makes_no_set_of_old_and_new_frames() -> None:
    later = [(at + 5000, channel, stamp + 5000) for at, channel, stamp in fire(2, cameras=("front", "left"))]
    sets, _ = run([*fire(2), *later])
    assert {one.missing for one in sets[25:]} == {("right", "back")}


def test_fewer_fresh_cameras_than_wanted_make_no_set() -> None:
    rules = SyncRules(CAMERAS, anchor="front", min_cameras=3)
    sets, sync = run(fire(2, cameras=("front", "left")), rules)
    assert sets == []
    assert sync.counts.too_few == 24


def test_the_newest_set_wins_and_the_others_count_as_dropped_if_they_were_wanted() -> None:
    for wanted in (True, False):
        sync: Synchronizer[str] = Synchronizer(RULES, [lambda _: False, lambda _: True][wanted])
        for at, channel, stamp in fire(1):
            sync.add(Arrival(channel, round(stamp * MS), round(at * MS), ""))
        ready = sync.take()
        assert ready is not None
        assert ready.number == 11
        assert sync.counts.dropped == (11 if wanted else 0)
        assert sync.take() is None


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"channels": ()}, "got none"),
        ({"channels": ("a", "a")}, "different names, got a, a"),
        ({"anchor": "top"}, "anchor_camera 'top' is none of the cameras: take one of front, left"),
        ({"min_cameras": 5}, "min_cameras must be 1 to 4"),
        ({"max_age_ms": 100.0}, "max_camera_age_ms must be at least max_camera_time_diff_ms 150, got 100"),
    ],
)
def test_rules_that_cannot_be(rules: dict[str, object], message: str) -> None:
    with pytest.raises(FrameError, match=message):
        SyncRules(**({"channels": CAMERAS, "anchor": "front"} | rules))  # type: ignore[arg-type]
