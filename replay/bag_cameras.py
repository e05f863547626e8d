"""Which topics of a bag are whose images, and what is known of those cameras."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leo_edge.replay.bag import Bag, BagMessage
from leo_edge.runtime.encodings import to_rgb
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import CameraFrame, Matrix, RgbImage, decode_image

IMAGE, COMPRESSED, CAMERA_INFO = (f"sensor_msgs/msg/{kind}" for kind in ("Image", "CompressedImage", "CameraInfo"))
_COMPRESSED_TOPIC = "/compressed"
_IMAGE_TOPIC = re.compile(r"(?:.*/)?(?P<camera>[^/]+)/image(?:_raw|_color|_rect|_rect_color)?(?:/compressed)?")


@dataclass(frozen=True)
class Calibration:
    """What camera_info says: the intrinsic [3, 3] of images of a size."""

    width: int
    height: int
    intrinsic: Matrix


def camera_of(topic: str) -> str | None:
    """Returns the camera whose images a topic has by its name, as in /sensing/camera/front/image_raw/compressed: front."""
    found = _IMAGE_TOPIC.fullmatch(topic)
    return found["camera"] if found else None


def camera_topics(bag: Bag, given: Mapping[str, str], channels: Sequence[str] | None) -> dict[str, str]:
    """Returns the image topic of each of `channels`, or of all: the one that is given, or the one with the camera in its name.

    Where a camera has its images both raw and compressed, the raw ones are taken.

    Raises:
        DatasetError: no such topic or camera, or several topics for one.
    """
    images = bag.of_type(IMAGE, COMPRESSED)
    listed = ", ".join(images) or "none"
    if unknown := [topic for topic in given.values() if topic not in images]:
        raise DatasetError(f"no images of topic {', '.join(unknown)} in bag {bag.path}: its image topics are {listed}")
    if len(set(given.values())) < len(given):
        raise DatasetError(f"two cameras have one topic: {', '.join(f'{c}={topic}' for c, topic in given.items())}")
    named: dict[str, list[str]] = defaultdict(list)
    for topic in images:
        if topic not in given.values() and (camera := camera_of(topic)) is not None:
            named[camera].append(topic)
    there = list(dict.fromkeys([*given, *named]))
    if not there:
        raise DatasetError(
            f"no camera in bag {bag.path}: its image topics are {listed}, expected names such as "
            f"/sensing/camera/front/image_raw; name them with --camera-topics CAMERA=TOPIC"
        )
    if unknown := [channel for channel in channels or () if channel not in there]:
        raise DatasetError(
            f"no camera {', '.join(unknown)} in bag {bag.path}: its cameras are {', '.join(there)}; "
            f"name others with --camera-topics CAMERA=TOPIC"
        )
    return {channel: given.get(channel) or _one_of(bag, channel, named[channel]) for channel in channels or there}


def read_calibration(bag: Bag, image_topic: str) -> Calibration | None:
    """Returns what the first camera_info beside an image topic says; None: there is none, or the camera is uncalibrated."""
    topic = image_topic.removesuffix(_COMPRESSED_TOPIC).rpartition("/")[0] + "/camera_info"
    message = next(bag.messages([topic] if bag.topics.get(topic) == CAMERA_INFO else []), None)
    if message is None:
        return None
    info = message.content
    k = np.array(info.k if hasattr(info, "k") else info.K, np.float64)  # ROS 1 has a large one
    return Calibration(info.width, info.height, k.reshape(3, 3)) if k[0] else None


def read_frame(
    bag: Bag, channel: str, topic: str, received_ns: int, stamp_ns: int, calibration: Calibration | None
) -> CameraFrame:
    """Reads a frame from a bag. Its intrinsic is left out where it is that of another size of images.

    Raises:
        FrameError: its image cannot be read.
        DatasetError: the bag is not whole.
    """
    message = bag.read(topic, received_ns, stamp_ns)
    image = _decoded(message, bag.topics[topic], f"{channel} at {stamp_ns} ns in bag {bag.path}")
    fits = calibration is not None and (calibration.height, calibration.width) in ((0, 0), image.shape[:2])
    return CameraFrame(channel, image, stamp_ns, calibration.intrinsic if calibration is not None and fits else None)


def _decoded(message: BagMessage, kind: str, name: str) -> RgbImage:
    content = message.content
    if kind == COMPRESSED:
        return decode_image(content.data.tobytes(), name, mend="leave its camera out with --cameras, or record it again")
    return to_rgb(content.encoding, content.height, content.width, content.step, content.data, name)


def _one_of(bag: Bag, camera: str, topics: list[str]) -> str:
    """Returns a camera's topic of those whose names have the camera in them."""
    if len({topic.removesuffix(_COMPRESSED_TOPIC) for topic in topics}) > 1:
        raise DatasetError(
            f"bag {bag.path} has several topics for camera {camera}: {', '.join(topics)}; "
            f"choose with --camera-topics {camera}={topics[0]}, or leave it out with --cameras"
        )
    return min(topics, key=len)
