"""A whole replay: plays what is left to play of its drives, here or elsewhere, and writes the run's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from leo_edge.replay.player import WallClock
from leo_edge.replay.queries import open_queries
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.run_files import FORMAT, Json, Outcome, writing
from leo_edge.replay.source import SourceOptions
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.pipeline import open_pipeline


@dataclass(frozen=True)
class ReplayJob:
    """A replay in plain values, which can be sent to another process. `questions` is what --questions names."""

    bundle: Path
    source: SourceOptions
    questions: str
    play: PlayOptions
    backend: str = "auto"
    threads: int = 0


class OpenReplay:
    """A job with everything open: bundle, drives, questions, and, once a drive is played, the pipeline."""

    def __init__(self, job: ReplayJob, bundle: Bundle | None = None) -> None:
        """Opens a job; `bundle` is its bundle where that is open already.

        Raises:
            LeoEdgeError: something is missing or broken, or the questions are about other drives.
        """
        self.job = job
        self.bundle = bundle or open_bundle(job.bundle)
        self.source, self.queries = job.source.open(), open_queries(job.questions)
        self._check_asked()

    def identity(self) -> Json:
        """Returns what tells a run from others: an interrupted one goes on only if all of this is the same."""
        return {
            "format": FORMAT,
            "bundle": self.bundle.id,
            "source": self.source.describe(),
            "drives": list(self.source.drive_names()),
            "questions": self.queries.name,
            "questions_sha256": self.queries.fingerprint,
            "play": self.job.play.to_json(),
        }

    def play(self, drive: str, after_set: int = -1) -> Iterator[Outcome]:
        """Plays a drive from the set after number `after_set` on; see `Replayer.replay`."""
        return self._replayer.replay(self.source.drive(drive), after_set=after_set)

    @cached_property
    def _replayer(self) -> Replayer:
        pipeline = open_pipeline(self.bundle, self.job.backend, threads=self.job.threads)
        return Replayer(pipeline, self.queries, self.job.play, WallClock())

    def _check_asked(self) -> None:
        wanted, names = self.queries.samples(), self.source.drive_names()
        if wanted is None or any(not wanted.isdisjoint(self.source.drive(name).sample_stamps_ns) for name in names):
            return
        raise DatasetError(
            f"none of the {len(wanted)} keyframes that {self.queries.name} asks about is in the drives {', '.join(names[:5])}"
            f"{' and others' if len(names) > 5 else ''}: give the questions of these drives, or other drives"
        )


@dataclass(frozen=True)
class Part:
    """A drive to be played, from the set after number `after_set` on."""

    drive: str
    after_set: int = -1


PlayParts = Callable[[OpenReplay, Sequence[Part]], Iterator[Outcome]]
"""Plays parts and yields what each adds to the files, in their order, wherever the work is done."""


def play_here(replay: OpenReplay, parts: Sequence[Part]) -> Iterator[Outcome]:
    """Plays parts one after another in this process."""
    for part in parts:
        yield from replay.play(part.drive, part.after_set)


def run_replay(
    replay: OpenReplay,
    directory: Path,
    *,
    play_parts: PlayParts = play_here,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> None:
    """Plays every drive that `directory` does not hold yet, and writes answers.jsonl and timing.jsonl there.

    `on_outcome` hears of every set that is done, and of every drive's end.

    Raises:
        LeoEdgeError: something is missing or broken; what was done until then is kept.
    """
    with writing(directory, replay.identity(), whole_drives=replay.job.play.rate is not None) as files:
        left = [Part(name) for name in replay.source.drive_names() if name not in files.done.drives]
        if not left:
            return
        left[0] = Part(left[0].drive, files.done.last_set)
        for outcome in play_parts(replay, left):
            files.add([outcome])
            on_outcome(outcome)
