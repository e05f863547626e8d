"""replay/source.py: which frames go to the model together, and when they are all there."""

import pytest

from leo_edge.replay.source import PlannedSet, plan_sets
from leo_edge.runtime.errors import DatasetError
from tests.replay.drives import MS, drive_of, ref


def shape(planned: PlannedSet) -> tuple[str, float, str | None]:
    """Which cameras, complete at which millisecond, of which keyframe."""
    return "".join(one.channel for one in planned.frames), planned.ready_ns / MS, planned.sample


def test_a_keyframe_is_one_set_with_its_samples_stamp_and_is_there_with_its_last_image() -> None:
    drive = drive_of(ref("B", 95, "k0"), ref("A", 100, "k0"), ref("C", 130, "k0"), ref("A", 600, "k1"), ref("B", 601, "k1"))
    first, second = plan_sets(drive)
    assert (shape(first), shape(second)) == (("BAC", 130, "k0"), ("AB", 601, "k1"))
    assert first.stamp_ns == drive.sample_stamps_ns["k0"]
    frame_set = second.load()
    assert (frame_set.channels, frame_set.missing) == (("A", "B"), ("C",))
    assert frame_set.stamp_ns == drive.sample_stamps_ns["k1"]


def test_between_keyframes_a_set_is_complete_when_every_camera_has_fired() -> None:
    drive = drive_of(*(ref(channel, 83 * i + 10 * j) for i in range(3) for j, channel in enumerate("ABC")))
    assert [shape(planned) for planned in plan_sets(drive)] == [("ABC", 20, None), ("ABC", 103, None), ("ABC", 186, None)]


def test_a_camera_that_stalls_is_waited_for_only_until_another_fires_again() -> None:
    drive = drive_of(ref("A", 0), ref("B", 1), ref("A", 83), ref("B", 84), ref("C", 85), ref("A", 166), ref("B", 167))
    sets = plan_sets(drive)
    assert [shape(planned) for planned in sets] == [("AB", 1, None), ("ABC", 85, None), ("AB", 167, None)]
    assert [planned.load().missing for planned in sets] == [("C",), (), ("C",)]


def test_late_frames_between_keyframes_do_not_tear_a_keyframe_apart() -> None:
    drive = drive_of(ref("A", 0), ref("B", 1), ref("A", 80, "k"), ref("C", 81), ref("B", 90, "k"), ref("C", 95, "k"))
    assert [shape(planned) for planned in plan_sets(drive)] == [("ABC", 81, None), ("ABC", 95, "k")]


def test_every_frame_is_in_exactly_one_set_and_sets_are_in_the_order_in_which_they_are_complete() -> None:
    refs = [ref("ABC"[i * 7 % 3], i * 11 % 101, f"k{i // 9}" if i % 3 == 0 else None) for i in range(60)]
    of_keyframes = {(one.channel, one.sample): one for one in refs if one.sample}.values()
    drive = drive_of(*of_keyframes, *(one for one in refs if not one.sample))
    sets = plan_sets(drive)
    assert sorted(one.stamp_ns for planned in sets for one in planned.frames) == sorted(one.stamp_ns for one in drive.frames)
    assert [planned.ready_ns for planned in sets] == sorted(planned.ready_ns for planned in sets)
    assert [planned.number for planned in sets] == list(range(len(sets)))


def test_a_drive_without_frames_is_refused() -> None:
    with pytest.raises(DatasetError, match="drive empty has no camera frame of A, B, C: give other cameras"):
        drive_of(name="empty")
