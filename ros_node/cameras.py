"""The node's subscriptions to cameras. A callback checks a message and stores it, and is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from leo_edge.ros_node.health import Health
from leo_edge.ros_node.inputs import CameraInfo as Info
from leo_edge.ros_node.inputs import CompressedPicture, Picture, RawPicture
from leo_edge.ros_node.messages import to_ns
from leo_edge.ros_node.worker import Worker
from leo_edge.runtime.errors import FrameError

if TYPE_CHECKING:
    from rclpy.node import Node

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # humble has it elsewhere
    from rclpy.qos_event import SubscriptionEventCallbacks


class CameraInputs:
    """Subscribes to every camera's image and camera_info, and hands frames to the worker."""

    def __init__(self, node: Node, worker: Worker, health: Health, transport: str, reliability: str) -> None:
        self._node, self._worker, self._health = node, worker, health
        qos = QoSProfile(
            depth=1,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.VOLATILE,
        )
        self._subscriptions: list[Any] = []
        for channel in worker.rules.channels:
            self._subscribe(channel, transport, qos)

    def destroy(self) -> None:
        """Takes the subscriptions down."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, channel: str, transport: str, qos: QoSProfile) -> None:
        base = f"~/input/{channel}"

        def on_image(message: Any) -> None:
            picture = RawPicture(message.encoding, message.height, message.width, message.step, message.data)
            self._take(channel, message.header.stamp, picture)

        def on_compressed(message: Any) -> None:
            self._take(channel, message.header.stamp, CompressedPicture(message.data))

        def on_info(message: Any) -> None:
            self._worker.set_info(channel, Info.of(message.width, message.height, message.k))

        events = SubscriptionEventCallbacks(incompatible_qos=self._mismatch_noter(channel))
        kind, topic, callback = (Image, f"{base}/image", on_image)
        if transport == "compressed":
            kind, topic, callback = (CompressedImage, f"{base}/image/compressed", on_compressed)
        create = self._node.create_subscription
        self._subscriptions += [
            create(kind, topic, callback, qos, event_callbacks=events),
            create(CameraInfo, f"{base}/camera_info", on_info, qos),
        ]

    def _mismatch_noter(self, channel: str) -> Callable[[Any], None]:
        def note(event: Any) -> None:
            policy = str(event.last_policy_kind).rpartition(".")[2].removeprefix("RMW_QOS_POLICY_").lower()
            self._health.qos_mismatch(channel, policy)
            self._node.get_logger().error(
                f"{channel}: a publisher offers another {policy} than is asked for, nothing comes from it: "
                f"set the parameter reliability as it has it"
            )

        return note

    def _take(self, channel: str, stamp: Any, picture: Picture) -> None:
        now_ns = time.perf_counter_ns()
        stamp_ns = to_ns(stamp)
        self._health.frame(channel, now_ns, zero_stamp=stamp_ns == 0)
        try:
            picture.check(channel, self._worker.info(channel))
        except FrameError as error:
            if self._health.camera_error(channel, str(error), now_ns):
                self._node.get_logger().error(str(error))
            return
        self._worker.offer(channel, stamp_ns or self._node.get_clock().now().nanoseconds, picture)
