"""Camera frames as they come from the vehicle: decoded images with their own stamps, gathered into one set.

Shape letters: H image height, W image width.
"""

import io
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.jpeg import decode_jpeg

RgbImage = npt.NDArray[np.uint8]  # [H, W, 3]
Matrix = npt.NDArray[np.float64]  # [3, 3] or [4, 4]

# The order in which DriveLM's baseline shows the cameras to the model; the order of the prompt and of every batch.
NUSCENES_CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_LEFT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)

# The size of their images, which stands for a rig's where nothing is said of it.
NUSCENES_PX = (1600, 900)

# Modes that PIL turns into 8-bit RGB without clipping values. 16-bit and float images are not among them.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

# What PIL raises for a file that it cannot decode, found by format: SyntaxError and struct.error come from PNG headers.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One image of one camera.

    image: [H, W, 3] uint8, RGB, C-contiguous. It is held, not copied: do not write to it afterwards.
    stamp_ns: when the camera fired, in nanoseconds.
    intrinsic: [3, 3] float64, pixels from camera coordinates; None where the camera is not calibrated.
    sensor_from_ego: [4, 4] float64, camera coordinates from vehicle coordinates, in metres; None where unknown.

    Raises:
        FrameError: a field has another type, shape or memory layout than said here.
    """

    channel: str
    image: RgbImage
    stamp_ns: int = 0
    intrinsic: Matrix | None = None
    sensor_from_ego: Matrix | None = None

    def __post_init__(self) -> None:
        if not self.channel:
            raise FrameError("a camera frame needs a channel name such as 'CAM_FRONT', got an empty one")
        if self.stamp_ns < 0:
            raise FrameError(f"{self.channel}: stamp_ns must be at least 0, got {self.stamp_ns}")
        check_rgb(self.image, self.channel)
        if self.intrinsic is not None:
            _check_matrix(self.intrinsic, 3, f"{self.channel}: intrinsic")
        if self.sensor_from_ego is not None:
            _check_matrix(self.sensor_from_ego, 4, f"{self.channel}: sensor_from_ego")

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return int(self.image.shape[0])


@dataclass(frozen=True, eq=False)
class FrameSet:
    """The newest frame of each camera, in camera order, and the cameras that have none.

    frames: by channel, at least one; kept as a read-only mapping in the order given.
    stamp_ns: the stamp of the set, from which the age of each camera counts.
    missing: the expected cameras that have no frame, in camera order.

    Raises:
        FrameError: no frame at all, a frame under another channel's name, or a camera both there and missing.
    """

    frames: Mapping[str, CameraFrame]
    stamp_ns: int
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.frames:
            raise FrameError(f"a frame set needs at least one camera frame, got none (missing: {_listed(self.missing)})")
        for channel, frame in self.frames.items():
            if channel != frame.channel:
                raise FrameError(f"frame of {frame.channel} is filed under {channel}: file it under its own channel")
        if both := [channel for channel in self.missing if channel in self.frames]:
            raise FrameError(f"{_listed(both)} cannot have a frame and be missing: take it out of one of the two")
        if self.stamp_ns < 0:
            raise FrameError(f"stamp_ns of a frame set must be at least 0, got {self.stamp_ns}")
        object.__setattr__(self, "frames", MappingProxyType(dict(self.frames)))

    @classmethod
    def of(
        cls,
        frames: Iterable[CameraFrame],
        *,
        expected_channels: Iterable[str] = NUSCENES_CAMERAS,
        stamp_ns: int | None = None,
    ) -> "FrameSet":
        """Puts `frames` into the order of `expected_channels` and notes which of these have none.

        Without `stamp_ns` the set takes the stamp of its newest frame.

        Raises:
            FrameError: no frame at all, two frames of one camera, or a frame of a camera that is not expected.
        """
        order = tuple(expected_channels)
        if len(set(order)) != len(order):
            raise FrameError(f"expected_channels names a camera twice: {_listed(order)}")
        by_channel: dict[str, CameraFrame] = {}
        for frame in frames:
            if frame.channel not in order:
                raise FrameError(
                    f"got a frame of {frame.channel}, expected cameras are {_listed(order)}: "
                    f"leave the frame out or name its camera in expected_channels"
                )
            if frame.channel in by_channel:
                raise FrameError(f"got two frames of {frame.channel}, expected one: keep the newest")
            by_channel[frame.channel] = frame
        missing = tuple(channel for channel in order if channel not in by_channel)
        if stamp_ns is None:
            stamp_ns = max((frame.stamp_ns for frame in by_channel.values()), default=0)
        return cls({c: by_channel[c] for c in order if c in by_channel}, stamp_ns, missing)

    @property
    def channels(self) -> tuple[str, ...]:
        """The cameras that have a frame, in camera order."""
        return tuple(self.frames)

    def require_complete(self) -> None:
        """Checks that every expected camera has a frame.

        Raises:
            FrameError: a camera is missing.
        """
        if self.missing:
            num_expected = len(self.frames) + len(self.missing)
            raise FrameError(
                f"no frame of {_listed(self.missing)}: got {len(self.frames)} of {num_expected} expected cameras; "
                f"give the missing frames or expect only {_listed(self.frames)}"
            )


def check_rgb(image: RgbImage, name: str) -> None:
    """Checks that `image` is [H, W, 3] uint8, not empty and C-contiguous; `name` says in the error whose it is.

    Raises:
        FrameError: it is not.
    """
    if not isinstance(image, np.ndarray):
        raise FrameError(f"{name}: image must be a uint8 array [H, W, 3], got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(
            f"{name}: image must be uint8 [H, W, 3] in RGB, got {image.dtype} {list(image.shape)}: "
            f"convert it to 8-bit RGB first"
        )
    if image.size == 0:
        raise FrameError(f"{name}: image must have at least one pixel, got {list(image.shape)}")
    if not image.flags.c_contiguous:
        raise FrameError(f"{name}: image must be C-contiguous, got strides {image.strides}: use np.ascontiguousarray")


def read_image(path: str | PathLike[str]) -> RgbImage:
    """Decodes an image file into [H, W, 3] uint8 RGB; see `decode_image`.

    Raises:
        FrameError: the file is absent, or not an image that can be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise FrameError(f"no image file {path}: check the path" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"cannot read image file {path} ({error.strerror}): check its permissions") from error
    return decode_image(data, f"file {path}", mend="copy it again")


def decode_image(data: bytes, name: str, *, mend: str = "send it again") -> RgbImage:
    """Decodes a JPEG or PNG, or what else PIL knows, into [H, W, 3] uint8 RGB.

    Pixels come as the sensor wrote them: an EXIF orientation is not applied, because a camera's intrinsic belongs to
    the unrotated image. Grey and palette images become RGB, an alpha channel is left out.

    `name` says in the error whose image it is, `mend` what is to be done.

    Raises:
        FrameError: it is empty, truncated, not an image, or has more than 8 bits per channel.
    """
    if not data:
        raise FrameError(f"image {name} has 0 bytes, expected a JPEG or PNG: {mend}")
    if (image := decode_jpeg(data)) is not None:
        return image
    file = io.BytesIO(data)
    try:
        with Image.open(file) as picture:
            if picture.mode not in _EIGHT_BIT_MODES:
                raise FrameError(f"image {name} has pixel mode {picture.mode}, expected 8 bits per channel: convert it")
            picture.load()
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))  # [H, W, 3]
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).replace(repr(file), "").split())
        raise FrameError(f"cannot decode image {name}, expected a whole JPEG or PNG ({reason}): {mend}") from error


def load_frame(channel: str, path: str | PathLike[str], stamp_ns: int = 0) -> CameraFrame:
    """Reads the image of one camera from a file.

    Raises:
        FrameError: see `read_image`.
    """
    return CameraFrame(channel, read_image(path), stamp_ns)


def load_frames(loads: Sequence[Callable[[], CameraFrame]]) -> list[CameraFrame]:
    """Reads the frames of several cameras, each in a thread of its own: files and decoders work outside the interpreter lock.

    Raises:
        LeoEdgeError: what the first of `loads` that fails raises.
    """
    if not loads:
        return []
    with ThreadPoolExecutor(len(loads), "load") as pool:
        return [future.result() for future in [pool.submit(load) for load in loads]]


def _check_matrix(matrix: Matrix, size: int, name: str) -> None:
    """Checks for a finite float64 [size, size] whose last row is (0, .., 0, 1)."""
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float64 or matrix.shape != (size, size):
        got = f"{matrix.dtype} {list(matrix.shape)}" if isinstance(matrix, np.ndarray) else type(matrix).__name__
        raise FrameError(f"{name} must be float64 [{size}, {size}] or None, got {got}")
    if not np.isfinite(matrix).all():
        raise FrameError(f"{name} must be finite, got {matrix.tolist()}: use None for an uncalibrated camera")
    last_row = np.eye(size)[-1]
    if not np.array_equal(matrix[-1], last_row):
        raise FrameError(f"{name} must end in the row {last_row.tolist()}, got {matrix[-1].tolist()}: is it transposed?")


def _listed(channels: Iterable[str]) -> str:
    return ", ".join(channels) or "none"
