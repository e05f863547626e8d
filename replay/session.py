"""A whole replay: opens bundle, drives and questions, plays what is left to play, and writes the run's files."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from leo_edge.replay.player import WallClock
from leo_edge.replay.queries import Queries, open_queries
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.run_files import FORMAT, Json, Outcome, writing
from leo_edge.replay.source import FrameSource
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.pipeline import open_pipeline


class SourceOptions(Protocol):
    """Says which drives, in plain values that a worker elsewhere can be sent."""

    def open(self) -> FrameSource:
        """Opens the drives.

        Raises:
            DatasetError: they are not there, or incomplete.
        """


@dataclass(frozen=True)
class ReplayJob:
    """Everything that a replay is made of, in plain values."""

    bundle: Path
    source: SourceOptions
    questions: str
    play: PlayOptions
    backend: str = "auto"
    threads: int = 0


Progress = Callable[[Outcome], None]
"""Hears of every set that is done, and of every drive's end."""


def identity_of(job: ReplayJob, bundle: Bundle, source: FrameSource, queries: Queries) -> Json:
    """Returns what tells a run from others: an interrupted one goes on only if all of this is the same."""
    return {
        "format": FORMAT,
        "bundle": bundle.id,
        "source": source.describe(),
        "drives": list(source.drive_names()),
        "questions": queries.name,
        "questions_sha256": queries.fingerprint,
        "play": job.play.to_json(),
    }


def check_asked(queries: Queries, source: FrameSource) -> None:
    """Checks that the questions are about these drives.

    Raises:
        DatasetError: none of them is.
    """
    wanted = queries.samples()
    names = source.drive_names()
    if wanted is None or any(not wanted.isdisjoint(source.drive(name).sample_stamps_ns) for name in names):
        return
    raise DatasetError(
        f"none of the {len(wanted)} keyframes that {queries.name} asks about is in the drives {', '.join(names[:5])}"
        f"{' and others' if len(names) > 5 else ''}: give the questions of these drives, or other --scenes"
    )


def replay_drives(job: ReplayJob, bundle: Bundle, names: list[str], *, after_set: int = -1) -> Iterator[Outcome]:
    """Yields what drives add to a run's files, one after another, in this process."""
    pipeline = open_pipeline(bundle, job.backend, threads=job.threads)
    source, queries = job.source.open(), open_queries(job.questions)
    replayer = Replayer(pipeline, queries, job.play, WallClock())
    for i, name in enumerate(names):
        yield from replayer.replay(source.drive(name), after_set=after_set if i == 0 else -1)


def run_replay(
    job: ReplayJob,
    directory: Path,
    bundle: Bundle,
    *,
    on_outcome: Progress = lambda _: None,
    play_drives: Callable[..., Iterator[Outcome]] = replay_drives,
) -> None:
    """Plays every drive that `directory` does not hold yet, and writes answers.jsonl and timing.jsonl there.

    Raises:
        LeoEdgeError: something is missing or broken; what was done until then is kept.
    """
    source, queries = job.source.open(), open_queries(job.questions)
    check_asked(queries, source)
    identity = identity_of(job, bundle, source, queries)
    with writing(directory, identity, whole_drives=job.play.rate is not None) as files:
        left = [name for name in source.drive_names() if name not in files.done.drives]
        if not left:
            return
        for outcome in play_drives(job, bundle, left, after_set=files.done.last_set):
            files.add([outcome])
            on_outcome(outcome)


def peak_memory_mb() -> float:
    """Returns the most memory that this process has held, in MB of 1e6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
