"""DriveLM's question files and its challenge's scores (arXiv 2312.14150, https://github.com/OpenDriveLab/DriveLM/tree/main/challenge).

The challenge asks a hosted language model to judge some answers and half of each match; no judge is asked here. Those scores
are left out, and `DriveLmScores.to_json` says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from statistics import fmean
from typing import Any

from leo_edge.replay.language import LanguageScores, language_scores
from leo_edge.replay.question_set import read_json
from leo_edge.runtime.errors import DatasetError

Point = tuple[float, float]

GROUPS = ("perception", "prediction", "planning", "behavior")
"""The kinds of questions, in the order in which a frame's are counted."""
ACCURACY, JUDGED, LANGUAGE, MATCH = range(4)
"""The challenge's tags: how an answer is scored."""
_NAMES = ("accuracy", "judged", "language", "match")

_MATCH_PX = 16.0
_NUMBER = re.compile(r"\d+\.\d+")
_YES_NO = re.compile(r"(yes|no)\b", re.IGNORECASE)
_WITHOUT_JUDGE = {"language": 0.2, "match": 0.2, "accuracy": 0.2}  # the judge has the other 0.4
_MEND = "mend the entry, or get the file again"


@dataclass(frozen=True)
class DriveLmQuestion:
    """One question about a frame. `number` counts the frame's questions over all groups; `frame` is a nuScenes sample token."""

    scene: str
    frame: str
    number: int
    group: str
    question: str
    answer: str
    tags: tuple[int, ...]
    inferred: bool
    """Whether the file has no tags, and these were found as the challenge's own script finds them."""

    @property
    def id(self) -> str:
        """The challenge's name for it."""
        return f"{self.scene}_{self.frame}_{self.number}"


@dataclass(frozen=True)
class DriveLmScores:
    """Means over what was scored; None where nothing was. `gated` questions build on objects that the first answer missed."""

    accuracy: float | None
    match: float | None
    language: LanguageScores | None
    counts: Mapping[str, int]
    gated: int
    inferred: bool

    @property
    def final(self) -> float:
        """The challenge's final score, 0 to 0.6, without the judge: what was not asked for counts 0."""
        parts = {
            "accuracy": self.accuracy or 0.0,
            "match": self.match or 0.0,
            "language": self.language.drivelm if self.language else 0.0,
        }
        return sum(weight * parts[name] for name, weight in _WITHOUT_JUDGE.items())

    def to_json(self) -> dict[str, Any]:
        """Returns them as JSON values."""
        return {
            "accuracy": self.accuracy,
            "match": self.match,
            "language": self.language.to_json() if self.language else None,
            "final_without_judge": self.final,
            "final_without_judge_at_most": sum(_WITHOUT_JUDGE.values()),
            "judge": "not asked: its 0.4 of the final score and its half of match are left out",
            "questions": dict(self.counts),
            "gated": self.gated,
            "tags": "inferred, so nothing is gated" if self.inferred else "of the file",
        }


def read_drivelm(path: str | PathLike[str]) -> tuple[DriveLmQuestion, ...]:
    """Reads a train or challenge file, frame by frame, in its order.

    Raises:
        DatasetError: no such file, not JSON, no question, or not of this schema.
    """
    if not Path(path).is_file():
        raise DatasetError(f"no file {path}: check the path")
    raw = read_json(Path(path))
    if not isinstance(raw, dict):
        raise DatasetError(f"{path} holds a {type(raw).__name__}, expected scenes by token as in DriveLM: give another file")
    questions: list[DriveLmQuestion] = []
    for scene, entry in raw.items():
        for frame, key_frame in _entries(path, f"scene {scene}", entry, "key_frames"):
            groups = dict(_entries(path, f"frame {frame}", key_frame, "QA"))
            if unknown := set(groups) - set(GROUPS):
                raise DatasetError(f"{path}: frame {frame} asks {sorted(unknown)}, expected {', '.join(GROUPS)}: {_MEND}")
            asked = [(group, qa) for group in GROUPS for qa in groups.get(group, [])]
            questions += [_question(path, scene, frame, i, group, qa) for i, (group, qa) in enumerate(asked)]
    if not questions:
        raise DatasetError(f"{path} holds no question, expected at least one: give another file")
    return tuple(questions)


def score_drivelm(questions: Sequence[DriveLmQuestion], answers: Sequence[str]) -> DriveLmScores:
    """Scores answers, given in the questions' order.

    Raises:
        DatasetError: not as many answers as questions, or none.
    """
    if not questions or len(questions) != len(answers):
        raise DatasetError(f"got {len(questions)} questions and {len(answers)} answers, expected as many and at least one")
    # Only the challenge's files begin each frame with the question after the important objects, which opens the gate.
    inferred = any(question.inferred for question in questions)
    scored = list(range(len(questions))) if inferred else gate(questions, answers)
    by_tag: dict[int, list[tuple[str, str]]] = {tag: [] for tag in range(len(_NAMES))}
    for i in scored:
        for tag in questions[i].tags:
            by_tag[tag].append((answers[i], questions[i].answer))
    exact = [answer == truth for answer, truth in by_tag[ACCURACY]]
    matched = [match_f1(answer, truth)[0] for answer, truth in by_tag[MATCH]]
    texts = by_tag[LANGUAGE]
    return DriveLmScores(
        accuracy=fmean(exact) if exact else None,
        match=fmean(matched) if matched else None,
        language=language_scores([a for a, _ in texts], [[truth] for _, truth in texts]) if texts else None,
        counts={name: len(by_tag[tag]) for tag, name in enumerate(_NAMES)},
        gated=len(questions) - len(scored),
        inferred=inferred,
    )


def gate(questions: Sequence[DriveLmQuestion], answers: Sequence[str]) -> list[int]:
    """Returns which questions are scored, by index: those that name only objects which their frame's first answer found."""
    found: dict[str, set[Point]] = {}
    scored: list[int] = []
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if question.frame not in found:
            found[question.frame] = set(match_f1(answer, question.answer)[1])
            scored.append(i)
        elif set(points(question.question)) <= found[question.frame]:
            scored.append(i)
    return scored


def match_f1(answer: str, truth: str) -> tuple[float, list[Point]]:
    """Returns F1 over coordinates, and the true points that were found.

    Each point of the answer, in its order, takes the nearest true one that is left, if that is less than 16 px away (L1).
    """
    left, found = points(truth), list[Point]()
    given = points(answer)
    for x, y in given:
        nearest = min(left, key=lambda p: abs(p[0] - x) + abs(p[1] - y), default=None)
        if nearest and abs(nearest[0] - x) + abs(nearest[1] - y) < _MATCH_PX:
            left.remove(nearest)
            found.append(nearest)
    total = len(given) + len(found) + len(left)
    return (2 * len(found) / total if total else 0.0), found


def points(text: str) -> list[Point]:
    """Returns the numbers with a decimal point in a text, in pairs; an odd last one is left out."""
    numbers = [float(number) for number in _NUMBER.findall(text)]
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def _inferred_tags(group: str, question: str, answer: str) -> tuple[int, ...]:
    """Tags as challenge/extract_data.py sets them; what it would have judged is scored as language."""
    if group == "behavior" or _YES_NO.match(answer) or "what is the moving status of object" in question.lower():
        return (ACCURACY,)
    return (MATCH,) if group == "prediction" and points(answer) else (LANGUAGE,)


def _question(path: str | PathLike[str], scene: str, frame: str, number: int, group: str, raw: Any) -> DriveLmQuestion:
    where = f"{path}: question {number} of frame {frame}"
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) and raw[key].strip() for key in ("Q", "A")):
        raise DatasetError(f"{where} lacks a text Q or A: {_MEND}")
    tags = raw.get("tag")
    if tags is None:
        own = _inferred_tags(group, raw["Q"], raw["A"])
        return DriveLmQuestion(scene, frame, number, group, raw["Q"], raw["A"], own, inferred=True)
    if not isinstance(tags, list) or not tags or not all(type(tag) is int and 0 <= tag < len(_NAMES) for tag in tags):
        raise DatasetError(f"{where} has tag {tags!r}, expected a list of numbers 0 to {len(_NAMES) - 1}: {_MEND}")
    return DriveLmQuestion(scene, frame, number, group, raw["Q"], raw["A"], tuple(tags), inferred=False)


def _entries(path: str | PathLike[str], where: str, raw: Any, key: str) -> list[tuple[str, Any]]:
    found = raw.get(key) if isinstance(raw, dict) else None
    if not isinstance(found, dict):
        raise DatasetError(f"{path}: {where} has no {key}, expected an object as in DriveLM: {_MEND}")
    return list(found.items())
