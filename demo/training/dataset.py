"""Questions as arrays: what is asked of which keyframe, in token ids, with weights that leave no answer likelier than another.

Shape letters: K keyframes, M questions, X different texts, L tokens of a question, C cameras.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from leo_edge.demo.questions.ask import ANSWERS, DIRECTIONS, QUESTION_TYPES, Question
from leo_edge.demo.questions.words import PHRASINGS, put_into_words
from leo_edge.demo.training.drawing import Asking, counts_of
from leo_edge.demo.world.kinds import KINDS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ANSWER_IDS = {answer: i for i, answer in enumerate(ANSWERS)}
# How often each type is asked in training, whatever its share of the questions.
_TYPE_SHARE = {
    "exist": 1.5,
    "count": 3.0,
    "object": 0.7,
    "status": 1.1,
    "comparison": 4.0,
    "colour": 0.6,
    "light": 0.4,
    "distance": 0.8,
    "lane_change": 0.9,
    "action": 0.8,
}
# An answer that is rare for its question weighs no more than if it had this share. Threes and fours are rare for each count.
_SMALLEST_SHARE = {"count": 0.04}
_SMALLEST_SHARE_ELSE = 0.12


@dataclass(frozen=True)
class Texts:
    """Different question texts [X]: token ids [X, L], padded with 0; lengths [X]; where a direction is named [X].

    `told` is the position in the question at which the camera that is asked about is known: the last word of its direction.
    """

    words: tuple[str, ...]
    ids: Ints
    lengths: Ints
    told: Ints


@dataclass(frozen=True)
class QuestionArrays:
    """Questions [M]: keyframe, text, answer and type by number, answers by camera [M, C] (-1: none), weights.

    `asked` [M, C] tells which cameras are asked about: those that are named, or the front one. `counts` [M, C, kinds] is how
    many of the kinds that the question names each camera shows; -1 for other kinds and in doubt.
    """

    texts: Texts
    keyframe: Ints
    text: Ints
    answer: Ints
    kind: Ints
    asked: npt.NDArray[np.bool_]
    by_camera: Ints
    counts: Ints
    weight: Floats

    def draw(self, random: np.random.Generator, keyframes: int, each: int) -> Ints:
        """Draws `each` questions of each of some keyframes, by weight. Returns their numbers, ascending."""
        chosen: list[Ints] = []
        while len(chosen) < keyframes:
            first = int(np.searchsorted(self._cumulative, random.random() * self._cumulative[-1]))
            low, high = self._bounds[self.keyframe[first]]
            weight = self.weight[low:high]
            if high - low >= each:
                picked = random.choice(high - low, each, replace=False, p=weight / weight.sum())
                chosen.append(low + picked)
        return np.sort(np.concatenate(chosen))

    @cached_property
    def _cumulative(self) -> Floats:
        return np.cumsum(self.weight)

    @cached_property
    def _bounds(self) -> Ints:
        """Returns where each keyframe's questions begin and end, [K, 2]."""
        edges = np.searchsorted(self.keyframe, np.arange(int(self.keyframe.max()) + 2))
        return np.stack([edges[:-1], edges[1:]], axis=1)


def question_arrays(asked: Sequence[Asking], tokenizer: Tokenizer, seed: int) -> QuestionArrays:
    """Puts the questions of keyframes, in order, into words and numbers."""
    random = np.random.default_rng(seed)
    questions = [(k, question) for k, entry in enumerate(asked) for question in entry.questions]
    words = [put_into_words(q, int(random.integers(len(PHRASINGS[q.form])))) for _, q in questions]
    directions = {word: _told_by(question) for word, (_, question) in zip(words, questions, strict=True)}
    texts = _tokenize(directions, tokenizer)
    number = {word: i for i, word in enumerate(texts.words)}
    keyframe = np.array([k for k, _ in questions])
    return QuestionArrays(
        texts=texts,
        keyframe=keyframe,
        text=np.array([number[word] for word in words]),
        answer=np.array([_ANSWER_IDS[q.answer] for _, q in questions]),
        kind=np.array([QUESTION_TYPES.index(q.kind) for _, q in questions]),
        asked=np.array([_asked_of(q) for _, q in questions]),
        by_camera=np.array([_answers_by_camera(q) for _, q in questions]),
        counts=np.where(np.array([_named_kinds(q) for _, q in questions])[:, None], counts_of(asked)[keyframe], -1),
        weight=_weights([q for _, q in questions]),
    )


def _answers_by_camera(question: Question) -> list[int]:
    """Returns the answer's number for each camera, -1 for none. A comparison has none: CoTR takes its words in no order."""
    unknown = question.kind == "comparison"
    return [-1 if unknown or answer is None else _ANSWER_IDS[answer] for answer in question.by_camera]


def _named_kinds(question: Question) -> list[bool]:
    """Returns by kind whether a question names it."""
    return [kind.name in question.slots or kind.plural in question.slots for kind in KINDS]


def _asked_of(question: Question) -> list[bool]:
    """Returns by camera whether a question names it; the front one where it names none."""
    named = [word in question.slots for word in DIRECTIONS.values()]
    return named if any(named) else [i == 0 for i in range(len(named))]


def _told_by(question: Question) -> str:
    """Returns the slot that names the direction, "" where none or two do."""
    named = [slot for slot in question.slots if slot in DIRECTIONS.values()]
    return named[0] if len(named) == 1 else ""


def _tokenize(directions: dict[str, str], tokenizer: Tokenizer) -> Texts:
    words = tuple(directions)
    encoded = tokenizer.encode_batch(list(words), add_special_tokens=False)
    lengths = np.array([len(entry.ids) for entry in encoded])
    ids = np.zeros((len(words), int(lengths.max())), np.int64)
    told = lengths - 1
    for i, (word, entry) in enumerate(zip(words, encoded, strict=True)):
        ids[i, : lengths[i]] = entry.ids
        if directions[word]:
            end = word.rindex(directions[word]) + len(directions[word])
            told[i] = max(j for j, (start, _) in enumerate(entry.offsets) if start < end)
    return Texts(words, ids, lengths, told)


def _weights(questions: list[Question]) -> Floats:
    """Weighs questions so that types have their shares, and every question's answers are about equally likely."""
    pairs = Counter((q.kind, q.form, q.slots, q.answer) for q in questions)
    totals = Counter((q.kind, q.form, q.slots) for q in questions)
    weights = np.empty(len(questions))
    for i, q in enumerate(questions):
        least = _SMALLEST_SHARE.get(q.kind, _SMALLEST_SHARE_ELSE) * totals[q.kind, q.form, q.slots]
        weights[i] = 1 / max(pairs[q.kind, q.form, q.slots, q.answer], least)
    kinds = np.array([QUESTION_TYPES.index(q.kind) for q in questions])
    for i, kind in enumerate(QUESTION_TYPES):
        mine = kinds == i
        if mine.any():
            weights[mine] *= _TYPE_SHARE[kind] / weights[mine].sum()
    return weights
