"""DriveLM's scores on cases counted by hand, and on the challenge's own example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leo_edge.replay.drivelm import DriveLmQuestion, gate, match_f1, points, read_drivelm, score_drivelm
from leo_edge.runtime.errors import DatasetError

_REAL = Path(__file__).parents[2] / "../shared/data/nuscenes-real/drivelm"
_real = pytest.mark.skipif(not _REAL.exists(), reason="no DriveLM sample beside the project")


def _one(number: int, question: str, answer: str, *tags: int, frame: str = "f") -> DriveLmQuestion:
    return DriveLmQuestion("s", frame, number, "perception", question, answer, tags, inferred=False)


def _write(path: Path, groups: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"s": {"key_frames": {"f": {"QA": groups}}}}), encoding="utf-8")
    return path


def test_match_is_f1_of_points_nearer_than_16_pixels() -> None:
    truth = "<c1,CAM_BACK,100.0,100.0> and <c2,CAM_BACK,300.0,300.0>"
    f1, found = match_f1("<c1,CAM_BACK,107.0,108.0>", truth)  # 15 px in all
    assert f1 == pytest.approx(2 / 3)
    assert found == [(100.0, 100.0)]
    assert match_f1("<c1,CAM_BACK,108.0,108.0>", truth) == (0.0, [])  # 16 px
    assert match_f1("nothing", truth) == (0.0, [])
    assert match_f1(truth, truth)[0] == 1.0


def test_a_true_point_is_found_once() -> None:
    f1, found = match_f1("1.0, 1.0 and 1.0, 1.0", "1.0, 1.0 and 200.0, 200.0")
    assert f1 == pytest.approx(0.5)
    assert found == [(1.0, 1.0)]


def test_an_odd_number_is_left_out() -> None:
    assert points("10.5, 20.5 and 7.25") == [(10.5, 20.5)]


def test_later_questions_about_objects_that_were_not_found_are_skipped() -> None:
    questions = [
        _one(0, "What are the important objects?", "<c1,CAM_FRONT,10.0,10.0> and <c2,CAM_FRONT,500.0,500.0>", 2),
        _one(1, "Is <c1,CAM_FRONT,10.0,10.0> moving?", "Yes.", 0),
        _one(2, "Is <c2,CAM_FRONT,500.0,500.0> moving?", "Yes.", 0),
        _one(3, "Is it raining?", "No.", 0),
        _one(0, "What are the important objects?", "<c1,CAM_FRONT,10.0,10.0>", 2, frame="g"),
        _one(1, "Is <c1,CAM_FRONT,10.0,10.0> moving?", "Yes.", 0, frame="g"),
    ]
    answers = ["<c1,CAM_FRONT,12.0,12.0>", "Yes.", "No.", "Yes.", "none", "Yes."]
    assert gate(questions, answers) == [0, 1, 3, 4]
    scores = score_drivelm(questions, answers)
    assert (scores.accuracy, scores.gated) == (0.5, 2)  # the second and the fourth; not 0 for those that are skipped


def test_the_final_score_weighs_the_parts_and_leaves_the_judge_out() -> None:
    questions = [
        _one(0, "Where?", "at 10.0, 10.0", 3),
        _one(1, "Who?", "a red car", 2),
        _one(2, "Is it?", "Yes.", 0),
        _one(3, "Why?", "because", 1),
        _one(4, "And who?", "a blue truck", 2),
    ]
    answers = ["at 10.0, 10.0 and 90.0, 90.0", "a red car", "No.", "so", "a blue truck"]
    scores = score_drivelm(questions, answers)
    assert scores.language is not None
    assert scores.match == pytest.approx(2 / 3)
    assert scores.final == pytest.approx(0.2 * 2 / 3 + 0.2 * scores.language.drivelm + 0.2 * 0.0)
    assert scores.counts == {"accuracy": 1, "judged": 1, "language": 2, "match": 1}


def test_what_is_not_asked_has_no_score() -> None:
    scores = score_drivelm([_one(0, "Is it?", "Yes.", 0)], ["Yes."])
    assert (scores.accuracy, scores.match, scores.language) == (1.0, None, None)


@_real
def test_the_challenges_example_with_its_own_answers_is_all_right() -> None:
    questions = read_drivelm(_REAL / "drivelm_test_eval_sample.json")
    scores = score_drivelm(questions, [question.answer for question in questions])
    assert scores.counts == {"accuracy": 12, "judged": 12, "language": 4, "match": 0}
    assert (scores.accuracy, scores.match, scores.gated) == (1.0, None, 0)
    assert scores.language is not None
    assert scores.language.drivelm == pytest.approx(1.0)
    assert questions[6].id == f"{questions[6].scene}_{questions[6].frame}_6"


@_real
def test_the_challenges_example_with_wrong_answers_is_all_wrong() -> None:
    questions = read_drivelm(_REAL / "drivelm_test_eval_sample.json")
    scores = score_drivelm(questions, ["nothing"] * len(questions))
    named = sum(bool(points(question.question)) for question in questions)
    assert (scores.accuracy, scores.gated) == (0.0, named)
    assert named > 0


@_real
def test_train_files_have_their_tags_inferred_and_no_gate() -> None:
    questions = read_drivelm(_REAL / "drivelm_train_sample.json")
    scores = score_drivelm(questions, [question.answer for question in questions])
    assert (len(questions), scores.gated, scores.accuracy, scores.match) == (395, 0, 1.0, 1.0)
    assert "inferred" in scores.to_json()["tags"]


def test_groups_are_counted_in_their_own_order(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.json", {"behavior": [{"Q": "b?", "A": "b"}], "perception": [{"Q": "p?", "A": "p"}]})
    assert [(question.number, question.question) for question in read_drivelm(path)] == [(0, "p?"), (1, "b?")]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"perception": [{"Q": "p?"}]}, "lacks a text Q or A"),
        ({"perception": [{"Q": "p?", "A": "p", "tag": [7]}]}, r"has tag \[7\], expected a list of numbers 0 to 3"),
        ({"perception": [{"Q": "p?", "A": "p", "tag": []}]}, "has tag"),
        ({"guessing": [{"Q": "p?", "A": "p"}]}, "asks .'guessing'., expected perception"),
        ({}, "holds no question"),
    ],
)
def test_entries_of_another_form_are_refused(tmp_path: Path, groups: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_drivelm(_write(tmp_path / "q.json", groups))


@pytest.mark.parametrize("text", ["[]", "{", '{"s": {}}', '{"s": {"key_frames": {"f": {}}}}'])
def test_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"q\.json"):
        read_drivelm(path)
    with pytest.raises(DatasetError, match="no file"):
        read_drivelm(tmp_path / "absent.json")


def test_answers_must_be_as_many_as_questions() -> None:
    with pytest.raises(DatasetError, match="1 questions and 0 answers"):
        score_drivelm([_one(0, "Is it?", "Yes.", 0)], [])
