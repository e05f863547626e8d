"""replay/recorded.py: what was asked on the vehicle is asked again, and only equal answers count."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leo_edge.replay.bag_source import BagOptions
from leo_edge.replay.queries import Queries, Query, open_queries
from leo_edge.replay.source import plan_sets
from leo_edge.runtime.errors import DatasetError
from tests.replay.bags import Given, given, rounds, write_drive_bag

FIRST, SECOND = "d-100000000", "d-200000000"


def said(stamp_ms: int, question_id: str, answer: str, finish: str = "stop_token", degrade_level: int = 0) -> Given:
    """An answer about both cameras' frames of a round."""
    one = given(stamp_ms, stamp_ms, stamp_ms + 20, question_id=question_id, question=f"{question_id}?")
    return Given(one.stamp_ns, one.cameras, answer, one.question, question_id, finish, degrade_level)


ANSWERS = (
    said(100, "light", "red"),
    said(100, "action", "stop", finish="length"),
    said(200, "light", "gre", finish="deadline"),
    said(200, "action", "go", degrade_level=1),
    said(200, "ask", "a tree", finish="stop_string"),
    said(300, "light", "green", "deadline", degrade_level=2),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_drive_bag(tmp_path / "d", rounds(), ANSWERS)


def asked(path: Path, queries: Queries) -> list[tuple[str | None, list[Query]]]:
    """What is asked of each set of the bag."""
    return [(one.sample, list(queries.about(one))) for one in plan_sets(BagOptions((path,)).open().drive("d"))]


def test_each_keyframe_is_asked_what_the_vehicle_asked_of_it(path: Path) -> None:
    assert asked(path, open_queries(f"recorded:{path}")) == [
        (FIRST, [Query(f"{FIRST}_0", "light", "light?", "red"), Query(f"{FIRST}_1", "action", "action?", "stop")]),
        (SECOND, [Query(f"{SECOND}_0", "ask", "ask?", "a tree")]),
        ("d-300000000", []),
    ]


def test_only_the_keyframes_that_are_asked_about_are_wanted(path: Path) -> None:
    assert open_queries(f"recorded:{path}").samples() == frozenset({FIRST, SECOND})


def test_answers_are_equal_to_the_character_or_not(path: Path) -> None:
    queries = open_queries(f"recorded:{path}")
    answers = {f"{FIRST}_0": "red", f"{FIRST}_1": "Stop", f"{SECOND}_0": "a tree "}
    assert queries.score(answers)["recorded"] == {
        "asked": 3,
        "equal": 1,
        "by_question": {
            "action": {"asked": 1, "equal": 0},
            "ask": {"asked": 1, "equal": 0},
            "light": {"asked": 1, "equal": 1},
        },
        "not_asked": {"degraded": 2, "deadline": 1},
    }
    assert queries.score({f"{FIRST}_1": "stop"})["recorded"]["by_question"] == {"action": {"asked": 1, "equal": 1}}


def test_the_table_says_what_was_asked_and_what_was_not(path: Path) -> None:
    lines = open_queries(f"recorded:{path}").table({f"{FIRST}_0": "red", f"{FIRST}_1": "go"}).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["answers", "equal", "to", "the", "recorded", "ones", "asked", "equal"],
        ["action", "1", "0"],
        ["light", "1", "1"],
        ["all", "2", "1"],
    ]
    assert lines[4:] == [
        "not asked: 2 recorded while something was given up (degrade_level above 0)",
        "not asked: 1 recorded as cut off at the deadline",
    ]


def test_nothing_is_said_of_pressure_where_there_was_none(tmp_path: Path) -> None:
    path = write_drive_bag(tmp_path / "d", rounds(), ANSWERS[:2])
    assert "not asked" not in open_queries(f"recorded:{path}").table({})


def test_an_answer_that_was_given_twice_is_asked_twice(tmp_path: Path) -> None:
    path = write_drive_bag(tmp_path / "d", rounds(), [said(100, "ask", "one"), said(100, "ask", "two")])
    ((_, queries), *_) = asked(path, open_queries(f"recorded:{path}"))
    assert [(query.id, query.truth) for query in queries] == [(f"{FIRST}_0", "one"), (f"{FIRST}_1", "two")]


def test_a_run_goes_on_only_with_the_same_answers(path: Path, tmp_path: Path) -> None:
    fingerprint = open_queries(f"recorded:{path}").fingerprint
    assert open_queries(f"recorded:{shutil.copytree(path, tmp_path / 'copy' / 'd')}").fingerprint == fingerprint
    for number, answers in enumerate((ANSWERS[:-1], (said(100, "light", "Red"), *ANSWERS[1:]))):
        other = write_drive_bag(tmp_path / str(number) / "d", rounds(), answers)
        assert open_queries(f"recorded:{other}").fingerprint != fingerprint


class TestRefused:
    def test_a_bag_without_answers(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", rounds())
        with pytest.raises(
            DatasetError, match=r"^no answers in bag .*/d, expected a topic of leo_edge_msgs/msg/SceneAnswer: re"
        ):
            open_queries(f"recorded:{path}")

    def test_answers_under_pressure_alone(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", rounds(), [*ANSWERS[2:4], ANSWERS[5]])
        with pytest.raises(
            DatasetError, match=r"^all 3 answers in bag .*/d were cut off at the deadline or given while somethi"
        ):
            open_queries(f"recorded:{path}")

    @pytest.mark.parametrize("path", ["", "nothing"])
    def test_no_bag(self, path: str) -> None:
        with pytest.raises(DatasetError, match=r"^(no|cannot read) bag "):
            open_queries(f"recorded:{path}")

    def test_another_kind_of_question_tells_of_this_one(self) -> None:
        with pytest.raises(DatasetError, match=r"or one of .*, recorded:BAG$"):
            open_queries("record:d")
