"""What the worker reports, as ROS messages."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from leo_edge_msgs.msg import AnswerPiece, CameraUse, DegradeState, SceneAnswer, StageLatency
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from leo_edge.ros_node.encoder import CameraUse as Use
from leo_edge.ros_node.health import Status
from leo_edge.ros_node.outlet import AnswerReport
from leo_edge.ros_node.synchronizer import CameraState
from leo_edge.runtime.frames import CameraFrame, RgbImage
from leo_edge.runtime.spans import Span

_NS = 1_000_000_000
# A stamp further from the node's clock than this is on another clock, such as a recording's without /clock.
_OTHER_CLOCK_NS = 60 * _NS


def to_time(stamp_ns: int) -> Time:
    """Returns nanoseconds as ROS has them."""
    return Time(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS)


def to_ns(stamp: Time) -> int:
    """Returns a ROS time in nanoseconds; one before 1970 is 0."""
    return max(0, int(stamp.sec) * _NS + int(stamp.nanosec))


def header(stamp_ns: int, frame_id: str) -> Header:
    """Returns a header."""
    return Header(stamp=to_time(stamp_ns), frame_id=frame_id)


def stage_latencies(spans: Iterable[Span]) -> dict[str, float]:
    """Returns milliseconds by stage, in the order in which the stages began."""
    stages: dict[str, float] = {}
    for span in spans:
        stages[span.name] = stages.get(span.name, 0.0) + span.duration_ms
    return stages


def age_ms(use: Use, clock_ns: int, monotonic_ns: int) -> float:
    """Returns how old a camera's frame is: by the node's clock, or by its arrival where the stamp is on another clock."""
    if use.stamp_ns is None or use.arrived_ns is None:
        return math.nan
    age_ns = clock_ns - use.stamp_ns
    return (age_ns if abs(age_ns) < _OTHER_CLOCK_NS else monotonic_ns - use.arrived_ns) / 1e6


def answer_message(report: AnswerReport, frame_id: str, clock_ns: int, monotonic_ns: int) -> SceneAnswer:
    """Returns an answer with all that tells how good it is. Ages are counted up to now, which is given on both clocks."""
    answer, encoded = report.answer, report.encoded
    stages = stage_latencies((*encoded.tokens.spans, *answer.spans))
    return SceneAnswer(
        header=header(encoded.stamp_ns, frame_id),
        question_id=report.question_id,
        question=answer.question,
        answer=answer.text,
        finish=answer.finish.value,
        token_ids=list(answer.token_ids),
        deadline_met=report.deadline_met,
        deadline_ms=report.deadline_ms or 0.0,
        cameras=[_camera_use(use, clock_ns, monotonic_ns) for use in encoded.cameras],
        missing=[use.channel for use in encoded.cameras if use.state is CameraState.MISSING],
        waited_ms=encoded.waited_ms,
        first_token_ms=answer.first_token_ms,
        since_set_ms=report.since_ms,
        stages=[StageLatency(name=name, ms=ms) for name, ms in stages.items()],
        degrade_level=report.level,
        degraded=list(report.steps),
        bundle_id=answer.bundle_id,
        backend=answer.backend,
    )


def _camera_use(use: Use, clock_ns: int, monotonic_ns: int) -> CameraUse:
    age = age_ms(use, clock_ns, monotonic_ns)
    return CameraUse(name=use.channel, state=use.state.value, stamp=to_time(use.stamp_ns or 0), age_ms=age)


def piece_message(head: Header, question_id: str, index: int, text: str, *, last: bool) -> AnswerPiece:
    """Returns a piece of an answer."""
    return AnswerPiece(header=head, question_id=question_id, index=index, text=text, last=last)


def degrade_message(head: Header, level: int, steps: tuple[str, ...], reason: str) -> DegradeState:
    """Returns where on the ladder the node stands."""
    return DegradeState(header=head, level=level, steps=list(steps), reason=reason)


def diagnostics_message(stamp: Time, node: str, hardware_id: str, statuses: Iterable[Status]) -> DiagnosticArray:
    """Returns statuses as /diagnostics has them."""
    return DiagnosticArray(
        header=Header(stamp=stamp),
        status=[
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f"{node}: {status.name}",
                message=status.message,
                hardware_id=hardware_id,
                values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
            )
            for status in statuses
        ],
    )


def image_message(image: RgbImage, head: Header) -> Image:
    """Returns an image [H, W, 3]. An `array` is the one form that rclpy takes without going over every byte."""
    data = array("B")
    data.frombytes(np.ascontiguousarray(image).data.cast("B"))
    message = Image(header=head, height=image.shape[0], width=image.shape[1], encoding="rgb8", step=image.shape[1] * 3)
    message.data = data
    return message


def camera_info_message(frame: CameraFrame, head: Header) -> CameraInfo:
    """Returns a frame's size and intrinsic; an unrectified pinhole, as nuScenes' images are."""
    info = CameraInfo(header=head, height=frame.height, width=frame.width, distortion_model="plumb_bob", d=[0.0] * 5)
    if frame.intrinsic is not None:
        info.k = frame.intrinsic.flatten().tolist()
        info.r = np.eye(3).flatten().tolist()
        info.p = np.hstack([frame.intrinsic, np.zeros((3, 1))]).flatten().tolist()
    return info
