"""runtime/encodings.py: pixels of raw camera messages against PIL, a mosaic made by its name, and BT.601's formula."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from leo_edge.runtime.encodings import check_layout, to_rgb
from leo_edge.runtime.errors import FrameError

Bytes2d = npt.NDArray[np.uint8]  # rows in memory, [R, step]

PIL_MODES = {"rgb8": ("RGB", 3), "bgr8": ("BGR", 3), "rgba8": ("RGBX", 4), "bgra8": ("BGRX", 4)}
MOSAICS = ("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8")
YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21")
HEIGHT, WIDTH = 6, 8
NOISE = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)


def gradient(height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    """A picture whose colours change slowly and differ in every channel, [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    picture: npt.NDArray[np.uint8] = np.stack([20 + 8 * x, 200 - 9 * y, 90 + 3 * x + 4 * y], axis=-1).astype(np.uint8)
    return picture


def mosaic(picture: npt.NDArray[np.uint8], encoding: str) -> Bytes2d:
    """What a sensor sees of a picture through the filter that `encoding` spells: two colours of one row, two of the next."""
    pattern = encoding.removeprefix("bayer_").removesuffix("8")
    rows = np.empty(picture.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        y, x = divmod(place, 2)
        rows[y::2, x::2] = picture[y::2, x::2, "rgb".index(colour)]
    return rows


def yuv_rows(picture: npt.NDArray[np.uint8], encoding: str, *, full_range: bool = False) -> Bytes2d:
    """A picture by BT.601's formula (ITU-R BT.601-7, section 2.5.3); each chroma is that of the block's first pixel."""
    red, green, blue = np.moveaxis(picture.astype(np.float64), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    scale, offset, chroma_scale = (1.0, 0.0, 255) if full_range else (219 / 255, 16.0, 224)
    y = np.rint(offset + scale * luma).astype(np.uint8)
    u = np.rint(128 + chroma_scale * (blue - luma) / 1.772 / 255).astype(np.uint8)
    v = np.rint(128 + chroma_scale * (red - luma) / 1.402 / 255).astype(np.uint8)
    if encoding.startswith("nv"):
        first, second = (u, v) if encoding == "nv12" else (v, u)
        chroma = np.stack([first[::2, ::2], second[::2, ::2]], axis=-1).reshape(len(y) // 2, -1)
        return np.concatenate([y, chroma])
    pairs = [u[:, ::2], y[:, ::2], v[:, ::2], y[:, 1::2]]
    pairs = pairs if encoding in ("yuv422", "uyvy") else [pairs[i] for i in (1, 0, 3, 2)]
    rows: Bytes2d = np.stack(pairs, axis=-1).reshape(len(y), -1)
    return rows


def blocks(height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    """The gradient in blocks of 2 x 2 pixels, which lose nothing by sharing their chroma."""
    return gradient(height // 2, width // 2).repeat(2, axis=0).repeat(2, axis=1)


def rows_of(encoding: str) -> Bytes2d:
    """Some image in an encoding, without padding."""
    if encoding == "mono8":
        return NOISE[..., 0].copy()
    if encoding in PIL_MODES:
        return NOISE[..., : PIL_MODES[encoding][1]].reshape(HEIGHT, -1).copy()
    return mosaic(gradient(), encoding) if encoding in MOSAICS else yuv_rows(blocks(), encoding)


def rgb_of(encoding: str, rows: Bytes2d, height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    image = to_rgb(encoding, height, width, rows.shape[1], np.ascontiguousarray(rows), "CAM_FRONT")
    assert (str(image.dtype), image.shape, image.flags.c_contiguous) == ("uint8", (height, width, 3), True)
    return image


def worst(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(left.astype(int) - right).max())


@pytest.mark.parametrize("encoding", PIL_MODES)
def test_interleaved_colours_are_those_that_pil_reads(encoding: str) -> None:
    rows = rows_of(encoding)
    expected = np.asarray(Image.frombytes("RGB", (WIDTH, HEIGHT), rows.tobytes(), "raw", PIL_MODES[encoding][0]))
    np.testing.assert_array_equal(rgb_of(encoding, rows), expected)
    assert worst(expected, expected[..., ::-1]) > 100  # red is not blue here


def test_grey_is_the_same_in_all_channels() -> None:
    rows = rows_of("mono8")
    np.testing.assert_array_equal(rgb_of("mono8", rows), np.asarray(Image.fromarray(rows).convert("RGB")))


@pytest.mark.parametrize("encoding", MOSAICS)
def test_a_mosaic_by_ros_name_is_the_picture_that_it_was_made_of(encoding: str) -> None:
    flat = np.broadcast_to(np.array([200, 100, 30], np.uint8), (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(rgb_of(encoding, mosaic(flat, encoding)), flat)
    inner = (slice(2, -2), slice(2, -2))
    assert worst(rgb_of(encoding, mosaic(gradient(), encoding))[inner], gradient()[inner]) <= 2
    for other in set(MOSAICS) - {encoding}:
        assert worst(rgb_of(encoding, mosaic(flat, other)), flat) >= 70, other


@pytest.mark.parametrize("encoding", YUV)
def test_luma_and_chroma_are_bt601_in_video_range(encoding: str) -> None:
    assert worst(rgb_of(encoding, yuv_rows(blocks(), encoding)), blocks()) <= 2
    assert worst(rgb_of(encoding, yuv_rows(blocks(), encoding, full_range=True)), blocks()) > 10


@pytest.mark.parametrize(("encoding", "other"), [("uyvy", "yuyv"), ("yuyv", "uyvy"), ("nv12", "nv21"), ("nv21", "nv12")])
def test_an_encoding_is_not_its_neighbour(encoding: str, other: str) -> None:
    assert worst(rgb_of(encoding, yuv_rows(blocks(), other)), blocks()) > 20


@pytest.mark.parametrize("encoding", [*PIL_MODES, "mono8", *MOSAICS, *YUV])
@pytest.mark.parametrize("num_bytes", [1, 5, 64])
def test_padding_of_rows_is_left_out(encoding: str, num_bytes: int) -> None:
    rows = rows_of(encoding)
    padded = np.concatenate([rows, np.full((len(rows), num_bytes), 255, np.uint8)], axis=1)
    np.testing.assert_array_equal(rgb_of(encoding, padded), rgb_of(encoding, rows))
    shifted = np.roll(padded, 1, axis=1)
    assert not np.array_equal(rgb_of(encoding, shifted), rgb_of(encoding, rows))


class TestMemory:
    def test_rgb8_without_padding_is_not_copied(self) -> None:
        data = array.array("B", rows_of("rgb8").tobytes())
        image = to_rgb("rgb8", HEIGHT, WIDTH, 3 * WIDTH, data, "CAM_FRONT")
        assert np.shares_memory(image, np.frombuffer(data, np.uint8))
        data[0] ^= 255
        assert image[0, 0, 0] == data[0]

    @pytest.mark.parametrize(("encoding", "padding"), [("rgb8", 1), ("bgr8", 0)])
    def test_what_has_to_be_moved_is_copied(self, encoding: str, padding: int) -> None:
        data = np.zeros((HEIGHT, 3 * WIDTH + padding), np.uint8)
        assert not np.shares_memory(to_rgb(encoding, HEIGHT, WIDTH, data.shape[1], data, "CAM_FRONT"), data)

    @pytest.mark.parametrize("holder", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
    @pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "bayer_rggb8", "nv12"])
    def test_any_buffer_will_do(self, encoding: str, holder: Callable[[bytes], Any]) -> None:
        rows = rows_of(encoding)
        image = to_rgb(encoding, HEIGHT, WIDTH, rows.shape[1], holder(rows.tobytes()), "CAM_FRONT")
        np.testing.assert_array_equal(image, rgb_of(encoding, rows))


class TestOpenCv:
    def test_that_is_not_installed_is_told_where_it_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        for encoding in (*MOSAICS, *YUV):
            with pytest.raises(
                FrameError, match=rf"^CAM_FRONT: {encoding} images need OpenCV, which cannot be .*\): pip install"
            ):
                rgb_of(encoding, rows_of(encoding))

    @pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (1, 1), (1, WIDTH), (HEIGHT, 1)])
    @pytest.mark.parametrize("encoding", [*PIL_MODES, "mono8"])
    def test_is_not_needed_for_the_others_and_makes_the_same_of_them(
        self, monkeypatch: pytest.MonkeyPatch, encoding: str, height: int, width: int
    ) -> None:
        rows = rows_of(encoding)[:height]  # of a narrow image, the rest of each row is padding
        with_opencv = rgb_of(encoding, rows, height, width)
        monkeypatch.setitem(sys.modules, "cv2", None)
        np.testing.assert_array_equal(rgb_of(encoding, rows, height, width), with_opencv)


REFUSED = [
    ("16UC1", 6, 8, 16, 96, r"got image encoding '16UC1', expected one of rgb8, bgr8, .*, nv21: let its driver send that"),
    ("", 6, 8, 8, 48, "got image encoding '', expected one of rgb8"),
    ("rgb8", 0, 8, 24, 0, "image is 8 x 0, expected at least 1 x 1 in rgb8: look at its driver"),
    ("rgb8", 6, 0, 24, 144, "image is 0 x 6, expected at least 1 x 1"),
    ("bayer_rggb8", 2, 8, 8, 16, "image is 8 x 2, expected at least 3 x 3 in bayer_rggb8"),
    ("rgb8", 6, 8, 23, 138, "step is 23 bytes, expected at least 24, a row of 8 pixels in rgb8: mend width, step or encoding"),
    ("bgra8", 6, 8, 24, 144, "step is 24 bytes, expected at least 32, a row of 8 pixels in bgra8"),
    ("yuyv", 6, 8, 8, 48, "step is 8 bytes, expected at least 16"),
    ("rgb8", 6, 8, 24, 143, "image data has 143 bytes, expected 144, 6 rows of 24 bytes in rgb8: it was cut off, or"),
    ("rgb8", 6, 8, 24, 145, "image data has 145 bytes, expected 144"),
    ("rgb8", 6, 8, 24, 0, "image data has 0 bytes, expected 144"),
    ("nv12", 6, 8, 8, 48, "image data has 48 bytes, expected 72, 9 rows of 8 bytes in nv12"),
    ("nv12", 6, 7, 8, 72, "image is 7 x 6, expected even width and height in nv12: crop it, or send rgb8"),
    ("nv21", 5, 8, 8, 60, "image is 8 x 5, expected even width and height in nv21"),
    ("yuv422", 5, 7, 14, 70, "image is 7 x 5, expected even width in yuv422"),
]


@pytest.mark.parametrize(("encoding", "height", "width", "step", "num_bytes", "message"), REFUSED)
def test_fields_that_do_not_fit_together(
    encoding: str, height: int, width: int, step: int, num_bytes: int, message: str
) -> None:
    with pytest.raises(FrameError, match=f"^CAM_FRONT: {message}") as on_arrival:
        check_layout(encoding, height, width, step, num_bytes, "CAM_FRONT")
    with pytest.raises(FrameError) as later:
        to_rgb(encoding, height, width, step, bytes(num_bytes), "CAM_FRONT")
    assert str(later.value) == str(on_arrival.value)
    assert "\n" not in str(later.value)


@pytest.mark.parametrize("encoding", [*PIL_MODES, "mono8", *MOSAICS, *YUV])
def test_fields_that_fit_together(encoding: str) -> None:
    rows = rows_of(encoding)
    check_layout(encoding, HEIGHT, WIDTH, rows.shape[1], rows.size, "CAM_FRONT")


def test_odd_heights_are_even_enough_for_pairs_in_a_row() -> None:
    picture = blocks()[:5]
    assert worst(rgb_of("uyvy", yuv_rows(picture, "uyvy"), height=5), picture) <= 2
