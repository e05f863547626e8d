"""What a camera message brought, held as it came until somebody wants its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from leo_edge.runtime.encodings import check_layout, to_rgb
from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import Matrix, RgbImage, decode_image


@dataclass(frozen=True)
class CameraInfo:
    """A camera's size and intrinsic [3, 3]; None where it is not calibrated."""

    width: int
    height: int
    intrinsic: Matrix | None

    @classmethod
    def of(cls, width: int, height: int, k: Any) -> CameraInfo:
        """From the fields of sensor_msgs/CameraInfo: an uncalibrated camera has K[0] = 0."""
        intrinsic = np.array(k, np.float64).reshape(3, 3)
        return cls(width, height, intrinsic if intrinsic[0, 0] else None)


class Picture(Protocol):
    """A camera's image, not decoded yet."""

    def check(self, channel: str, info: CameraInfo | None) -> None:
        """Checks what can be checked without a look at the pixels.

        Raises:
            FrameError: it is no image that can be read, or not of the size that camera_info says.
        """

    def decode(self, channel: str, info: CameraInfo | None) -> RgbImage:
        """Returns its pixels [H, W, 3].

        Raises:
            FrameError: they cannot be read, or the size is not the one that camera_info says.
        """


@dataclass(frozen=True, eq=False)
class RawPicture:
    """The fields of sensor_msgs/Image; `data` is the message's own buffer."""

    encoding: str
    height: int
    width: int
    step: int
    data: Any

    def check(self, channel: str, info: CameraInfo | None) -> None:
        """Checks encoding, size and length."""
        check_layout(self.encoding, self.height, self.width, self.step, len(self.data), channel)
        check_size(channel, self.width, self.height, info)

    def decode(self, channel: str, info: CameraInfo | None) -> RgbImage:  # noqa: ARG002 - checked on arrival
        """Converts to RGB; an rgb8 image without padding is a view of the message."""
        return to_rgb(self.encoding, self.height, self.width, self.step, self.data, channel)


@dataclass(frozen=True, eq=False)
class CompressedPicture:
    """The bytes of sensor_msgs/CompressedImage, whatever its `format` calls them."""

    data: Any

    def check(self, channel: str, info: CameraInfo | None) -> None:  # noqa: ARG002 - the size is in the bytes
        """Checks that there are any bytes."""
        if len(self.data) == 0:
            raise FrameError(f"{channel}: a compressed image has 0 bytes, expected a JPEG or PNG: look at its driver")

    def decode(self, channel: str, info: CameraInfo | None) -> RgbImage:
        """Decodes a JPEG or PNG."""
        image = decode_image(bytes(self.data), channel)
        check_size(channel, image.shape[1], image.shape[0], info)
        return image


def check_size(channel: str, width: int, height: int, info: CameraInfo | None) -> None:
    """Checks an image's size against camera_info; one of 0 x 0 says nothing.

    Raises:
        FrameError: they differ.
    """
    if info is not None and (info.width, info.height) not in ((0, 0), (width, height)):
        raise FrameError(
            f"{channel}: image is {width} x {height}, its camera_info says {info.width} x {info.height}: "
            f"they belong to different streams, or one was resized; give those that belong together"
        )
