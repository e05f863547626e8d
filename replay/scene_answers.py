"""Answers that a vehicle gave and recorded, and the keyframes that they make: what was asked about which frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from leo_edge.replay.bag import Bag, time_ns
from leo_edge.runtime.errors import DatasetError

SCENE_ANSWER = "leo_edge_msgs/msg/SceneAnswer"
_MISSING = 2  # in leo_edge_msgs/CameraUse
Cameras = tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class RecordedAnswer:
    """An answer of the node. `cameras` are its cameras in prompt order with the stamps of their frames, None where missing."""

    question_id: str
    question: str
    answer: str
    finish: str
    degrade_level: int
    stamp_ns: int
    cameras: Cameras


@dataclass(frozen=True)
class Keyframe:
    """Frames that were asked about together: their cameras and stamps, and the answers as they came."""

    token: str
    stamp_ns: int
    cameras: Cameras
    answers: tuple[RecordedAnswer, ...]


def read_answers(bag: Bag) -> list[RecordedAnswer]:
    """Returns a bag's answers, of whatever topics, in the order in which they were recorded.

    Raises:
        DatasetError: the bag is not whole, or its answers have other fields.
    """
    return [_answer(bag, message.content) for message in bag.messages(bag.of_type(SCENE_ANSWER))]


def keyframes(bag_name: str, answers: Iterable[RecordedAnswer]) -> list[Keyframe]:
    """Gathers answers by the frames that they are about, in the order in which these were first asked about.

    A token is the bag's name and the stamp of the set; where that stamp was given to several sets, and their number from 2 on.
    """
    gathered: dict[int, dict[Cameras, list[RecordedAnswer]]] = {}
    for answer in answers:
        gathered.setdefault(answer.stamp_ns, {}).setdefault(answer.cameras, []).append(answer)
    return [
        Keyframe(f"{bag_name}-{stamp_ns}" + (f"-{number}" if number > 1 else ""), stamp_ns, cameras, tuple(about))
        for stamp_ns, sets in gathered.items()
        for number, (cameras, about) in enumerate(sets.items(), start=1)
    ]


def _answer(bag: Bag, content: Any) -> RecordedAnswer:
    try:
        return RecordedAnswer(
            question_id=content.question_id,
            question=content.question,
            answer=content.answer,
            finish=content.finish,
            degrade_level=content.degrade_level,
            stamp_ns=time_ns(content.header.stamp),
            cameras=tuple((use.name, None if use.state == _MISSING else time_ns(use.stamp)) for use in content.cameras),
        )
    except AttributeError as error:
        raise DatasetError(
            f"the answers in bag {bag.path} are of another {SCENE_ANSWER} ({error}): replay it with the leo_edge of that time"
        ) from error
