"""Questions in words: several phrasings of each form, and NuScenes-QA's JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from leo_edge.demo.questions.ask import ANSWERS, DIRECTIONS, Question
from leo_edge.demo.world.kinds import COLOUR_NAMES, KINDS

_SINGULAR = {kind.plural: kind.name for kind in KINDS}
_PLURAL = {kind.name: kind.plural for kind in KINDS}

# {0}, {1}, ... are the slots of the form; {s0} and {p0} are slot 0 in the singular and the plural.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "exist": (
        "Is there a {0} to the {1}?",
        "Are there any {p0} to the {1}?",
        "Do you see a {0} to the {1} of me?",
    ),
    "exist coloured": (
        "Is there a {0} car to the {1}?",
        "Are there any {0} cars to the {1}?",
        "Do you see a {0} car to the {1} of me?",
    ),
    "count": (
        "How many {0} are there to the {1}?",
        "What number of {0} are to the {1} of me?",
        "How many {0} do you see to the {1}?",
    ),
    "nearest": (
        "What is the nearest thing to the {0}?",
        "What is the closest object to the {0} of me?",
        "There is something nearest to me to the {0}; what is it?",
    ),
    "colour": (
        "What colour is the nearest car to the {0}?",
        "Which colour has the closest car to the {0} of me?",
        "There is a car nearest to me to the {0}; what colour is it?",
    ),
    "status": (
        "What is the status of the nearest {0} to the {1}?",
        "What status has the closest {0} to the {1} of me?",
        "There is a {0} nearest to me to the {1}; what is its status?",
    ),
    "more than": (
        "Are there more {0} than {1} to the {2}?",
        "Do you see more {0} than {1} to the {2} of me?",
        "Are the {0} to the {2} more numerous than the {1}?",
    ),
    "more here": (
        "Are there more {0} to the {1} than to the {2}?",
        "Do you see more {0} to the {1} of me than to the {2}?",
        "Are the {0} to the {1} more numerous than those to the {2}?",
    ),
    "light": (
        "What does the traffic light ahead show?",
        "What is the state of the traffic light?",
        "Which colour is the traffic light in front of me?",
    ),
    "distance": (
        "How far is the nearest vehicle ahead in my lane?",
        "What is the distance to the vehicle in front of me?",
        "How far ahead of me is the next vehicle in this lane?",
    ),
    "lane change": (
        "Is it safe to change lane to the {0}?",
        "Can I move to the {0} lane now?",
        "May the vehicle change to the {0} lane?",
    ),
    "action": (
        "What should the ego vehicle do next and why?",
        "What should I do now, and for what reason?",
        "Which action comes next, and why?",
    ),
}


def put_into_words(question: Question, phrasing: int) -> str:
    """Returns a question's text in one of its phrasings, counted from 0."""
    forms = PHRASINGS[question.form]
    singular = {f"s{i}": _SINGULAR.get(slot, slot) for i, slot in enumerate(question.slots)}
    plural = {f"p{i}": _PLURAL.get(slot, slot) for i, slot in enumerate(question.slots)}
    return forms[phrasing % len(forms)].format(*question.slots, **singular, **plural)


def to_json(question: Question, sample_token: str, phrasing: int) -> dict[str, Any]:
    """Returns a question in NuScenes-QA's schema; `template_type` of driving questions is our own."""
    return {
        "sample_token": sample_token,
        "question": put_into_words(question, phrasing),
        "answer": question.answer,
        "template_type": question.kind,
        "num_hop": question.num_hop,
    }


# At most so many questions of a keyframe per type and answer; all of the other types.
_MOST_PER_ANSWER = {"exist": 4, "count": 4, "object": 2, "status": 2, "comparison": 4, "colour": 2}


def choose(questions: list[Question], random: np.random.Generator) -> list[Question]:
    """Draws from a keyframe's questions, the same number for each answer as far as they go: most are trivial otherwise."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.kind, question.answer), []).append(question)
    chosen: list[Question] = []
    for (kind, _), group in groups.items():
        most = _MOST_PER_ANSWER.get(kind, len(group))
        order = random.permutation(len(group))[:most].tolist()
        chosen += [group[i] for i in order]
    return chosen


def corpus() -> Iterator[str]:
    """Yields every word that questions and answers use, in sentences: what a tokenizer is trained on."""
    fillers = [*_PLURAL, *_SINGULAR, *COLOUR_NAMES, *DIRECTIONS.values(), "left", "right"]
    for forms, filler in itertools.product(PHRASINGS.values(), fillers):
        for form in forms:
            yield form.format(*[filler] * 3, **{f"{letter}{i}": filler for letter in "sp" for i in range(3)})
    yield from ANSWERS
