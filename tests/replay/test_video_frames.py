"""replay/video_frames.py against FFmpeg's own library: pixels and stamps, in any order, and broken files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from leo_edge.replay.video_frames import VideoFrames
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import RgbImage
from tests.replay.folders import write_video

UNEVEN_MS = [0, 83, 170, 250, 420, 500, 583, 700, 1000]


def images(count: int = len(UNEVEN_MS)) -> list[RgbImage]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    write_video(tmp_path / "exact.mkv", images(), UNEVEN_MS)
    return tmp_path / "exact.mkv"


def test_frames_are_those_that_were_written_in_any_order(exact: Path) -> None:
    video, written = VideoFrames(exact), images()
    for number in (0, 1, 5, 8, 2, 2, 7, 0):
        frame = video.frame(number)
        np.testing.assert_array_equal(frame, written[number])
        assert frame.flags.c_contiguous
    assert not np.array_equal(video.frame(3), written[4])


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("b.mp4", "mpeg4"), ("c.mp4", "libx264"), ("d.mkv", "libx264")])
def test_uneven_stamps_are_kept(tmp_path: Path, name: str, codec: str) -> None:
    write_video(tmp_path / name, images(), UNEVEN_MS, codec)
    assert VideoFrames(tmp_path / name).stamps_ns == tuple(stamp * 1_000_000 for stamp in UNEVEN_MS)


def test_lossy_video_gives_what_ffmpeg_gives(tmp_path: Path) -> None:
    smooth = [np.full((48, 64, 3), (20 * i, 255 - 20 * i, 128), np.uint8) for i in range(9)]
    write_video(tmp_path / "v.mp4", smooth, UNEVEN_MS, "libx264")
    with av.open(str(tmp_path / "v.mp4")) as file:
        reference = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]
    video = VideoFrames(tmp_path / "v.mp4")
    for number, expected in enumerate(reference):
        assert np.abs(video.frame(number).astype(int) - expected).max() <= 2


def test_a_rotation_in_the_file_is_not_applied(tmp_path: Path) -> None:
    """As in `read_image`: a camera's intrinsic belongs to the image as the sensor wrote it."""
    source, turned = tmp_path / "a.mp4", tmp_path / "turned.mp4"
    write_video(source, images(), UNEVEN_MS, "mpeg4")
    raw = bytearray(source.read_bytes())
    identity = b"".join(value.to_bytes(4, "big") for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000))
    quarter = b"".join((value % 2**32).to_bytes(4, "big") for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000))
    place = raw.index(identity, raw.index(b"tkhd"))
    raw[place : place + len(identity)] = quarter
    turned.write_bytes(raw)
    assert cv2.VideoCapture(str(turned)).get(cv2.CAP_PROP_ORIENTATION_META) == 90
    assert VideoFrames(turned).frame(0).shape == (48, 64, 3)


def test_threads_share_a_video(exact: Path) -> None:
    video, written = VideoFrames(exact), images()
    numbers = [int(number) for number in np.random.default_rng(7).permutation(np.tile(np.arange(9), 6))]
    with ThreadPoolExecutor(4) as pool:
        for number, frame in zip(numbers, pool.map(video.frame, numbers), strict=True):
            np.testing.assert_array_equal(frame, written[number])


class TestBroken:
    def test_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "v.mp4").write_text("hello")
        with pytest.raises(DatasetError, match=r"cannot open video .*v\.mp4: it is cut off, or no video that OpenCV's FFmpeg"):
            VideoFrames(tmp_path / "v.mp4")

    def test_cut_off_in_its_middle(self, tmp_path: Path) -> None:
        write_video(tmp_path / "v.mkv", images(48), [83 * i for i in range(48)])
        raw = (tmp_path / "v.mkv").read_bytes()
        (tmp_path / "v.mkv").write_bytes(raw[: len(raw) // 2])
        with pytest.raises(
            DatasetError, match=r"v\.mkv is 4\.0 s long, its last frame that can be decoded is at [12]\.\d s: it is"
        ):
            VideoFrames(tmp_path / "v.mkv")

    def test_gone_while_it_is_read(self, exact: Path) -> None:
        video = VideoFrames(exact)
        exact.write_bytes(exact.read_bytes()[:2000])
        with pytest.raises(DatasetError, match=r"exact\.mkv"):
            [video.frame(number) for number in (8, 0, 8)]
