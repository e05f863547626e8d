"""Hears a node's answers and diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from leo_edge_msgs.msg import CameraUse, SceneAnswer

from leo_edge.ros_node.messages import to_ns

if TYPE_CHECKING:
    from rclpy.node import Node

_STATES = {CameraUse.FRESH: "", CameraUse.STALE: " stale", CameraUse.MISSING: " missing"}


@dataclass
class Heard:
    """What was heard so far; `statuses` by their names without the node's."""

    answers: list[SceneAnswer] = field(default_factory=list)
    statuses: dict[str, DiagnosticStatus] = field(default_factory=dict)

    def value(self, status: str, key: str) -> str:
        """Returns a value of the diagnostics; empty where there is none."""
        found = self.statuses.get(status)
        return next((pair.value for pair in found.values if pair.key == key), "") if found else ""


def listen(node: Node, name: str, on_answer: Callable[[SceneAnswer], None]) -> Heard:
    """Subscribes to the answers of the node `name`, such as /leo_edge, and to its diagnostics."""
    heard = Heard()

    def hear_answer(message: SceneAnswer) -> None:
        heard.answers.append(message)
        on_answer(message)

    def hear_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            who, _, what = status.name.partition(": ")
            if who == name.lstrip("/"):
                heard.statuses[what] = status

    node.create_subscription(SceneAnswer, f"{name}/output/answer", hear_answer, 100)
    node.create_subscription(DiagnosticArray, "/diagnostics", hear_diagnostics, 10)
    return heard


def one_line(answer: SceneAnswer) -> str:
    """Returns an answer as a line: stamp, text, age of its oldest camera, how long it took, and what is not as it should be."""
    ages = [camera.age_ms for camera in answer.cameras if camera.state != CameraUse.MISSING]
    parts = [f"{to_ns(answer.header.stamp) / 1e9 % 1000:7.3f}", f"{answer.question} {answer.answer}"]
    notes = [f"age {max(ages, default=0):.0f} ms", f"after {answer.since_set_ms:.0f} ms"]
    notes += [f"{camera.name}{_STATES[camera.state]}" for camera in answer.cameras if camera.state != CameraUse.FRESH]
    if not answer.deadline_met:
        notes.append("LATE")
    if answer.degraded:
        notes.append(" ".join(answer.degraded))
    return f"{'  '.join(parts)}   ({', '.join(notes)})"
