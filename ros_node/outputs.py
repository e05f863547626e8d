"""The node's publishers, fed from the worker's thread."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leo_edge_msgs.msg import AnswerPiece, DegradeState, SceneAnswer
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String

from leo_edge.ros_node.health import Health
from leo_edge.ros_node.messages import (
    answer_message,
    degrade_message,
    header,
    image_message,
    piece_message,
    stage_latencies,
)
from leo_edge.ros_node.outlet import AnswerReport, SetReport
from leo_edge.ros_node.overlay import Mosaic
from leo_edge.ros_node.worker import ASK_ID

if TYPE_CHECKING:
    from rclpy.node import Node

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_ANSWERS_DEPTH = 10


class Outputs:
    """Publishes what the worker reports (see `outlet.Outlet`), and notes it in `health`."""

    def __init__(self, node: Node, health: Health, frame_id: str) -> None:
        self.always_run = self.publish_overlay = False
        self._node, self._health, self._frame_id = node, health, frame_id
        self._answer = node.create_publisher(SceneAnswer, "~/output/answer", _ANSWERS_DEPTH)
        self._text = node.create_publisher(String, "~/output/answer_text", _ANSWERS_DEPTH)
        self._piece = node.create_publisher(AnswerPiece, "~/output/answer_piece", 100)
        self._degrade = node.create_publisher(DegradeState, "~/output/degrade", _LATCHED)
        self._overlay = node.create_publisher(Image, "~/output/overlay", 1)
        self._latency: dict[str, Any] = {}
        self._mosaic = Mosaic()
        self._lines: dict[str, str] = {}
        self.on_degrade(0, (), "nothing was given up yet")

    def destroy(self) -> None:
        """Takes the publishers down."""
        for publisher in (self._answer, self._text, self._piece, self._degrade, self._overlay, *self._latency.values()):
            self._node.destroy_publisher(publisher)

    def wanted(self) -> bool:
        """Whether anybody listens, or answers are wanted always."""
        return self.always_run or any(
            publisher.get_subscription_count() for publisher in (self._answer, self._text, self._piece, self._overlay)
        )

    def on_answer(self, report: AnswerReport) -> None:
        """Publishes an answer, as text too."""
        now_ns = self._node.get_clock().now().nanoseconds
        self._answer.publish(answer_message(report, self._frame_id, now_ns, time.perf_counter_ns()))
        line = f"{report.answer.question} {report.answer.text}"
        self._text.publish(String(data=line))
        self._lines[report.question_id] = line
        latencies = stage_latencies(report.answer.spans)
        latencies |= {"first_token": report.answer.first_token_ms, "since_set": report.since_ms}
        cut = report.answer.finish.value == "deadline"
        self._health.answer(latencies, time.perf_counter_ns(), late=not report.deadline_met, cut=cut)
        if report.question_id == ASK_ID:
            self._health.counts["asks"] += 1
        self._publish_latencies(latencies)

    def on_piece(self, stamp_ns: int, question_id: str, index: int, text: str, *, last: bool) -> None:
        """Publishes a piece of an answer, if anybody listens."""
        if self._piece.get_subscription_count():
            head = header(stamp_ns, self._frame_id)
            self._piece.publish(piece_message(head, question_id, index, text, last=last))

    def on_set(self, report: SetReport) -> None:
        """Publishes the latencies of a set, and the overlay."""
        latencies = stage_latencies(report.encoded.tokens.spans)
        latencies |= {"waited": report.encoded.waited_ms, "set": (report.done_ns - report.taken_ns) / 1e6}
        self._health.set_done(latencies, time.perf_counter_ns())
        self._publish_latencies(latencies)
        if self.publish_overlay and self._overlay.get_subscription_count():
            image = self._mosaic.draw(report.encoded, list(self._lines.values()))
            self._overlay.publish(image_message(image, header(report.encoded.stamp_ns, self._frame_id)))

    def on_degrade(self, level: int, steps: tuple[str, ...], reason: str) -> None:
        """Publishes where on the ladder the node stands."""
        head = header(self._node.get_clock().now().nanoseconds, self._frame_id)
        self._degrade.publish(degrade_message(head, level, steps, reason))
        if steps or self._health.level:
            self._node.get_logger().warning(f"degrade level {level}: {reason}")
            self._health.degraded(level, steps)

    def on_camera_error(self, channel: str, message: str) -> None:
        """Notes a camera's trouble; the log has it once, not once a frame."""
        if self._health.camera_error(channel, message, time.perf_counter_ns()):
            self._node.get_logger().error(message)

    def on_error(self, message: str) -> None:
        """Notes another trouble."""
        self._health.error(message, time.perf_counter_ns())
        self._node.get_logger().error(message)

    def _publish_latencies(self, latencies: Mapping[str, float]) -> None:
        for name, ms in latencies.items():
            if name not in self._latency:
                topic = re.sub(r"\W", "_", name)
                self._latency[name] = self._node.create_publisher(Float64, f"~/latency/{topic}_ms", 1)
            self._latency[name].publish(Float64(data=ms))
