"""Questions as arrays: tokens, the telling word, and weights without a favourite answer."""

from collections import Counter

import numpy as np
import pytest

from leo_edge.demo.questions.ask import ANSWERS, QUESTION_TYPES
from leo_edge.demo.training.config import make_tokenizer
from leo_edge.demo.training.dataset import QuestionArrays, question_arrays
from leo_edge.demo.training.drawing import Asking, asking_of, draw_scene
from leo_edge.demo.world.kinds import KINDS

TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def asked() -> list[Asking]:
    return [asking_of(keyframe) for index in (0, 1) for keyframe in draw_scene(0, index)]


@pytest.fixture(scope="module")
def arrays(asked: list[Asking]) -> QuestionArrays:
    return question_arrays(asked, TOKENIZER, seed=0)


def test_arrays_hold_every_question_of_every_keyframe(arrays: QuestionArrays, asked: list[Asking]) -> None:
    assert Counter(arrays.keyframe.tolist()) == {k: len(entry.questions) for k, entry in enumerate(asked)}
    questions = [question for entry in asked for question in entry.questions]
    for i, question in enumerate(questions):
        assert ANSWERS[arrays.answer[i]] == question.answer
        assert QUESTION_TYPES[arrays.kind[i]] == question.kind
        known = [None if a < 0 else ANSWERS[a] for a in arrays.by_camera[i].tolist()]
        assert tuple(known) == (question.by_camera if question.kind != "comparison" else (None,) * 6)


def test_counts_are_those_of_the_kinds_that_a_question_names(arrays: QuestionArrays, asked: list[Asking]) -> None:
    """Held against the answers of the questions that ask for a number."""
    questions = [question for entry in asked for question in entry.questions]
    numbers = 0
    for i, question in enumerate(questions):
        named = [k for k, kind in enumerate(KINDS) if kind.name in question.slots or kind.plural in question.slots]
        assert set(np.flatnonzero((arrays.counts[i] >= 0).any(axis=0)).tolist()) <= set(named)
        assert len(named) == {"count": 1, "more here": 1, "more than": 2}.get(question.form, len(named))
        if question.kind == "count":
            assert arrays.counts[i, arrays.asked[i], named[0]].tolist() == [int(question.answer)]
            numbers += 1
    assert numbers > 20


def test_direction_is_told_at_its_last_word(arrays: QuestionArrays, asked: list[Asking]) -> None:
    questions = [question for entry in asked for question in entry.questions]
    seen = 0
    for i, question in enumerate(questions):
        text = arrays.text[i]
        ids = arrays.texts.ids[text, : arrays.texts.lengths[text]].tolist()
        until = TOKENIZER.decode(ids[: arrays.texts.told[text] + 1])
        if question.kind in ("exist", "count", "status"):
            assert until.endswith(question.slots[-1])
            seen += 1
        elif question.kind in ("action", "light"):
            assert until == arrays.texts.words[text]
    assert seen > 20


def test_every_word_of_a_question_is_one_token() -> None:
    words = "Are the construction vehicles to the back left more numerous than the traffic cones?"
    encoded = TOKENIZER.encode(words, add_special_tokens=False)
    assert len(encoded.ids) == len(words.split()) + 1  # the question mark
    assert TOKENIZER.decode(encoded.ids) == words
    foreign = "Où est le vélo?"
    assert TOKENIZER.decode(TOKENIZER.encode(foreign, add_special_tokens=False).ids) == foreign


def test_weights_make_the_answers_of_a_question_about_equally_likely(arrays: QuestionArrays, asked: list[Asking]) -> None:
    questions = [question for entry in asked for question in entry.questions]
    by_pair: dict[tuple[str, ...], dict[str, float]] = {}
    for question, weight in zip(questions, arrays.weight.tolist(), strict=True):
        answers = by_pair.setdefault((question.form, *question.slots), {})
        answers[question.answer] = answers.get(question.answer, 0) + weight
    several = [list(answers.values()) for answers in by_pair.values() if len(answers) > 1]
    assert len(several) > 5
    assert all(max(weights) == pytest.approx(min(weights)) for weights in several)


def test_draws_distinct_questions_by_keyframe_in_order(arrays: QuestionArrays) -> None:
    drawn = arrays.draw(np.random.default_rng(0), 4, 8)
    assert len(drawn) == 32
    assert (np.diff(drawn) >= 0).all()
    assert (arrays.draw(np.random.default_rng(0), 4, 8) == drawn).all()
    assert (arrays.draw(np.random.default_rng(1), 4, 8) != drawn).any()
