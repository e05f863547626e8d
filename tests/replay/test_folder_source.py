"""replay/folder_source.py: folders as drives, against the devkit's view of the same scene."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leo_edge.replay.folder_source import FolderOptions
from leo_edge.replay.source import Drive, plan_sets
from leo_edge.runtime.errors import DatasetError
from tests.replay.folders import write_drive, write_video


def image_folder(directory: Path, channel: str, count: int = 4) -> None:
    (directory / channel).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(directory / channel / f"{i}.png")


def folder(directory: Path, **more: object) -> Path:
    """Camera A at 10 images a second from 0 on, camera B as a video 20 ms later, both of four frames."""
    image_folder(directory, "A")
    write_video(directory / "B.mkv", [np.full((6, 8, 3), (0, i, 0), np.uint8) for i in range(4)], [0, 100, 200, 300])
    cameras = {"A": {"images": "A/*.png", "hz": 10}, "B": {"video": "B.mkv", "start_ns": 20_000_000}}
    return write_drive(directory, cameras, **more)


def shape(drive: Drive) -> list[tuple[str, float, str | None]]:
    return [(ref.channel, ref.stamp_ns / 1e6, ref.sample) for ref in drive.frames]


def test_images_and_videos_are_frames_by_stamp(tmp_path: Path) -> None:
    source = FolderOptions((folder(tmp_path / "d"),)).open()
    drive = source.drive("d")
    assert drive.channels == ("A", "B")
    assert [ref.channel for ref in drive.frames] == ["A", "B"] * 4
    assert [ref.stamp_ns // 1_000_000 for ref in drive.frames] == [0, 20, 100, 120, 200, 220, 300, 320]
    for i, planned in enumerate(plan_sets(drive)):
        frames = planned.load().frames
        assert (frames["A"].image[0, 0].tolist(), frames["B"].image[0, 0].tolist()) == ([i, 0, 0], [0, i, 0])
        assert frames["B"].stamp_ns == planned.stamp_ns == (100 * i + 20) * 1_000_000


def test_a_keyframe_takes_the_nearest_frame_of_each_camera_within_the_tolerance(tmp_path: Path) -> None:
    source = FolderOptions((folder(tmp_path / "d", keyframes={"k": 106_000_000, "l": 301_000_000}),)).open()
    assert shape(source.drive("d")) == [("A", 100, "k"), ("B", 120, "k"), ("A", 300, "l"), ("B", 320, "l")]
    near = FolderOptions((folder(tmp_path / "d", keyframes={"k": 106_000_000}, keyframe_tolerance_ms=10),)).open()
    (planned,) = plan_sets(near.drive("d"))
    assert planned.load().missing == ("B",)
    assert planned.stamp_ns == 106_000_000


def test_all_frames_of_a_folder_with_keyframes(tmp_path: Path) -> None:
    options = FolderOptions((folder(tmp_path / "d", keyframes={"k": 106_000_000}),), all_frames=True)
    assert [sample for _, _, sample in shape(options.open().drive("d"))] == [None, None, "k", "k", None, None, None, None]


def test_cameras_are_chosen_and_ordered(tmp_path: Path) -> None:
    path = folder(tmp_path / "d")
    assert FolderOptions((path,), channels=("B", "A")).open().drive("d").channels == ("B", "A")
    assert {ref.channel for ref in FolderOptions((path,), channels=("B",)).open().drive("d").frames} == {"B"}
    with pytest.raises(DatasetError, match=r"no camera C in .*/d: its cameras are A, B"):
        FolderOptions((path,), channels=("A", "C")).open()


def test_drives_have_the_names_of_their_folders_and_are_described_by_what_they_say(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two", keyframes={"k": 0})
    source = FolderOptions((two, one)).open()
    assert source.drive_names() == ("two", "one")
    assert source.describe() != FolderOptions((one, two)).open().describe()
    assert source.describe() == FolderOptions((two, one)).open().describe()
    moved = (tmp_path / "one").rename(tmp_path / "elsewhere")
    assert FolderOptions((two, moved)).open().describe() == source.describe()


class TestRefused:
    def test_two_folders_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="two folders have one name, which names the drive"):
            FolderOptions((folder(tmp_path / "a" / "d"), folder(tmp_path / "b" / "d"))).open()

    def test_no_such_drive(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no drive 'e': there is d"):
            FolderOptions((folder(tmp_path / "d"),)).open().drive("e")

    def test_two_keyframes_with_one_image(self, tmp_path: Path) -> None:
        source = FolderOptions((folder(tmp_path / "d", keyframes={"k": 100_000_000, "l": 104_000_000}),)).open()
        with pytest.raises(DatasetError, match="keyframes k and l have the same image of A: take one of them out, or set"):
            source.drive("d")

    def test_a_keyframe_without_an_image(self, tmp_path: Path) -> None:
        source = FolderOptions((folder(tmp_path / "d", keyframes={"k": 900_000_000}),)).open()
        with pytest.raises(DatasetError, match="keyframe k at 900000000 ns has no image within 50 ms: mend its stamp, or set"):
            source.drive("d")

    def test_an_image_that_is_gone(self, tmp_path: Path) -> None:
        planned = plan_sets(FolderOptions((folder(tmp_path / "d"),)).open().drive("d"))
        (tmp_path / "d" / "A" / "2.png").unlink()
        with pytest.raises(Exception, match=r"no image file .*/A/2\.png: check the path"):
            planned[2].load()
