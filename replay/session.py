"""A whole replay: plays what is left to play of its drives, and writes the run's files."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leo_edge.replay.player import WallClock
from leo_edge.replay.queries import Queries
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.run_files import FORMAT, Json, Outcome, writing
from leo_edge.replay.source import FrameSource
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.pipeline import open_pipeline


@dataclass(frozen=True)
class ReplayJob:
    """How a replay is done."""

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


def run_replay(
    job: ReplayJob,
    directory: Path,
    bundle: Bundle,
    source: FrameSource,
    queries: Queries,
    *,
    on_outcome: Progress = lambda _: None,
) -> None:
    """Plays every drive that `directory` does not hold yet, and writes answers.jsonl and timing.jsonl there.

    Raises:
        LeoEdgeError: something is missing or broken; what was done until then is kept.
    """
    check_asked(queries, source)
    identity = identity_of(job, bundle, source, queries)
    with writing(directory, identity, whole_drives=job.play.rate is not None) as files:
        left = [name for name in source.drive_names() if name not in files.done.drives]
        if not left:
            return
        pipeline = open_pipeline(bundle, job.backend, threads=job.threads)
        replayer = Replayer(pipeline, queries, job.play, WallClock())
        for i, name in enumerate(left):
            for outcome in replayer.replay(source.drive(name), after_set=files.done.last_set if i == 0 else -1):
                files.add([outcome])
                on_outcome(outcome)


def peak_memory_mb() -> float:
    """Returns the most memory that this process has held, in MB of 1e6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
