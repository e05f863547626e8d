"""runtime/frames.py: decoding, camera order, missing cameras and the errors that a bad image gives."""

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from leo_edge.runtime.errors import FrameError, LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet, decode_image, load_frame, load_frames, read_image

RGB = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)


def frame(channel: str, stamp_ns: int = 0) -> CameraFrame:
    return CameraFrame(channel, RGB, stamp_ns)


def jpeg_bytes(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def one_line(error: pytest.ExceptionInfo[FrameError]) -> bool:
    return "\n" not in str(error.value)


class TestReadImage:
    def test_png_keeps_every_value(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, RGB)
        assert not np.array_equal(image[..., ::-1], RGB)  # RGB, not BGR

    def test_jpeg_equals_pil(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg_bytes(Image.fromarray(RGB)))
        with Image.open(path) as picture:
            np.testing.assert_array_equal(read_image(str(path)), np.array(picture.convert("RGB")))

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
    def test_other_8_bit_modes_become_rgb(self, tmp_path: Path, mode: str) -> None:
        picture = Image.fromarray(RGB).convert(mode)
        picture.save(tmp_path / "a.tiff")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), np.array(picture.convert("RGB")))

    def test_exif_orientation_is_not_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees to show
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg_bytes(Image.fromarray(RGB), exif=exif))
        assert read_image(path).shape == RGB.shape

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FrameError, match=r"^no image file .*nothing\.jpg: check the path$"):
            read_image(tmp_path / "nothing.jpg")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FrameError, match=r"^no image file .*\(it is a folder\)$"):
            read_image(tmp_path)

    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.jpg").touch()
        monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
        with pytest.raises(FrameError, match=r"^cannot read image file .*a\.jpg \(Permission denied\): check its permissions$"):
            read_image(tmp_path / "a.jpg")

    def test_zero_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").touch()
        with pytest.raises(FrameError, match=r"^image file .*a\.jpg has 0 bytes, expected a JPEG or PNG: copy it again$"):
            read_image(tmp_path / "a.jpg")

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("text.jpg", b"not an image\nat all\n", "cannot identify image"),
            ("cut.jpg", jpeg_bytes(Image.fromarray(np.tile(RGB, (20, 20, 1))))[:6000], "truncated"),
            ("header.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ""),
        ],
    )
    def test_undecodable(self, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FrameError, match=rf"^cannot decode image .*{re.escape(name)}, .*{reason}.*: copy it") as error:
            read_image(tmp_path / name)
        assert one_line(error)

    @pytest.mark.parametrize("length", range(1, 400, 7))
    def test_png_cut_anywhere_is_one_line(self, tmp_path: Path, length: int) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:length])
        with pytest.raises(FrameError, match="cannot decode image") as error:
            read_image(tmp_path / "a.png")
        assert one_line(error)

    def test_16_bit_is_refused_instead_of_clipped(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
        with pytest.raises(FrameError, match=r"pixel mode I;16.*, expected 8 bits per channel: convert it"):
            read_image(tmp_path / "a.png")

    def test_too_large_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(FrameError, match=r"cannot decode image .*decompression bomb"):
            read_image(tmp_path / "a.png")

    def test_load_frame(self, tmp_path: Path) -> None:
        Image.fromarray(RGB).save(tmp_path / "a.png")
        loaded = load_frame("CAM_BACK", tmp_path / "a.png", stamp_ns=7)
        assert (loaded.channel, loaded.stamp_ns, loaded.width, loaded.height) == ("CAM_BACK", 7, 16, 9)
        assert loaded.intrinsic is None
        assert loaded.sensor_from_ego is None


class TestDecodeImage:
    """Bytes that are in memory: the same pixels and the same errors as those of a file."""

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
    def test_pixels_are_those_of_the_file(self, tmp_path: Path, form: str) -> None:
        Image.fromarray(RGB).save(tmp_path / "a", form)
        image = decode_image((tmp_path / "a").read_bytes(), "CAM_FRONT")
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, read_image(tmp_path / "a"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "image CAM_FRONT has 0 bytes, expected a JPEG or PNG: send it again"),
            (
                b"nothing",
                r"cannot decode image CAM_FRONT, expected a whole JPEG or PNG \(cannot identify image file\): send it",
            ),
            (jpeg_bytes(Image.fromarray(RGB))[:-100], r"cannot decode image CAM_FRONT, .* \(.*truncated.*\): send it again"),
        ],
    )
    def test_undecodable(self, content: bytes, message: str) -> None:
        with pytest.raises(FrameError, match=f"^{message}") as error:
            decode_image(content, "CAM_FRONT")
        assert one_line(error)

    def test_16_bit_is_refused_instead_of_clipped(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(buffer, "PNG")
        with pytest.raises(FrameError, match=r"^image CAM_FRONT has pixel mode I;16.*, expected 8 bits per channel: convert"):
            decode_image(buffer.getvalue(), "CAM_FRONT")


class TestCameraFrame:
    def test_is_frozen(self) -> None:
        with pytest.raises(AttributeError):
            frame("CAM_FRONT").stamp_ns = 3  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("image", "text"),
        [
            (RGB.astype(np.float32), r"CAM_FRONT: image must be uint8 \[H, W, 3\] in RGB, got float32 \[9, 16, 3\]"),
            (RGB[..., 0], r"got uint8 \[9, 16\]"),
            (np.zeros((9, 16, 4), np.uint8), r"got uint8 \[9, 16, 4\]: convert"),
            (np.zeros((0, 16, 3), np.uint8), r"at least one pixel, got \[0, 16, 3\]"),
            (RGB[:, ::-1], "must be C-contiguous, got strides .*: use np.ascontiguousarray"),
            ([[[0, 0, 0]]], "must be a uint8 array .*, got list"),
        ],
    )
    def test_wrong_image(self, image: Any, text: str) -> None:
        with pytest.raises(FrameError, match=text):
            CameraFrame("CAM_FRONT", image)

    def test_matrices_are_kept(self) -> None:
        intrinsic = np.array([[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]])
        sensor_from_ego = np.eye(4)
        got = CameraFrame("CAM_FRONT", RGB, 0, intrinsic, sensor_from_ego)
        assert got.intrinsic is intrinsic
        assert got.sensor_from_ego is sensor_from_ego

    @pytest.mark.parametrize(
        ("intrinsic", "text"),
        [
            (np.eye(4), r"CAM_FRONT: intrinsic must be float64 \[3, 3\] or None, got float64 \[4, 4\]"),
            (np.eye(3, dtype=np.float32), r"got float32 \[3, 3\]"),
            (np.diag([np.nan, 1, 1]), "intrinsic must be finite, got .*: use None for an uncalibrated camera"),
            (np.zeros((3, 3)), r"must end in the row \[0.0, 0.0, 1.0\], got \[0.0, 0.0, 0.0\]"),
            ([[1]], "got list"),
        ],
    )
    def test_wrong_intrinsic(self, intrinsic: Any, text: str) -> None:
        with pytest.raises(FrameError, match=text):
            CameraFrame("CAM_FRONT", RGB, intrinsic=intrinsic)

    def test_transposed_transform(self) -> None:
        transform = np.eye(4)
        transform[3, :3] = 1.5, 0, 1.6
        with pytest.raises(FrameError, match=r"sensor_from_ego must end in the row .*: is it transposed\?"):
            CameraFrame("CAM_FRONT", RGB, sensor_from_ego=transform)

    def test_wrong_stamp_and_channel(self) -> None:
        with pytest.raises(FrameError, match="stamp_ns must be at least 0, got -1"):
            frame("CAM_FRONT", -1)
        with pytest.raises(FrameError, match="needs a channel name such as 'CAM_FRONT', got an empty one"):
            frame("")


class TestFrameSet:
    def test_default_order_is_drivelms(self) -> None:
        sides = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK", "BACK_LEFT", "BACK_RIGHT")
        assert tuple(f"CAM_{side}" for side in sides) == NUSCENES_CAMERAS

    def test_orders_by_camera_not_by_arrival(self) -> None:
        arrived = [frame(channel, stamp) for stamp, channel in enumerate(reversed(NUSCENES_CAMERAS))]
        got = FrameSet.of(arrived)
        assert got.channels == NUSCENES_CAMERAS
        assert got.channels != tuple(f.channel for f in arrived)
        assert got.missing == ()
        assert got.stamp_ns == 5  # the newest
        got.require_complete()

    def test_names_what_is_missing_in_camera_order(self) -> None:
        got = FrameSet.of([frame("CAM_BACK"), frame("CAM_FRONT")], stamp_ns=9)
        assert got.channels == ("CAM_FRONT", "CAM_BACK")
        assert got.missing == ("CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
        assert got.stamp_ns == 9
        with pytest.raises(
            FrameError,
            match=r"^no frame of CAM_FRONT_LEFT, CAM_FRONT_RIGHT, CAM_BACK_LEFT, CAM_BACK_RIGHT: got 2 of 6 expected "
            "cameras; give the missing frames or expect only CAM_FRONT, CAM_BACK$",
        ):
            got.require_complete()

    def test_other_cameras(self) -> None:
        assert FrameSet.of([frame("left"), frame("right")], expected_channels=("right", "left")).channels == (
            "right",
            "left",
        )

    def test_frames_are_read_only_and_apart_from_the_callers(self) -> None:
        mine = {"CAM_FRONT": frame("CAM_FRONT")}
        got = FrameSet(mine, 0)
        mine.clear()
        assert got.channels == ("CAM_FRONT",)
        with pytest.raises(TypeError):
            got.frames["CAM_BACK"] = frame("CAM_BACK")  # type: ignore[index]

    def test_unexpected_camera(self) -> None:
        with pytest.raises(FrameError, match=r"got a frame of CAM_ROOF, expected cameras are CAM_FRONT, .*: leave"):
            FrameSet.of([frame("CAM_ROOF")])

    def test_two_frames_of_one_camera(self) -> None:
        with pytest.raises(FrameError, match="got two frames of CAM_FRONT, expected one: keep the newest"):
            FrameSet.of([frame("CAM_FRONT"), frame("CAM_FRONT", 1)])

    def test_camera_expected_twice(self) -> None:
        with pytest.raises(FrameError, match="expected_channels names a camera twice: a, b, a"):
            FrameSet.of([frame("a")], expected_channels=("a", "b", "a"))

    def test_no_frame(self) -> None:
        with pytest.raises(FrameError, match=r"at least one camera frame, got none \(missing: CAM_FRONT, "):
            FrameSet.of([])

    def test_contradictions(self) -> None:
        with pytest.raises(FrameError, match="frame of CAM_FRONT is filed under CAM_BACK"):
            FrameSet({"CAM_BACK": frame("CAM_FRONT")}, 0)
        with pytest.raises(FrameError, match="CAM_BACK cannot have a frame and be missing"):
            FrameSet({"CAM_BACK": frame("CAM_BACK")}, 0, ("CAM_BACK",))
        with pytest.raises(FrameError, match="stamp_ns of a frame set must be at least 0, got -5"):
            FrameSet({"CAM_BACK": frame("CAM_BACK")}, -5)


def test_frame_error_is_an_expected_failure() -> None:
    assert issubclass(FrameError, LeoEdgeError)


class TestLoadFrames:
    def test_frames_come_in_order_and_are_read_side_by_side(self) -> None:
        together = Barrier(3)

        def load(channel: str) -> CameraFrame:
            together.wait(timeout=10)  # one after another, the first would wait for ever
            return frame(channel)

        loads = [partial(load, channel) for channel in ("C", "A", "B")]
        assert [each.channel for each in load_frames(loads)] == ["C", "A", "B"]

    def test_the_first_that_fails_says_why(self, tmp_path: Path) -> None:
        loads: list[Callable[[], CameraFrame]] = [partial(frame, "A")]
        loads += [partial(load_frame, channel, tmp_path / f"{channel}.jpg") for channel in ("B", "C")]
        with pytest.raises(FrameError, match=r"no image file .*B\.jpg"):
            load_frames(loads)

    def test_none(self) -> None:
        assert load_frames([]) == []
