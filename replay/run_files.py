"""The files of a replay run: written line by line, whole after any crash, and gone on with where they stop.

run.json          what was replayed: bundle, questions, drives, rate. A run goes on only with the same.
answers.jsonl     one line per question, in the order of the drives. Nothing in it depends on how fast the machine is, unless
                  sets were dropped or answers cut short for being late.
timing.jsonl      one line per frame set, with the times of its stages and answers; one at the end of each drive.
summary.json, report.html   made from these at the end.

A set's answers are written before its line in timing.jsonl: what has no such line is cut off and done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.whole_file import write_whole

Json = dict[str, Any]
SetKey = tuple[str, str | None, int]
AnswersBySet = dict[SetKey, list[Json]]

FORMAT = 2
_RUN, _ANSWERS, _TIMING = "run.json", "answers.jsonl", "timing.jsonl"
_NOT_COMPARED = frozenset({"questions"})  # where they lie: for the reader


@dataclass(frozen=True)
class Outcome:
    """What one frame set, or the end of a drive, adds to the files."""

    answers: tuple[Json, ...]
    timing: Json


@dataclass(frozen=True)
class Run:
    """What is in the files of a run."""

    identity: Json
    answers: tuple[Json, ...]
    timing: tuple[Json, ...]

    def answers_by_set(self) -> AnswersBySet:
        """Returns the lines of answers by the `set_key` of their frame set."""
        by_set: AnswersBySet = defaultdict(list)
        for line in self.answers:
            by_set[set_key(line)].append(line)
        return dict(by_set)

    @property
    def sets(self) -> list[Json]:
        """The lines of frame sets."""
        return [line for line in self.timing if "set" in line]

    @property
    def ends(self) -> list[Json]:
        """The lines at the ends of drives."""
        return [line for line in self.timing if "set" not in line]


@dataclass(frozen=True)
class Done:
    """How far a run got: drives that are finished, and in the one after them, the number of the last set (-1: none)."""

    drives: tuple[str, ...]
    last_set: int


def set_key(line: Json) -> SetKey:
    """Returns which frame set a line is about: drive, keyframe and stamp. Two keyframes may have one stamp."""
    return line["drive"], line["sample"], line["stamp_ns"]


class RunFiles:
    """The files of a run that is being written."""

    def __init__(self, directory: Path, answers: IO[bytes], timing: IO[bytes], done: Done) -> None:
        self.directory, self.done = directory, done
        self._answers, self._timing = answers, timing

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Appends lines; both files are on their way to the disk when it returns."""
        for outcome in outcomes:
            self._answers.write(b"".join(_line(answer) for answer in outcome.answers))
            self._answers.flush()
            self._timing.write(_line(outcome.timing))
            self._timing.flush()


@contextmanager
def writing(directory: Path, identity: Json, *, whole_drives: bool) -> Iterator[RunFiles]:
    """Opens a run's files for appending: new ones, or those of an interrupted run, cut back to what was finished.

    `whole_drives` cuts back to the last drive that was finished: one that is played in real time cannot begin in the middle.

    Raises:
        DatasetError: the directory holds another run or something else, another process writes to it, or it is unwritable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        there = [path.name for path in directory.iterdir() if not path.name.startswith(".")]
        if there and _RUN not in there:
            raise DatasetError(f"{directory} holds something else than a replay run: choose another --out")
        with (directory / ".lock").open("w") as lock:
            _lock(lock, directory)
            _claim(directory, identity)
            done = _cut_back(directory, whole_drives=whole_drives)
            with (directory / _ANSWERS).open("ab") as answers, (directory / _TIMING).open("ab") as timing:
                yield RunFiles(directory, answers, timing, done)
    except OSError as error:
        raise DatasetError(f"cannot write the run {directory} ({error.strerror}): choose another --out") from error


def read_run(directory: Path) -> Run:
    """Reads a run's files; half a line at their ends is left out.

    Raises:
        DatasetError: there is no run, or its files were altered.
    """
    identity = _read_identity(directory)
    answers, timing = (tuple(_read_lines(directory / name)[0]) for name in (_ANSWERS, _TIMING))
    return Run(identity, answers, timing)


def _lock(lock: IO[str], directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatasetError(f"another replay is writing to {directory}: wait for it, or choose another --out") from None


def _claim(directory: Path, identity: Json) -> None:
    """Notes what the run is, or checks that it is the same."""
    if not (directory / _RUN).exists():
        write_whole(directory / _RUN, json.dumps(identity, indent=1) + "\n")
        return
    there = _read_identity(directory)
    for key in identity:
        if key not in _NOT_COMPARED and there.get(key) != identity[key]:
            raise DatasetError(
                f"{directory} is a run with {key} {_short(there.get(key))}, now asked for with {_short(identity[key])}: "
                f"choose another --out, or the same options to go on with it"
            )


def _read_identity(directory: Path) -> Json:
    path = directory / _RUN
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"no {path}: give the directory of a replay run") from None
    except (ValueError, OSError) as error:
        raise DatasetError(f"cannot read {path} ({error}): it was altered, run the replay anew") from error
    if not isinstance(identity, dict) or identity.get("format") != FORMAT:
        got = identity.get("format") if isinstance(identity, dict) else type(identity).__name__
        raise DatasetError(f"{path} has format {got!r}, expected {FORMAT}: run the replay anew")
    return identity


def _cut_back(directory: Path, *, whole_drives: bool) -> Done:
    """Cuts the files back to what was finished and says how far that is."""
    timing, timing_ends = _read_lines(directory / _TIMING)
    ended = [i for i, line in enumerate(timing) if "set" not in line]
    kept = (ended[-1] + 1 if ended else 0) if whole_drives else len(timing)
    num_answers = sum(len(line.get("answers", ())) for line in timing[:kept])
    answers, answer_ends = _read_lines(directory / _ANSWERS)
    if len(answers) < num_answers:
        raise DatasetError(
            f"{directory / _ANSWERS} has {len(answers)} answers, {_TIMING} tells of {num_answers}: the run was altered, "
            f"remove it and run the replay anew"
        )
    _truncate(directory / _ANSWERS, [0, *answer_ends][num_answers])
    _truncate(directory / _TIMING, [0, *timing_ends][kept])
    drives = tuple(str(timing[i]["drive"]) for i in ended if i < kept)
    last = timing[kept - 1] if kept else {}
    return Done(drives, int(last.get("set", -1)))


def _read_lines(path: Path) -> tuple[list[Json], list[int]]:
    """Returns the whole lines of a file and where each one ends, in bytes."""
    lines: list[Json] = []
    ends: list[int] = []
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return lines, ends
    for number, line in enumerate(raw.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(_object(line))
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}, is no JSON object ({error}): it was altered, run anew") from error
        ends.append((ends[-1] if ends else 0) + len(line))
    return lines, ends


def _object(line: bytes) -> Json:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(type(value).__name__)
    return value


def _truncate(path: Path, size: int) -> None:
    if path.exists():
        os.truncate(path, size)


def _line(value: Json) -> bytes:
    # ASCII: no character in it ends a line but the last.
    return json.dumps(value).encode("ascii") + b"\n"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
