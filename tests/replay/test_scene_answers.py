"""replay/scene_answers.py: answers that a vehicle recorded, gathered by what they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rosbags.interfaces import Nodetype

from leo_edge.replay.bag import Bag
from leo_edge.replay.scene_answers import Cameras, RecordedAnswer, keyframes, read_answers
from leo_edge.runtime.errors import DatasetError
from tests.replay.bags import (
    MS,
    BagWriter,
    given,
    node_topic,
    open_drive,
    picture,
    rounds,
    write_bag,
    write_drive_bag,
)


def told(stamp_ns: int, cameras: Cameras, answer: str = "yes") -> RecordedAnswer:
    return RecordedAnswer("ahead", "What is ahead?", answer, "stop_token", 0, stamp_ns, cameras)


def test_answers_are_those_that_were_recorded_on_all_topics_in_their_order(tmp_path: Path) -> None:
    def write(bag: BagWriter) -> None:
        bag.image(node_topic("A"), picture(1), MS)
        bag.answer(given(20, 10, None, question_id="light", finish="length", degrade_level=2), "/second/output/answer")
        bag.answer(given(10, 10, 12))

    first, second = read_answers(Bag(write_bag(tmp_path / "d", write)))
    assert first == told(10 * MS, (("A", 10 * MS), ("B", 12 * MS)))
    assert second == RecordedAnswer("light", "What is ahead?", "yes", "length", 2, 20 * MS, (("A", 10 * MS), ("B", None)))
    assert read_answers(Bag(write_drive_bag(tmp_path / "e", rounds()))) == []


def test_a_keyframe_is_a_stamp_and_its_frames() -> None:
    both, one, late = (("A", 10), ("B", 12)), (("A", 10), ("B", None)), (("A", 20), ("B", 12))
    answers = [told(10, both, "a"), told(20, late, "b"), told(10, one, "c"), told(10, both, "d")]
    found = keyframes("drive", answers)
    assert [(keyframe.token, keyframe.stamp_ns, keyframe.cameras) for keyframe in found] == [
        ("drive-10", 10, both),
        ("drive-10-2", 10, one),
        ("drive-20", 20, late),
    ]
    assert ["".join(answer.answer for answer in keyframe.answers) for keyframe in found] == ["ad", "c", "b"]


def test_answers_of_another_version(tmp_path: Path) -> None:
    def write(bag: BagWriter) -> None:
        bag.image(node_topic("A"), picture(1), MS)
        del bag.types.fielddefs["leo_edge_msgs/msg/SceneAnswer"]
        bag.types.register({"leo_edge_msgs/msg/SceneAnswer": _header_alone()})
        bag.write("/answer", "leo_edge_msgs/msg/SceneAnswer", MS)

    with pytest.raises(
        DatasetError, match=r"the answers in bag .*/d are of another leo_edge_msgs/msg/SceneAnswer \(.*question"
    ):
        open_drive(write_bag(tmp_path / "d", write))


def _header_alone() -> Any:
    return [], [("header", (Nodetype.NAME, "std_msgs/msg/Header"))]
