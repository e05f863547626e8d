"""replay/question_set.py: what is read is what was written, and what is not as NuScenes-QA has it is named and refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from leo_edge.replay.question_set import Question, QuestionSet, read_question_set, write_question_set
from leo_edge.runtime.errors import DatasetError

ENTRY = {
    "sample_token": "0dd14c14cea14dc1b0c0c9b0c9c7c4c3",
    "question": "Are there any cars to the front?",
    "answer": "yes",
    "template_type": "exist",
    "num_hop": 1,
}
QUESTION = Question("0dd14c14cea14dc1b0c0c9b0c9c7c4c3", "Are there any cars to the front?", "yes", "exist", 1)  # the same
INFO = {"world": {"seed": 7, "scenes": ["scene-0001"]}, "num_questions": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "val.json"


def write(path: Path, *entries: object, **more: object) -> Path:
    path.write_text(json.dumps({"questions": entries} | more), encoding="utf-8")
    return path


def refused(path: Path, message: str) -> None:
    """Reading fails with one line that matches."""
    with pytest.raises(DatasetError, match=message) as error:
        read_question_set(path)
    assert "\n" not in str(error.value)


class TestReading:
    def test_fields_are_those_of_the_file(self, path: Path) -> None:
        count = ENTRY | {"question": "How many cars?", "answer": "2", "template_type": "count", "num_hop": 0}
        read = read_question_set(write(path, ENTRY, count, info=INFO))
        assert read.info == INFO
        assert read.questions == (
            QUESTION,
            Question("0dd14c14cea14dc1b0c0c9b0c9c7c4c3", "How many cars?", "2", "count", 0),
        )

    def test_info_may_be_absent(self, path: Path) -> None:
        assert read_question_set(str(write(path, ENTRY))).info == {}

    def test_answer_that_is_a_number_becomes_text(self, path: Path) -> None:
        assert read_question_set(write(path, ENTRY | {"answer": 10})).questions[0].answer == "10"

    def test_split_of_an_entry_is_kept(self, path: Path) -> None:
        (question,) = read_question_set(write(path, ENTRY | {"split": "val"})).questions
        assert question.split == "val"
        assert question.to_json() == ENTRY | {"split": "val"}

    def test_white_space_of_an_answer_is_kept(self, path: Path) -> None:
        assert read_question_set(write(path, ENTRY | {"answer": " yes\n"})).questions[0].answer == " yes\n"


class TestWriting:
    @pytest.mark.parametrize("info", [{}, INFO])
    def test_comes_back_the_same(self, path: Path, info: dict[str, Any]) -> None:
        questions = [Question("t", f'"Wie viele Übergänge\u2028{i}?"', str(i), "count", i % 2) for i in range(3)]
        written = QuestionSet((*questions, Question("t", "q", "a", "lane_change", 0, split="val")), info)
        write_question_set(path, written)
        assert read_question_set(path) == written
        assert [file.name for file in path.parent.iterdir()] == ["val.json"]

    def test_one_question_a_line(self, path: Path) -> None:
        write_question_set(path, QuestionSet((QUESTION,) * 2, INFO))
        row = json.dumps(ENTRY)
        assert path.read_text() == f'{{"info": {json.dumps(INFO)},\n"questions": [\n{row},\n{row}\n]}}\n'

    def test_replaces_nothing(self, path: Path) -> None:
        path.write_text("mine")
        with pytest.raises(DatasetError, match=r"val\.json exists already: remove it, or write to another file$"):
            write_question_set(path, QuestionSet((QUESTION,)))
        assert path.read_text() == "mine"

    @pytest.mark.parametrize(("parent", "reason"), [("absent", "No such file or directory"), ("file", "Not a directory")])
    def test_no_such_folder(self, tmp_path: Path, parent: str, reason: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DatasetError, match=rf"val\.json \({reason}\): give a folder that can be written$"):
            write_question_set(tmp_path / parent / "val.json", QuestionSet((QUESTION,)))

    def test_failure_leaves_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def replace(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(DatasetError, match=r"val\.json \(No space left on device\): give a folder"):
            write_question_set(path, QuestionSet((QUESTION,)))
        assert not list(path.parent.iterdir())


class TestBadFiles:
    def test_absent(self, path: Path) -> None:
        refused(path, r"^cannot read question set .*val\.json \(No such file or directory\): check the path$")

    @pytest.mark.parametrize("content", [b'{"questions": [', b"", b"\xff\xfe{}", b"[" * 100_000])
    def test_not_json(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        refused(path, r"^question set .*val\.json is not JSON \(.*\): it is truncated or altered, get it again$")

    @pytest.mark.parametrize(
        ("content", "got"),
        [
            ([ENTRY], "a list"),
            ({"scene": {}}, "an object with 'scene'"),
            ({}, "an object with nothing"),
            ({"questions": {"0": ENTRY}}, "an object with 'questions'"),
        ],
    )
    def test_another_form(self, path: Path, content: object, got: str) -> None:
        path.write_text(json.dumps(content))
        refused(path, rf'val\.json holds {got}, expected \{{"questions": \[\.\.\.\]\}} as in NuScenes-QA: give a question set$')

    def test_unknown_part(self, path: Path) -> None:
        refused(write(path, ENTRY, license="?"), r"has 'license', expected info and questions only: take out the rest$")

    def test_info_of_another_form(self, path: Path) -> None:
        refused(write(path, ENTRY, info="mine"), r"val\.json: info is 'mine', expected an object: ")

    def test_empty(self, path: Path) -> None:
        refused(write(path), r"val\.json: questions is empty, expected at least one: give another split")
        with pytest.raises(ValueError, match=r"^questions is empty, expected at least one$"):
            QuestionSet(())


class TestBadEntries:
    """The bad entry is the second; its neighbours are as they should be."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_hop": 2}, "num_hop is 2, expected 0 or 1"),
            ({"num_hop": "1"}, "num_hop is '1', expected 0 or 1"),
            ({"num_hop": True}, "num_hop is True, expected 0 or 1"),
            ({"num_hop": 1.0}, r"num_hop is 1\.0, expected 0 or 1"),
            ({"answer": None}, "answer is None, expected text"),
            ({"answer": True}, "answer is True, expected text"),
            ({"answer": 2.0}, r"answer is 2\.0, expected text"),
            ({"answer": " "}, "answer is ' ', expected text"),
            ({"question": ["Is it?"]}, r"question is \['Is it\?'\], expected text"),
            ({"sample_token": ""}, "sample_token is '', expected text"),
            ({"template_type": 3}, "template_type is 3, expected text"),
            ({"template_type": "\x1b[2J"}, r"template_type is '\\x1b\[2J', expected text that a table can show"),
            ({"split": ""}, "split is '', expected text"),
        ],
    )
    def test_value(self, path: Path, change: dict[str, object], message: str) -> None:
        write(path, ENTRY, ENTRY | change, ENTRY)
        refused(path, rf"val\.json: questions\[1\]\.{message}: mend the entry, or get the set again$")

    @pytest.mark.parametrize("name", ENTRY)
    def test_missing_field(self, path: Path, name: str) -> None:
        entry = {key: value for key, value in ENTRY.items() if key != name}
        refused(
            write(path, ENTRY, entry), rf"questions\[1\] lacks '{name}', expected sample_token, question, answer, template_type"
        )

    def test_unknown_field(self, path: Path) -> None:
        refused(write(path, ENTRY, ENTRY | {"hops": 1}), r"questions\[1\] has 'hops', expected sample_token, ")

    def test_missing_and_unknown_field(self, path: Path) -> None:
        entry = {("hops" if key == "num_hop" else key): value for key, value in ENTRY.items()}
        refused(write(path, ENTRY, entry), r"questions\[1\] lacks 'num_hop' and has 'hops', expected sample_token, ")

    @pytest.mark.parametrize("entry", [None, "Is it?", [ENTRY], 3])
    def test_no_object(self, path: Path, entry: object) -> None:
        refused(write(path, ENTRY, entry), r"questions\[1\] is .*, expected an object: mend the entry")

    def test_long_values_are_cut_in_the_message(self, path: Path) -> None:
        write(path, ENTRY | {"question": {"text": "long " * 10_000}})
        with pytest.raises(DatasetError, match=re.escape("questions[0].question is {'text': ")) as error:
            read_question_set(path)
        assert len(str(error.value)) < 400
