"""What is asked during a replay, and how its answers are scored: question files of several kinds behind one interface."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leo_edge.replay.drivelm import DriveLmQuestion, read_drivelm, score_drivelm
from leo_edge.replay.question_set import Question, read_question_set
from leo_edge.replay.score import ScoredItem, majority_baseline, score, text_table
from leo_edge.replay.source import PlannedSet
from leo_edge.runtime.errors import DatasetError

KINDS = ("nuscenes-qa:FILE", "drivelm:FILE", "builtin:driving", "recorded:BAG")

DRIVING = (
    ("light", "What does the traffic light ahead show?"),
    ("distance", "How far is the nearest vehicle ahead in my lane?"),
    ("lane_change", "Is it safe to change lane to the left?"),
    ("lane_change", "Is it safe to change lane to the right?"),
    ("action", "What should the ego vehicle do next and why?"),
)
"""The built-in driving questions, with their types. They have no truth: what is answered can be read, not scored."""


@dataclass(frozen=True)
class Query:
    """A question to be asked of a frame set. `kind` is its type; `truth` is None where nobody knows it."""

    id: str
    kind: str
    question: str
    truth: str | None = None


class Queries(ABC):
    """The questions of one file, or the built-in ones."""

    name: str
    """As given on the command line: where the questions are from."""
    fingerprint: str
    """SHA-256 of their text: a run goes on only with the same questions."""

    @abstractmethod
    def about(self, planned: PlannedSet) -> Sequence[Query]:
        """Returns what is asked of a frame set."""

    @abstractmethod
    def samples(self) -> frozenset[str] | None:
        """Returns the tokens of the keyframes that are asked about; None for every frame set."""

    @abstractmethod
    def score(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Scores answers by query id: those that were asked, of all that there are. Returns JSON values."""

    @abstractmethod
    def table(self, answers: Mapping[str, str]) -> str:
        """Returns the scores as text."""


class NuScenesQaQueries(Queries):
    """A file in NuScenes-QA's schema: exact match by type and number of hops. A query's id is its place in the file."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self.fingerprint = name, _sha256(path)
        self._questions = read_question_set(path).questions
        self._by_sample: dict[str, list[int]] = defaultdict(list)
        for i, question in enumerate(self._questions):
            self._by_sample[question.sample_token].append(i)

    def about(self, planned: PlannedSet) -> Sequence[Query]:
        """Returns the questions about a keyframe."""
        numbers = self._by_sample.get(planned.sample or "", [])
        return [self._query(i, self._questions[i]) for i in numbers]

    def samples(self) -> frozenset[str] | None:
        """Tokens of the keyframes."""
        return frozenset(self._by_sample)

    def score(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Exact match, beside the majority answer of each type."""
        items = self._items(answers)
        return {"nuscenes_qa": score(items).to_json(), "majority": score(majority_baseline(items)).to_json()}

    def table(self, answers: Mapping[str, str]) -> str:
        """Exact match by type."""
        items = self._items(answers)
        return text_table(score(items), {"majority": score(majority_baseline(items))})

    def _items(self, answers: Mapping[str, str]) -> list[ScoredItem]:
        asked = [(question, answers[str(i)]) for i, question in enumerate(self._questions) if str(i) in answers]
        return [ScoredItem(q.template_type, q.num_hop, q.question, q.answer, answer) for q, answer in asked]

    @staticmethod
    def _query(number: int, question: Question) -> Query:
        return Query(str(number), question.template_type, question.question, question.answer)


class DriveLmQueries(Queries):
    """A DriveLM file: the challenge's scores without its judge. A query's id is the challenge's own."""

    def __init__(self, path: Path, name: str) -> None:
        self.name, self.fingerprint = name, _sha256(path)
        self._questions = read_drivelm(path)
        self._by_frame: dict[str, list[DriveLmQuestion]] = defaultdict(list)
        for question in self._questions:
            self._by_frame[question.frame].append(question)

    def about(self, planned: PlannedSet) -> Sequence[Query]:
        """Returns the questions about a keyframe, in the challenge's order."""
        return [Query(q.id, q.group, q.question, q.answer) for q in self._by_frame.get(planned.sample or "", [])]

    def samples(self) -> frozenset[str] | None:
        """Tokens of the keyframes."""
        return frozenset(self._by_frame)

    def score(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Accuracy, match, language and the final score."""
        asked = [question for question in self._questions if question.id in answers]
        return {"drivelm": score_drivelm(asked, [answers[question.id] for question in asked]).to_json()}

    def table(self, answers: Mapping[str, str]) -> str:
        """One score a line."""
        scores = self.score(answers)["drivelm"]
        flat = {k: v for k, v in scores.items() if k not in ("language", "questions")} | (scores["language"] or {})
        asked = ", ".join(f"{count} {name}" for name, count in scores["questions"].items())
        lines = [f"{name:<28}{value:.4f}" if isinstance(value, float) else f"{name:<28}{value}" for name, value in flat.items()]
        return "\n".join([f"{'scored':<28}{asked}", *lines])


class DrivingQueries(Queries):
    """The built-in driving questions, asked of every frame set."""

    name = "builtin:driving"

    def __init__(self) -> None:
        self.fingerprint = hashlib.sha256(repr(DRIVING).encode()).hexdigest()

    def about(self, planned: PlannedSet) -> Sequence[Query]:
        """Returns all of them, whatever the set."""
        where = planned.sample or str(planned.stamp_ns)
        return [Query(f"{where}_{i}", kind, question) for i, (kind, question) in enumerate(DRIVING)]

    def samples(self) -> frozenset[str] | None:
        """None: every frame set is asked about."""
        return None

    def score(self, answers: Mapping[str, str]) -> dict[str, Any]:  # noqa: ARG002
        """Nothing: there is no truth."""
        return {}

    def table(self, answers: Mapping[str, str]) -> str:
        """Says how many answers there are."""
        return f"{len(answers)} answers to the built-in driving questions, which have no truth to be scored by"


def open_queries(spec: str) -> Queries:
    """Opens what --questions names.

    Raises:
        DatasetError: it names nothing that there is, or the file has another schema.
    """
    kind, colon, rest = spec.partition(":")
    if kind == "builtin":
        if rest != "driving":
            raise DatasetError(f"no built-in questions {rest!r}: there is builtin:driving")
        return DrivingQueries()
    if colon and kind == "recorded":
        from leo_edge.replay.recorded import RecordedQueries  # bags are read with a package of their own

        return RecordedQueries(Path(rest), spec)
    if colon and kind == "drivelm":
        return DriveLmQueries(Path(rest), spec)
    if colon and kind == "nuscenes-qa":
        return NuScenesQaQueries(Path(rest), spec)
    if not Path(spec).is_file():
        raise DatasetError(f"no question file {spec}: give FILE (NuScenes-QA's schema), or one of {', '.join(KINDS)}")
    return NuScenesQaQueries(Path(spec), spec)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DatasetError(f"cannot read question file {path} ({error.strerror}): check the path") from error
