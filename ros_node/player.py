"""Plays a recorded drive into ROS: images, camera_info, static transforms and, if wanted, the time, with their true stamps."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from PIL import Image as PilImage
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from leo_edge.ros_node.messages import camera_info_message, header, image_message, to_time
from leo_edge.runtime.frames import CameraFrame, Matrix

if TYPE_CHECKING:
    from rclpy.node import Node

_FRAMES_AHEAD = 12
_CLOCK_STEP_S = 0.01
_JPEG_QUALITY = 95
_RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class RecordedFrame(Protocol):
    """A frame of a drive that is not read yet."""

    @property
    def channel(self) -> str:
        """Its camera."""

    @property
    def stamp_ns(self) -> int:
        """When the camera fired."""

    @property
    def load(self) -> Callable[[], CameraFrame]:
        """Reads it."""


@dataclass(frozen=True)
class PlayOptions:
    """How a drive is played. `rate`: seconds of the drive in one; `prefix`: where the cameras' topics are."""

    prefix: str = "/leo_edge/input"
    rate: float = 1.0
    compressed: bool = False
    clock: bool = False
    base_frame: str = "base_link"


class Player:
    """Publishes the frames of drives, one drive after another."""

    def __init__(self, node: Node, channels: Sequence[str], options: PlayOptions) -> None:
        self._node, self._options = node, options
        kind, suffix = (CompressedImage, "/image/compressed") if options.compressed else (Image, "/image")
        base = options.prefix
        self._images: dict[str, Any] = {c: node.create_publisher(kind, f"{base}/{c}{suffix}", _RELIABLE) for c in channels}
        self._infos: dict[str, Any] = {
            c: node.create_publisher(CameraInfo, f"{base}/{c}/camera_info", _RELIABLE) for c in channels
        }
        self._clock: Any = node.create_publisher(Clock, "/clock", _RELIABLE) if options.clock else None
        self._transforms = _TransformPublisher(node)

    def wait_for_listeners(self, num: int, timeout_s: float) -> bool:
        """Waits until every camera has so many subscribers; says whether it came to that."""
        end = time.monotonic() + timeout_s
        while not all(publisher.get_subscription_count() >= num for publisher in self._images.values()):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def play(self, frames: Sequence[RecordedFrame]) -> Iterator[CameraFrame]:
        """Publishes frames when they are due, and yields each one after that."""
        first_ns, start = frames[0].stamp_ns, time.monotonic()
        for frame in _loaded_ahead(frames):
            self._wait_until(start, first_ns, frame.stamp_ns)
            self._publish(frame)
            yield frame

    def _wait_until(self, start: float, first_ns: int, stamp_ns: int) -> None:
        """Sleeps until a frame is due, and tells the time meanwhile."""
        due = start + (stamp_ns - first_ns) / 1e9 / self._options.rate
        while self._clock is not None and (left := due - time.monotonic()) > 0:
            self._tell_time(stamp_ns - round(left * self._options.rate * 1e9))
            time.sleep(min(left, _CLOCK_STEP_S))
        time.sleep(max(0.0, due - time.monotonic()))
        if self._clock is not None:
            self._tell_time(stamp_ns)

    def _tell_time(self, time_ns: int) -> None:
        self._clock.publish(Clock(clock=to_time(time_ns)))

    def _publish(self, frame: CameraFrame) -> None:
        head = header(frame.stamp_ns, frame.channel)
        if frame.sensor_from_ego is not None:
            self._transforms.add(frame.channel, self._options.base_frame, frame.sensor_from_ego, frame.stamp_ns)
        self._infos[frame.channel].publish(camera_info_message(frame, head))
        if self._options.compressed:
            self._images[frame.channel].publish(CompressedImage(header=head, format="jpeg", data=_jpeg(frame)))
        else:
            self._images[frame.channel].publish(image_message(frame.image, head))


class _TransformPublisher:
    """Publishes each camera's place on the vehicle once, on /tf_static."""

    def __init__(self, node: Node) -> None:
        self._transforms: dict[str, Any] = {}
        try:
            from pyquaternion import Quaternion  # where there are nuScenes drives, it is there too
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            node.get_logger().warning(f"{error.name} is not installed: no static transforms are published")
            self._publisher = None
            return
        self._quaternion, self._kind = Quaternion, TFMessage
        self._publisher = node.create_publisher(TFMessage, "/tf_static", _LATCHED)

    def add(self, channel: str, base_frame: str, sensor_from_ego: Matrix, stamp_ns: int) -> None:
        """Publishes the transforms that are known, if this one is new."""
        if self._publisher is None or channel in self._transforms:
            return
        ego_from_sensor = np.linalg.inv(sensor_from_ego)
        x, y, z = ego_from_sensor[:3, 3].tolist()
        w, i, j, k = self._quaternion(matrix=ego_from_sensor[:3, :3], rtol=1e-4, atol=1e-6).elements.tolist()
        self._transforms[channel] = TransformStamped(
            header=header(stamp_ns, base_frame),
            child_frame_id=channel,
            transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(w=w, x=i, y=j, z=k)),
        )
        self._publisher.publish(self._kind(transforms=list(self._transforms.values())))


def _loaded_ahead(frames: Sequence[RecordedFrame]) -> Iterator[CameraFrame]:
    """Yields frames that threads read ahead."""
    with ThreadPoolExecutor(2, "load") as pool:
        waiting: list[Future[CameraFrame]] = []
        left = iter(frames)
        try:
            while True:
                while len(waiting) < _FRAMES_AHEAD and (ref := next(left, None)) is not None:
                    waiting.append(pool.submit(ref.load))
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _jpeg(frame: CameraFrame) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(frame.image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
