"""replay/bag_source.py: bags as drives, and the keyframes that recorded answers make of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from leo_edge.replay.bag_source import BagOptions
from leo_edge.replay.source import plan_sets
from leo_edge.runtime.errors import DatasetError
from tests.replay.bags import (
    MS,
    BagWriter,
    Given,
    frame,
    given,
    node_topic,
    open_drive,
    picture,
    rounds,
    shape,
    write_bag,
    write_drive_bag,
)


def _images(bag: BagWriter, *, stamps_ms: Sequence[int], received_ms: Sequence[int]) -> None:
    """Camera A's pictures 0, 1, .. with these stamps, received then."""
    for seed, (stamp, received) in enumerate(zip(stamps_ms, received_ms, strict=True)):
        bag.image("/A/image", picture(seed), stamp * MS, received * MS)


def describe(options: BagOptions) -> dict[str, str]:
    return options.open().describe()


class TestStamps:
    def test_are_the_headers_and_order_the_frames(self, tmp_path: Path) -> None:
        write = partial(_images, stamps_ms=(300, 100, 200), received_ms=(1000, 1001, 1002))
        drive = open_drive(write_bag(tmp_path / "d", write))
        assert shape(drive) == [("A", 100, None), ("A", 200, None), ("A", 300, None)]
        for ref, seed in zip(drive.frames, (1, 2, 0), strict=True):
            np.testing.assert_array_equal(ref.load().image, picture(seed))

    def test_that_are_zero_are_those_of_the_recorder(self, tmp_path: Path) -> None:
        path = write_bag(tmp_path / "d", partial(_images, stamps_ms=(0, 0), received_ms=(5, 6)))
        drive = open_drive(path)
        assert shape(drive) == [("A", 5, None), ("A", 6, None)]
        np.testing.assert_array_equal(drive.frames[1].load().image, picture(1))

    def test_that_repeat_are_taken_once_and_told(self, tmp_path: Path) -> None:
        def write(bag: BagWriter) -> None:
            for seed, received_ms in ((1, 100), (2, 101), (3, 100)):
                bag.image("/A/image", picture(seed), 90 * MS, received_ms * MS)
            bag.image("/B/image", picture(4), 90 * MS, 100 * MS)

        drive = open_drive(write_bag(tmp_path / "d", write))
        assert shape(drive) == [("A", 90, None), ("B", 90, None)]
        assert drive.notes == ("frames of A that repeat a stamp and are left out: 2",)
        np.testing.assert_array_equal(drive.frames[0].load().image, picture(1))

    def test_of_messages_received_at_once_tell_them_apart(self, tmp_path: Path) -> None:
        path = write_bag(tmp_path / "d", partial(_images, stamps_ms=(7, 5, 6), received_ms=(50, 50, 50)))
        for ref, seed in zip(open_drive(path).frames, (1, 2, 0), strict=True):
            np.testing.assert_array_equal(ref.load().image, picture(seed))


class TestKeyframes:
    def test_are_what_answers_are_about(self, tmp_path: Path) -> None:
        answers = [given(200, 200, 220), given(200, 200, 220, question_id="other"), given(300, 300, 220)]
        drive = open_drive(write_drive_bag(tmp_path / "d", rounds(4), answers))
        first, second = "d-200000000", "d-300000000"
        # The frame of B belongs to both.
        assert shape(drive) == [("A", 200, first), ("B", 220, first), ("B", 220, second), ("A", 300, second)]
        assert drive.sample_stamps_ns == {first: 200 * MS, second: 300 * MS}
        sets = plan_sets(drive)
        assert [(one.sample, one.stamp_ns, one.load().missing) for one in sets] == [
            (first, 200 * MS, ()),
            (second, 300 * MS, ()),
        ]
        assert {c: one.stamp_ns / MS for c, one in sets[1].load().frames.items()} == {"A": 300, "B": 220}

    def test_of_one_stamp_and_other_frames_are_told_apart(self, tmp_path: Path) -> None:
        answers = [given(200, 200, 220), given(200, 200, 120), given(200, 200, 220)]
        drive = open_drive(write_drive_bag(tmp_path / "d", rounds(), answers))
        assert drive.sample_stamps_ns == {"d-200000000": 200 * MS, "d-200000000-2": 200 * MS}
        assert shape(drive)[0] == ("B", 120, "d-200000000-2")

    def test_lack_the_cameras_that_were_missing_on_the_vehicle(self, tmp_path: Path) -> None:
        drive = open_drive(write_drive_bag(tmp_path / "d", rounds(), [given(200, 200, None)]))
        (planned,) = plan_sets(drive)
        assert (drive.notes, planned.load().missing, planned.load().channels) == ((), ("B",), ("A",))

    def test_have_their_cameras_in_the_order_of_the_prompt(self, tmp_path: Path) -> None:
        answer = Given(200 * MS, {"B": 220 * MS, "A": 200 * MS}, "yes")
        path = write_drive_bag(tmp_path / "d", [*rounds(), frame("C", 210)], [answer])
        assert open_drive(path).channels == ("B", "A")
        assert open_drive(path, all_frames=True).channels == ("B", "A")
        assert open_drive(path, channels=("A", "B")).channels == ("A", "B")

    def test_that_lack_frames_in_the_bag_say_so(self, tmp_path: Path) -> None:
        answers = [given(50, 50, 40), given(100, 100, 120), given(200, 201, 220)]
        drive = open_drive(write_drive_bag(tmp_path / "d", rounds(), answers))
        assert list(drive.sample_stamps_ns) == ["d-100000000", "d-200000000"]
        assert drive.notes == (
            "frames of A that were asked about and are not in it: 2",
            "frames of B that were asked about and are not in it: 1",
            "keyframes that have no frame in it and are left out: 1 of 3",
        )
        assert [one.load().missing for one in plan_sets(drive)] == [(), ("A",)]

    def test_lack_a_camera_that_was_not_recorded(self, tmp_path: Path) -> None:
        drive = open_drive(write_drive_bag(tmp_path / "d", rounds(channels="A"), [given(200, 200, 220)]))
        assert [one.load().missing for one in plan_sets(drive)] == [("B",)]
        assert drive.notes == ("frames of B that were asked about and are not in it: 1",)

    def test_are_not_those_of_cameras_that_were_not_chosen(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", rounds(), [given(200, 200, 220)])
        assert shape(open_drive(path, channels=("A",))) == [("A", 200, "d-200000000")]
        assert open_drive(path, channels=("A",)).notes == ()

    def test_are_none_where_all_frames_are_played(self, tmp_path: Path) -> None:
        drive = open_drive(write_drive_bag(tmp_path / "d", rounds(), [given(200, 200, 220)]), all_frames=True)
        assert (drive.sample_stamps_ns, {sample for _, _, sample in shape(drive)}) == ({}, {None})
        assert [(len(one.frames), one.stamp_ns / MS) for one in plan_sets(drive)] == [(2, 120), (2, 220), (2, 320)]

    def test_without_any_frame_are_refused(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", rounds(), [given(201, 201, 221)])
        with pytest.raises(
            DatasetError, match=r"none of the frames of A, B that the answers in bag .*/d are about is in it: pl"
        ):
            open_drive(path)

    def test_of_cameras_under_other_names_are_refused(self, tmp_path: Path) -> None:
        answer = Given(200 * MS, {"CAM_FRONT": 200 * MS}, "yes")
        path = write_drive_bag(tmp_path / "d", rounds(), [answer])
        with pytest.raises(
            DatasetError,
            match=r"are about CAM_FRONT, of which it has no images by that name: its cameras are A, B; name topics with "
            r"--camera-topics CAM_FRONT=TOPIC",
        ):
            open_drive(path)
        named = open_drive(path, topics={"CAM_FRONT": node_topic("A")})
        assert shape(named) == [("CAM_FRONT", 200, "d-200000000")]


class TestSource:
    def test_drives_have_the_names_of_their_bags_and_are_described_by_what_is_in_them(self, tmp_path: Path) -> None:
        one, two = write_drive_bag(tmp_path / "one", rounds()), write_drive_bag(tmp_path / "two", rounds(4))
        source = BagOptions((two, one)).open()
        assert source.drive_names() == ("two", "one")
        assert source.drive("one") is source.drive("one")
        assert source.describe() != BagOptions((one, two)).open().describe()
        assert source.describe() == BagOptions((two, one)).open().describe()
        for more in ({"all_frames": True}, {"channels": ("A",)}, {"topics": {"C": node_topic("A")}}):
            assert source.describe() != BagOptions((two, one), **more).open().describe()
        moved = one.rename(tmp_path / "elsewhere")
        assert BagOptions((two, moved)).open().describe() == source.describe()

    def test_options_can_be_sent_to_another_process(self, tmp_path: Path) -> None:
        options = BagOptions((write_drive_bag(tmp_path / "d", rounds()),), topics={"C": node_topic("A")})
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(describe, options).result() == describe(options)

    def test_two_bags_of_one_name(self, tmp_path: Path) -> None:
        paths = tuple(write_drive_bag(tmp_path / name / "d", rounds()) for name in "ab")
        with pytest.raises(DatasetError, match="two bags have one name, which names the drive: "):
            BagOptions(paths).open()

    def test_no_such_drive(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no drive 'e': there is d"):
            BagOptions((write_drive_bag(tmp_path / "d", rounds()),)).open().drive("e")
