"""Plays a drive through a pipeline: what each frame set was answered, when, and what was dropped or late.

Latency has two parts: on a vehicle a set waits until the pipeline is free (`waited_ms`), then it is encoded and asked about.
Reading images from the disk has no counterpart there, since cameras deliver them decoded: it is done ahead, and noted.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from leo_edge.replay.player import Clock, Turn, loading_ahead, play
from leo_edge.replay.queries import Queries, Query
from leo_edge.replay.run_files import Json, Outcome
from leo_edge.replay.source import Drive, PlannedSet, plan_sets
from leo_edge.runtime.answer import Answer
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import AskOptions, left_ms
from leo_edge.runtime.spans import spans_to_json
from leo_edge.runtime.tokens import VisualTokens


class Answering(Protocol):
    """What is used of a `Pipeline`."""

    def encode(self, frame_set: FrameSet) -> VisualTokens:
        """Runs the vision experts."""

    def ask(self, tokens: VisualTokens | None, question: str, options: AskOptions | None = None) -> Answer:
        """Answers a question about encoded frames."""


@dataclass(frozen=True)
class PlayOptions:
    """How drives are played. `rate` None: as fast as possible. `deadline_ms` counts from when a set is there."""

    rate: float | None = None
    deadline_ms: float | None = None
    max_new_tokens: int = 32

    def to_json(self) -> Json:
        """Returns them as a run's files keep them."""
        return {"rate": self.rate, "deadline_ms": self.deadline_ms, "max_new_tokens": self.max_new_tokens}


class Replayer:
    """One pipeline, one set of questions, one clock; drives one after another."""

    def __init__(self, pipeline: Answering, queries: Queries, options: PlayOptions, clock: Clock) -> None:
        self._pipeline, self._queries, self._options, self._clock = pipeline, queries, options, clock

    def replay(self, drive: Drive, *, after_set: int = -1) -> Iterator[Outcome]:
        """Yields what each set adds to a run's files, then the drive's end. Sets up to number `after_set` were done before.

        As fast as possible, sets that nobody asks about are passed over: nothing depends on them.

        Raises:
            LeoEdgeError: an image is absent or unreadable, or a question cannot be asked.
        """
        planned = plan_sets(drive)
        asked = planned if self._options.rate is not None else [one for one in planned if self._queries.about(one)]
        left = [one for one in asked if one.number > after_set]
        start_ns = self._clock.now_ns()
        dropped = 0
        with loading_ahead(left) as load:
            for turn in play(left, self._clock, self._options.rate):
                if turn.dropped:
                    yield self._dropped(drive, turn, start_ns)
                else:
                    yield self._taken(drive, turn, load(turn.planned), start_ns)
                dropped += turn.dropped
        yield Outcome(
            (),
            {
                "drive": drive.name,
                "num_sets": len(planned),
                "num_taken": len(left) - dropped,
                "num_dropped": dropped,
                "drive_s": (planned[-1].ready_ns - planned[0].ready_ns) / 1e9,
                "wall_s": (self._clock.now_ns() - start_ns) / 1e9,
                "resumed": after_set >= 0,
                "peak_memory_mb": _peak_memory_mb(),
            }
            | ({"notes": list(drive.notes)} if drive.notes else {}),
        )

    def _dropped(self, drive: Drive, turn: Turn, start_ns: int) -> Outcome:
        unanswered = len(self._queries.about(turn.planned))
        return Outcome((), self._times(drive, turn, start_ns) | {"outcome": "dropped", "unanswered": unanswered})

    def _taken(self, drive: Drive, turn: Turn, frame_set: FrameSet, start_ns: int) -> Outcome:
        loaded_ns = self._clock.now_ns()
        # As fast as possible there is nothing to be late for but the images.
        there_ns = loaded_ns if self._options.rate is None else turn.ready_ns
        tokens = self._pipeline.encode(frame_set)
        encoded_ns = self._clock.now_ns()
        answers, times = [], []
        for query in self._queries.about(turn.planned):
            asked_ns = self._clock.now_ns()
            answer = self._pipeline.ask(tokens, query.question, self._ask_options(asked_ns - there_ns))
            answered_ns = self._clock.now_ns()
            late = self._options.deadline_ms is not None and answered_ns - there_ns > self._options.deadline_ms * 1e6
            answers.append(_answer_line(drive, turn.planned, query, answer))
            times.append(_answer_times(query, answer, asked_ns, answered_ns, there_ns) | {"late": late})
        taken_ns = turn.taken_ns or turn.ready_ns
        timing = self._times(drive, turn, start_ns) | {
            "outcome": "answered" if answers else "encoded",
            "waited_ms": (taken_ns - turn.ready_ns) / 1e6,
            "load_ms": (loaded_ns - taken_ns) / 1e6,
            "encode_ms": (encoded_ns - loaded_ns) / 1e6,
            "done_ms": (self._clock.now_ns() - start_ns) / 1e6,
            "spans": spans_to_json(tokens.spans),
            "answers": times,
        }
        return Outcome(tuple(answers), timing)

    def _ask_options(self, passed_ns: int) -> AskOptions:
        return AskOptions(self._options.max_new_tokens, left_ms(self._options.deadline_ms, passed_ns))

    @staticmethod
    def _times(drive: Drive, turn: Turn, start_ns: int) -> dict[str, Any]:
        planned = turn.planned
        return {
            "drive": drive.name,
            "set": planned.number,
            "sample": planned.sample,
            "stamp_ns": planned.stamp_ns,
            "ready_ms": (turn.ready_ns - start_ns) / 1e6,
        }


def _answer_line(drive: Drive, planned: PlannedSet, query: Query, answer: Answer) -> Json:
    return {
        "id": query.id,
        "drive": drive.name,
        "sample": planned.sample,
        "stamp_ns": planned.stamp_ns,
        "kind": query.kind,
        "question": query.question,
        "truth": query.truth,
        "answer": answer.text,
        "finish": answer.finish.value,
        "num_tokens": len(answer.token_ids),
        "age_ms": dict(answer.age_ms),
        "missing": list(answer.missing),
    }


def _answer_times(query: Query, answer: Answer, asked_ns: int, answered_ns: int, there_ns: int) -> Json:
    return {
        "id": query.id,
        "first_token_ms": answer.first_token_ms,
        "per_token_ms": answer.per_token_ms,
        "answer_ms": (answered_ns - asked_ns) / 1e6,
        "since_ready_ms": (answered_ns - there_ns) / 1e6,
        "spans": spans_to_json(answer.spans),
    }


def _peak_memory_mb() -> float:
    """Returns the most memory that this process has held, in MB of 1e6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
