"""What the worker tells: answers and how good they are, and who is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from leo_edge.ros_node.encoder import EncodedSet
from leo_edge.runtime.answer import Answer


@dataclass(frozen=True, eq=False)
class AnswerReport:
    """An answer, the set that it is about, and whether it came in time. `deadline_ms` counts as `since_ms` does."""

    question_id: str
    answer: Answer
    encoded: EncodedSet
    since_ms: float
    deadline_ms: float | None
    deadline_met: bool
    level: int
    steps: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SetReport:
    """A set that was taken, when work on it began and ended, on the machine's monotonic clock."""

    encoded: EncodedSet
    taken_ns: int
    done_ns: int


class Outlet(Protocol):
    """Where the worker's results go. Everything is called from the worker's thread."""

    def wanted(self) -> bool:
        """Whether anybody wants answers now."""

    def on_answer(self, report: AnswerReport) -> None:
        """Takes an answer."""

    def on_piece(self, stamp_ns: int, question_id: str, index: int, text: str, *, last: bool) -> None:
        """Takes a piece of an answer while it is being written."""

    def on_set(self, report: SetReport) -> None:
        """Hears that a set is done."""

    def on_degrade(self, level: int, steps: tuple[str, ...], reason: str) -> None:
        """Hears that the ladder was gone up or down."""

    def on_camera_error(self, channel: str, message: str) -> None:
        """Hears that a camera's image could not be read."""

    def on_error(self, message: str) -> None:
        """Hears that something else went wrong."""
