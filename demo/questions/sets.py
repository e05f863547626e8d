"""The question sets that figures are given for: so many questions of each type, every answer as often as the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leo_edge.demo.questions.ask import QUESTION_TYPES, Question
from leo_edge.demo.questions.words import PHRASINGS
from leo_edge.demo.training.drawing import Asking

PER_TYPE = 300
"""How many questions of each type the model card's figures are for."""


@dataclass(frozen=True)
class SetItem:
    """A question of a set: which of the keyframes it is about, counted from 0, and in which of its phrasings it is put."""

    keyframe: int
    question: Question
    phrasing: int


def choose_set(asked: Sequence[Asking], per_type: int, seed: int) -> list[SetItem]:
    """Chooses up to `per_type` questions of each type, ordered by type and keyframe; the same for the same seed.

    Answers take turns, and a question (its form and slots) for which the answer in turn is the rarer one goes first: neither
    a type nor a single question's words then tell what the answer is.
    """
    random = np.random.Generator(np.random.SFC64([seed, 3]))
    pool = [(keyframe, question) for keyframe, entry in enumerate(asked) for question in entry.questions]
    pool = [pool[i] for i in random.permutation(len(pool)).tolist()]
    chosen: list[SetItem] = []
    for kind in QUESTION_TYPES:
        picked = _balanced([one for one in pool if one[1].kind == kind], per_type)
        made = [SetItem(k, q, int(random.integers(len(PHRASINGS[q.form])))) for k, q in picked]
        chosen += sorted(made, key=lambda item: item.keyframe)
    return chosen


def _balanced(pool: list[tuple[int, Question]], count: int) -> list[tuple[int, Question]]:
    by_answer: dict[str, list[tuple[int, Question]]] = {}
    for entry in pool:
        by_answer.setdefault(entry[1].answer, []).append(entry)
    given: Counter[tuple[str, tuple[str, ...], str]] = Counter()
    asked: Counter[tuple[str, tuple[str, ...]]] = Counter()
    picked: list[tuple[int, Question]] = []
    answers = sorted(by_answer)
    while len(picked) < count and any(by_answer.values()):
        for answer in answers:
            group = by_answer[answer]
            if not group or len(picked) == count:
                continue

            def surplus(i: int, group: list[tuple[int, Question]] = group, answer: str = answer) -> int:
                question = group[i][1]
                return len(answers) * given[question.form, question.slots, answer] - asked[question.form, question.slots]

            entry = group.pop(min(range(len(group)), key=surplus))
            given[entry[1].form, entry[1].slots, answer] += 1
            asked[entry[1].form, entry[1].slots] += 1
            picked.append(entry)
    return picked
