"""The split's question set, and answers to it with right and with wrong images, by an answerer whose answers are known."""

import dataclasses
from pathlib import Path

import pytest

from leo_edge.demo.answer_file import AnswerFile
from leo_edge.demo.dataset.names import sample_token
from leo_edge.demo.scoring import Answers, SplitOptions, SplitSet, answer_set, draw_split, scored_items
from leo_edge.replay.score import score
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import FrameSet

OPTIONS = SplitOptions("dev", scenes=3, per_type=12)


@pytest.fixture(scope="module")
def split() -> SplitSet:
    return draw_split(OPTIONS, processes=1)


class Oracle:
    """Knows the truth about a frame set by its stamp and first pixels, and says nothing about a question of another one."""

    def __init__(self, split: SplitSet) -> None:
        self.encoded: list[int] = []
        self._number = {id(frame_set): k for k, frame_set in enumerate(split.frames)}
        self._truth = {(i.keyframe, q.question): q.answer for i, q in zip(split.items, split.questions, strict=True)}

    def encode(self, frame_set: FrameSet) -> int:
        self.encoded.append(self._number[id(frame_set)])
        return self.encoded[-1]

    def answer(self, encoded: int, questions: list[str]) -> list[str]:
        return [self._truth.get((encoded, question), f"seen {encoded}") for question in questions]


def test_split_is_drawn_the_same_again_and_its_scenes_are_those_of_the_split(split: SplitSet) -> None:
    again = draw_split(dataclasses.replace(OPTIONS, scenes=2), processes=2)
    assert set(split.scenes) == {"scene-0008", "scene-0018", "scene-0028"}
    assert [f.frames["CAM_BACK"].image.tobytes() for f in again.frames] == [
        f.frames["CAM_BACK"].image.tobytes() for f in split.frames[:8]
    ]
    assert 0 < split.in_doubt < split.candidates


def test_questions_are_in_nuscenes_qas_schema(split: SplitSet) -> None:
    numbers = {sample_token(0, index, number) for index in (8, 18, 28) for number in range(40)}
    assert {question.sample_token for question in split.questions} <= numbers
    assert max(sum(q.template_type == kind for q in split.questions) for kind in ("exist", "count")) == OPTIONS.per_type


def test_each_keyframe_is_encoded_once_and_the_blind_see_another_scene(split: SplitSet) -> None:
    oracle = Oracle(split)
    answers = answer_set(oracle, split)
    assert sorted(oracle.encoded) == sorted(set(oracle.encoded))
    assert score(scored_items(split, answers.own)).overall.value == 1
    assert score(scored_items(split, answers.blind)).overall.value < 0.3
    for item, text in zip(split.items, answers.blind, strict=True):
        if text.startswith("seen "):
            assert split.scenes[int(text.removeprefix("seen "))] != split.scenes[item.keyframe]


@pytest.mark.parametrize(("scenes", "per_type"), [(1, 5), (3, 0)])
def test_a_set_that_cannot_be_is_refused(scenes: int, per_type: int) -> None:
    with pytest.raises(DatasetError, match="expected at least 2 scenes"):
        SplitOptions(scenes=scenes, per_type=per_type)


class TestAnswerFile:
    KEPT = AnswerFile(OPTIONS, Answers(("yes", "2"), ("no", "0")))

    def test_reads_what_it_wrote(self, tmp_path: Path) -> None:
        self.KEPT.write(tmp_path / "answers.json")
        assert AnswerFile.read(tmp_path / "answers.json") == self.KEPT

    def test_says_what_is_wrong(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="no file of answers"):
            AnswerFile.read(tmp_path / "absent.json")
        (tmp_path / "other.json").write_text('{"answers": 3}')
        with pytest.raises(DatasetError, match="is no file of answers"):
            AnswerFile.read(tmp_path / "other.json")
        with pytest.raises(DatasetError, match="give the same options"):
            self.KEPT.require_same_questions(SplitOptions(), tmp_path)
