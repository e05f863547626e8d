"""How good answers to driving questions are: exact match with intervals, baselines, confusions, tables.

Exact match is string equality, as in NuScenes-QA's own scorer (https://github.com/qiantianwen/NuScenes-QA,
src/execution/result_eval.py), after white space at both ends is taken off. Case, punctuation and synonyms count.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from leo_edge.replay.question_set import Question
from leo_edge.runtime.errors import DatasetError

_Z = NormalDist().inv_cdf(0.975)  # two-sided 95 %, 1.95996


@dataclass(frozen=True)
class ScoredItem:
    """A question with its true answer and one that was given."""

    template_type: str
    num_hop: int
    question: str
    truth: str
    answer: str

    @property
    def correct(self) -> bool:
        """Whether the answer is the truth, but for white space at the ends."""
        return is_correct(self.answer, self.truth)


@dataclass(frozen=True)
class Accuracy:
    """How many of `n` answers are correct."""

    n: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n == 0:
            raise ValueError(f"got {self.correct} correct of {self.n}, expected 0 to n correct of n > 0")

    @property
    def value(self) -> float:
        """The share that is correct, 0 to 1."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval of `value`."""
        return wilson_interval(self.correct, self.n)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        low, high = self.interval
        return {"n": self.n, "correct": self.correct, "accuracy": self.value, "low": low, "high": high}


@dataclass(frozen=True)
class Scores:
    """Exact match of a set of answers: all, per question type in the order of first appearance, per `num_hop`, ascending."""

    overall: Accuracy
    by_type: Mapping[str, Accuracy]
    by_hop: Mapping[int, Accuracy]

    @property
    def mean_of_types(self) -> float:
        """The mean of the types' accuracies, each type weighing the same."""
        return fmean(accuracy.value for accuracy in self.by_type.values())

    def to_json(self) -> dict[str, Any]:
        """Returns them as JSON values; `low` and `high` are the ends of 95 % Wilson score intervals."""
        return {
            "overall": self.overall.to_json(),
            "mean_of_types": self.mean_of_types,
            "by_type": {name: accuracy.to_json() for name, accuracy in self.by_type.items()},
            "by_hop": {f"H{num_hop}": accuracy.to_json() for num_hop, accuracy in self.by_hop.items()},
        }


@dataclass(frozen=True)
class Confusion:
    """A wrong answer to questions with this truth, and how often it was given."""

    truth: str
    answer: str
    count: int


@dataclass(frozen=True)
class Difference:
    """Where two lists of answers part; `index` counts from 0."""

    index: int
    first: str
    second: str


@dataclass(frozen=True)
class Agreement:
    """Of how many answers two lists hold the same, character by character."""

    total: int
    differing: tuple[Difference, ...]

    @property
    def equal(self) -> int:
        """How many answers are the same."""
        return self.total - len(self.differing)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {"total": self.total, "equal": self.equal, "differing": [dataclasses.asdict(one) for one in self.differing]}


def is_correct(answer: str, truth: str) -> bool:
    """Whether an answer is the truth, but for white space at the ends."""
    return answer.strip() == truth.strip()


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Returns the ends of the 95 % score interval of a share, without continuity correction.

    They are the p for which |correct/n - p| = z sqrt(p (1 - p) / n) (E. B. Wilson, Probable inference, the law of
    succession, and statistical inference, J. Am. Stat. Assoc. 22 (1927), 209-212).
    """
    share, weight = correct / n, _Z * _Z / n
    centre = share + weight / 2
    half = math.sqrt(weight * share * (1 - share) + weight * weight / 4)
    high = 1.0 if correct == n else (centre + half) / (1 + weight)  # which rounding can leave just below 1
    return (centre - half) / (1 + weight), high


def pair(questions: Sequence[Question], answers: Sequence[str]) -> tuple[ScoredItem, ...]:
    """Returns the questions with the answers that were given, in order.

    Raises:
        DatasetError: there are not as many answers as questions.
    """
    _check_same_length(len(questions), "questions", len(answers), "answers")
    return tuple(
        ScoredItem(question.template_type, question.num_hop, question.question, question.answer, answer)
        for question, answer in zip(questions, answers, strict=True)
    )


def score(items: Sequence[ScoredItem]) -> Scores:
    """Counts exact matches.

    Raises:
        DatasetError: there is no item.
    """
    if not items:
        raise DatasetError("no answers to score, expected at least one: give a question set that is not empty")
    by_type: dict[str, list[bool]] = {}
    by_hop: dict[int, list[bool]] = {}
    for item in items:
        by_type.setdefault(item.template_type, []).append(item.correct)
        by_hop.setdefault(item.num_hop, []).append(item.correct)
    return Scores(
        overall=_accuracy([item.correct for item in items]),
        by_type={name: _accuracy(correct) for name, correct in by_type.items()},
        by_hop={num_hop: _accuracy(by_hop[num_hop]) for num_hop in sorted(by_hop)},
    )


def majority_answers(items: Iterable[ScoredItem]) -> dict[str, str]:
    """Returns the most frequent truth of each type; of equally frequent ones the alphabetically first."""
    truths: dict[str, Counter[str]] = {}
    for item in items:
        truths.setdefault(item.template_type, Counter())[item.truth.strip()] += 1
    return {name: min(counts, key=lambda truth: (-counts[truth], truth)) for name, counts in truths.items()}


def majority_baseline(items: Sequence[ScoredItem]) -> tuple[ScoredItem, ...]:
    """Returns the same questions, each answered with its type's majority: what can be had without reading or seeing."""
    answers = majority_answers(items)
    return tuple(dataclasses.replace(item, answer=answers[item.template_type]) for item in items)


def most_confused(items: Iterable[ScoredItem], k: int) -> dict[str, tuple[Confusion, ...]]:
    """Returns each type's `k` most frequent wrong pairs of truth and answer, the most frequent first, then by name."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wrong: dict[str, Counter[tuple[str, str]]] = {}
    for item in items:
        pairs = wrong.setdefault(item.template_type, Counter())
        if not item.correct:
            pairs[item.truth.strip(), item.answer.strip()] += 1
    return {
        name: tuple(Confusion(*wrong_pair, count) for wrong_pair, count in sorted(pairs.items(), key=_by_count)[:k])
        for name, pairs in wrong.items()
    }


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compares two lists of answers to the same questions, such as those of ONNX graphs and of the model they come from.

    Raises:
        DatasetError: the lists differ in length, or are empty, which would agree whatever was wrong.
    """
    _check_same_length(len(first), "first answers", len(second), "second answers")
    if not first:
        raise DatasetError("no answers to compare, expected at least one: ask both the same questions")
    pairs = enumerate(zip(first, second, strict=True))
    return Agreement(len(first), tuple(Difference(index, one, other) for index, (one, other) in pairs if one != other))


def images_of_other_scenes(scenes: Sequence[str], seed: int) -> tuple[int, ...]:
    """Returns for each of K keyframes, given their scenes [K], the keyframe [K] whose images it is shown instead.

    That keyframe is of another scene, always: answers from such images tell what the questions alone give away. The result
    is a permutation, unless one scene has more than half of all keyframes: then the others' images are shown repeatedly.

    Raises:
        DatasetError: there are fewer than two scenes.
    """
    random = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for keyframe in random.permutation(len(scenes)).tolist():
        members.setdefault(scenes[keyframe], []).append(keyframe)
    if len(members) < 2:
        raise DatasetError(
            f"got {len(scenes)} keyframes of {len(members)} scenes, expected 2 scenes at least: exchanging images takes "
            "another scene, give a larger set"
        )
    largest = max(members, key=lambda scene: len(members[scene]))
    if 2 * len(members[largest]) > len(scenes):
        rest = [keyframe for scene, group in members.items() if scene != largest for keyframe in group]
        return _repeated(members[largest], rest)
    source = _rotated(list(members.values()))
    for one, other in enumerate(random.permutation(len(scenes)).tolist()):  # or whole scenes would be exchanged
        if scenes[source[other]] != scenes[one] and scenes[source[one]] != scenes[other]:
            source[one], source[other] = source[other], source[one]
    return tuple(source)


def text_table(
    model: Scores,
    others: Mapping[str, Scores] | None = None,
    *,
    name: str = "model",
    types: Sequence[str] | None = None,
) -> str:
    """Returns a table for a terminal: a row per type, then per `num_hop`, the mean of types and all; shares in per cent.

    `others` are further columns by name, such as a baseline's; `types` orders the rows, by default as they first appeared.

    Raises:
        DatasetError: other columns are of other questions, or `types` lacks a type that was asked.
    """
    rows = _rows(model, others or {}, name, types)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def markdown_table(
    model: Scores,
    others: Mapping[str, Scores] | None = None,
    *,
    name: str = "model",
    types: Sequence[str] | None = None,
) -> str:
    """Returns the table of `text_table`, which see, in Markdown."""
    head, *rows = _rows(model, others or {}, name, types)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in [head, rule, *rows])


def _rows(model: Scores, others: Mapping[str, Scores], name: str, types: Sequence[str] | None) -> list[list[str]]:
    """Returns the cells of a table, its head first."""
    for column, scores in others.items():
        _check_as_many(column, scores, model)
    order = list(model.by_type) if types is None else list(types)
    if unlisted := [kind for kind in model.by_type if kind not in order]:
        raise DatasetError(f"got types {', '.join(order)}, expected also {', '.join(unlisted)}, which were asked: name all")
    head = ["type", "n", f"{name}, % [95 % interval]", *(f"{column}, %" for column in others)]
    columns = [model, *others.values()]
    rows = [_row(kind, [scores.by_type.get(kind) for scores in columns]) for kind in order]
    rows += [_row(f"H{hop}", [scores.by_hop[hop] for scores in columns]) for hop in model.by_hop]
    rows.append(["mean of types", "", *(_per_cent(scores.mean_of_types) for scores in columns)])
    return [head, *rows, _row("all", [scores.overall for scores in columns])]


def _row(label: str, accuracies: Sequence[Accuracy | None]) -> list[str]:
    """Returns a row's cells: of the first column with its interval; without numbers for a type that was not asked."""
    model, *others = accuracies
    if model is None:
        return [label, "0", *["-"] * len(accuracies)]
    low, high = map(_per_cent, model.interval)
    shares = [_per_cent(other.value) if other else "-" for other in others]
    return [label, str(model.n), f"{_per_cent(model.value)} [{low}, {high}]", *shares]


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f}"


def _accuracy(correct: Sequence[bool]) -> Accuracy:
    return Accuracy(len(correct), sum(correct))


def _by_count(counted: tuple[tuple[str, str], int]) -> tuple[int, tuple[str, str]]:
    wrong_pair, count = counted
    return -count, wrong_pair


def _rotated(groups: Sequence[Sequence[int]]) -> list[int]:
    """Returns a source per keyframe: side by side, each takes the one that stands the longest group's length further on.

    No group reaches itself that way, forward or round the end, if none has more than half.
    """
    order = [keyframe for group in groups for keyframe in group]
    step = max(map(len, groups))
    source = [0] * len(order)
    for place, keyframe in enumerate(order):
        source[keyframe] = order[(place + step) % len(order)]
    return source


def _repeated(largest: Sequence[int], rest: Sequence[int]) -> tuple[int, ...]:
    """Returns a source per keyframe where the largest scene has more keyframes than all others."""
    source = {keyframe: rest[i % len(rest)] for i, keyframe in enumerate(largest)}
    source |= dict(zip(rest, largest, strict=False))  # the largest has some to spare
    return tuple(source[keyframe] for keyframe in range(len(source)))


def _check_same_length(first: int, first_name: str, second: int, second_name: str) -> None:
    if first != second:
        raise DatasetError(f"got {first} {first_name} and {second} {second_name}, expected as many: answer each question once")


def _check_as_many(column: str, scores: Scores, model: Scores) -> None:
    got, expected = (_counts(one) for one in (scores, model))
    if got != expected:
        raise DatasetError(f"column {column!r} has {got} questions, the model {expected}: score both on the same questions")


def _counts(scores: Scores) -> dict[str, int]:
    """Returns how many questions there are of each type and `num_hop`."""
    hops = {f"H{num_hop}": accuracy.n for num_hop, accuracy in scores.by_hop.items()}
    return {kind: accuracy.n for kind, accuracy in scores.by_type.items()} | hops
