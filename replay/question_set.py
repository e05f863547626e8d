"""Question sets in the JSON schema of NuScenes-QA (arXiv 2305.14836, https://github.com/qiantianwen/NuScenes-QA)."""

from __future__ import annotations

import dataclasses
import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.whole_file import write_whole

_MEND = "mend the entry, or get the set again"


@dataclass(frozen=True)
class Question:
    """One entry, its fields named as in the file.

    `num_hop` is 1 where a relation, such as a direction, leads to what is asked about, else 0. `split` is in some files only.
    """

    sample_token: str
    question: str
    answer: str
    template_type: str
    num_hop: int
    split: str | None = None

    def __post_init__(self) -> None:
        for name in ("sample_token", "question", "answer", "template_type", "split"):
            value = getattr(self, name)
            absent = name == "split" and value is None
            if not absent and not (isinstance(value, str) and value.strip()):
                raise ValueError(f"{name} is {reprlib.repr(value)}, expected text")
        if not self.template_type.isprintable():
            raise ValueError(f"template_type is {reprlib.repr(self.template_type)}, expected text that a table can show")
        if type(self.num_hop) is not int or self.num_hop not in (0, 1):
            raise ValueError(f"num_hop is {reprlib.repr(self.num_hop)}, expected 0 or 1")

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as it stands in a file."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


_FIELDS = tuple(entry.name for entry in dataclasses.fields(Question))
_REQUIRED = tuple(name for name in _FIELDS if name != "split")


@dataclass(frozen=True)
class QuestionSet:
    """Questions in the order of the file, at least one. `info` is whatever its makers say about them, and may be empty."""

    questions: tuple[Question, ...]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.questions:
            raise ValueError("questions is empty, expected at least one")

    def to_json(self) -> str:
        """Returns the text of the file, one question a line."""
        info = f'"info": {json.dumps(self.info)},\n' if self.info else ""
        rows = ",\n".join(json.dumps(question.to_json()) for question in self.questions)
        return f'{{{info}"questions": [\n{rows}\n]}}\n'


def read_question_set(path: str | PathLike[str]) -> QuestionSet:
    """Reads a question set. An answer that is a number becomes text, as in NuScenes-QA's own scorer.

    Raises:
        DatasetError: no such file, not JSON, no questions, or an entry with a field too many, too few or of another form.
    """
    raw = read_json(Path(path))
    if not isinstance(raw, dict) or not isinstance(raw.get("questions"), list):
        got = f"an object with {_listed(raw)}" if isinstance(raw, dict) else f"a {type(raw).__name__}"
        raise DatasetError(f'{path} holds {got}, expected {{"questions": [...]}} as in NuScenes-QA: give a question set')
    if unknown := set(raw) - {"info", "questions"}:
        raise DatasetError(f"{path} has {_listed(unknown)}, expected info and questions only: take out the rest")
    info = raw.get("info", {})
    if not isinstance(info, dict):
        raise DatasetError(f"{path}: info is {reprlib.repr(info)}, expected an object: take it out, or get the set again")
    if not raw["questions"]:
        raise DatasetError(f"{path}: questions is empty, expected at least one: give another split, or make a larger set")
    return QuestionSet(tuple(_question(entry, f"{path}: questions[{i}]") for i, entry in enumerate(raw["questions"])), info)


def write_question_set(path: str | PathLike[str], questions: QuestionSet) -> None:
    """Writes a question set, whole or not at all.

    Raises:
        DatasetError: there is something at `path` already, or it cannot be written.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise DatasetError(f"{target} exists already: remove it, or write to another file")
    try:
        write_whole(target, questions.to_json())
    except OSError as error:
        raise DatasetError(f"cannot write {target} ({error.strerror}): give a folder that can be written") from error


def read_json(path: Path) -> Any:
    """Returns what a file of questions holds.

    Raises:
        DatasetError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"cannot read question set {path} ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"question set {path} is not JSON ({error}): it is truncated or altered, get it again") from error


def _question(raw: object, where: str) -> Question:
    """Builds one entry; `where` names it in an error."""
    if not isinstance(raw, dict):
        raise DatasetError(f"{where} is {reprlib.repr(raw)}, expected an object: {_MEND}")
    missing, unknown = set(_REQUIRED) - set(raw), set(raw) - set(_FIELDS)
    if missing or unknown:
        got = " and ".join([f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(unknown)}"] * bool(unknown))
        raise DatasetError(f"{where} {got}, expected {', '.join(_REQUIRED)}: {_MEND}")
    answer = str(raw["answer"]) if type(raw["answer"]) is int else raw["answer"]
    try:
        return Question(**raw | {"answer": answer})
    except ValueError as error:
        raise DatasetError(f"{where}.{error}: {_MEND}") from None


def _listed(names: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(reprlib.repr(name) for name in sorted(names)[:5]) or "nothing"
