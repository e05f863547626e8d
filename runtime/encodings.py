"""Pixels of raw camera messages: the encodings of ROS's sensor_msgs/Image, turned into RGB.

Names are those of sensor_msgs/image_encodings.hpp. Luma and chroma are BT.601's in video range, as cv_bridge takes them.

Shape letters: H image height, W image width, R rows in memory, C bytes of a pixel in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import RgbImage

_Pixels = npt.NDArray[np.uint8]  # [R, W, C]


@dataclass(frozen=True)
class _Layout:
    """How an encoding lies in memory: `row_px_bytes` is C; chroma of planar ones adds half as many rows below the image's.

    `even_width`, `even_height`: neighbours share their chroma. `least_px`: the smallest side that can be converted.
    `convert` turns [R, W, C] into [H, W, 3].
    """

    row_px_bytes: int
    convert: Callable[[_Pixels], RgbImage]
    even_width: bool = False
    even_height: bool = False
    planar_chroma: bool = False
    least_px: int = 1

    def num_rows(self, height: int) -> int:
        """R, of an image of this height."""
        return height * 3 // 2 if self.planar_chroma else height


def check_layout(encoding: str, height: int, width: int, step: int, num_bytes: int, name: str) -> None:
    """Checks the fields of an image message without a look at its pixels; `name` says in the error whose it is.

    Raises:
        FrameError: an encoding that is not known here, or sizes that do not fit together.
    """
    layout = _layout(encoding, name)
    if min(height, width) < layout.least_px:
        least = f"{layout.least_px} x {layout.least_px} in {encoding}"
        raise FrameError(f"{name}: image is {width} x {height}, expected at least {least}: look at its driver")
    if (layout.even_width and width % 2) or (layout.even_height and height % 2):
        sides = "width and height" if layout.even_height else "width"
        raise FrameError(f"{name}: image is {width} x {height}, expected even {sides} in {encoding}: crop it, or send rgb8")
    row_bytes = width * layout.row_px_bytes
    if step < row_bytes:
        raise FrameError(
            f"{name}: step is {step} bytes, expected at least {row_bytes}, a row of {width} pixels in {encoding}: "
            f"mend width, step or encoding in its driver"
        )
    expected = step * layout.num_rows(height)
    if num_bytes != expected:
        raise FrameError(
            f"{name}: image data has {num_bytes} bytes, expected {expected}, {layout.num_rows(height)} rows of {step} bytes "
            f"in {encoding}: it was cut off, or its driver fills in a wrong size"
        )


def to_rgb(encoding: str, height: int, width: int, step: int, data: Any, name: str) -> RgbImage:
    """Turns the fields of an image message into [H, W, 3] uint8 RGB, C-contiguous.

    `data` is anything with a buffer: bytes, array.array, an array. rgb8 without padding between its rows is not copied: do not
    write to `data` while the image is in use. `step` is the length of a row in bytes; of planar encodings, of a row of luma.

    Raises:
        FrameError: see `check_layout`; or an encoding that needs OpenCV, where there is none.
    """
    check_layout(encoding, height, width, step, memoryview(data).nbytes, name)
    layout = _layout(encoding, name)
    rows = np.frombuffer(data, np.uint8).reshape(layout.num_rows(height), step)  # [R, step]
    pixels = rows[:, : width * layout.row_px_bytes].reshape(len(rows), width, layout.row_px_bytes)  # [R, W, C]
    try:
        return layout.convert(pixels)
    except ImportError as error:
        raise FrameError(
            f"{name}: {encoding} images need OpenCV, which cannot be imported ({error}): pip install opencv-python-headless, "
            f"or send rgb8"
        ) from error


def _layout(encoding: str, name: str) -> _Layout:
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise FrameError(
            f"{name}: got image encoding {encoding!r}, expected one of {', '.join(_LAYOUTS)}: let its driver send that"
        )
    return layout


def _as_it_is(pixels: _Pixels) -> RgbImage:
    return np.ascontiguousarray(pixels)


def _reordered(code: str, order: tuple[int, int, int], pixels: _Pixels) -> RgbImage:
    """Takes red, green and blue from these places of a pixel: by OpenCV where it is, in 0.1 to 0.3 ms (bgr8, 1600 x 900)."""
    try:
        return _by_opencv(code, pixels)
    except ImportError:
        return _picked(order, pixels)


def _picked(order: tuple[int, int, int], pixels: _Pixels) -> RgbImage:
    """The same by numpy. Four times as fast as one strided copy (2.4 ms)."""
    image = np.empty((*pixels.shape[:2], 3), np.uint8)
    for to, place in enumerate(order):
        image[..., to] = pixels[..., place]
    return image


def _by_opencv(code: str, pixels: _Pixels) -> RgbImage:
    import cv2  # here: a vehicle whose cameras send RGB does without it

    return np.asarray(cv2.cvtColor(pixels, getattr(cv2, code)), np.uint8)


def _bayer(code: str) -> _Layout:
    """OpenCV names a mosaic by the four pixels from the second row and column on, ROS by the first four.

    Of an image that is smaller than a pixel and its neighbours OpenCV makes a black one.
    """
    return _Layout(1, partial(_by_opencv, code), least_px=3)


_UYVY = _Layout(2, partial(_by_opencv, "COLOR_YUV2RGB_UYVY"), even_width=True)
_YUYV = _Layout(2, partial(_by_opencv, "COLOR_YUV2RGB_YUYV"), even_width=True)

_LAYOUTS = {
    "rgb8": _Layout(3, _as_it_is),
    "bgr8": _Layout(3, partial(_reordered, "COLOR_BGR2RGB", (2, 1, 0))),
    "rgba8": _Layout(4, partial(_reordered, "COLOR_RGBA2RGB", (0, 1, 2))),
    "bgra8": _Layout(4, partial(_reordered, "COLOR_BGRA2RGB", (2, 1, 0))),
    "mono8": _Layout(1, partial(_reordered, "COLOR_GRAY2RGB", (0, 0, 0))),
    "bayer_rggb8": _bayer("COLOR_BayerBG2RGB"),
    "bayer_bggr8": _bayer("COLOR_BayerRG2RGB"),
    "bayer_gbrg8": _bayer("COLOR_BayerGR2RGB"),
    "bayer_grbg8": _bayer("COLOR_BayerGB2RGB"),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Layout(1, partial(_by_opencv, "COLOR_YUV2RGB_NV12"), even_width=True, even_height=True, planar_chroma=True),
    "nv21": _Layout(1, partial(_by_opencv, "COLOR_YUV2RGB_NV21"), even_width=True, even_height=True, planar_chroma=True),
}
