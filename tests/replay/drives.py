"""What replay's tests share: drives of made-up frames, and a pipeline that takes the time that it is told to take."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from leo_edge.replay.player import SimulatedClock
from leo_edge.replay.queries import Queries, Query
from leo_edge.replay.source import Drive, FrameRef, PlannedSet
from leo_edge.runtime.answer import Answer
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.frames import CameraFrame, FrameSet
from leo_edge.runtime.pipeline import AskOptions
from leo_edge.runtime.spans import Span
from leo_edge.runtime.tokens import VisualTokens

CAMERAS = ("A", "B", "C")
MS = 1_000_000


def frame(channel: str, stamp_ns: int) -> CameraFrame:
    return CameraFrame(channel, np.full((4, 6, 3), stamp_ns // MS % 256, np.uint8), stamp_ns)


def ref(channel: str, stamp_ms: float, sample: str | None = None) -> FrameRef:
    stamp_ns = round(stamp_ms * MS)
    return FrameRef(channel, stamp_ns, partial(frame, channel, stamp_ns), sample)


def drive_of(*refs: FrameRef, channels: tuple[str, ...] = CAMERAS, name: str = "drive") -> Drive:
    ordered = tuple(sorted(refs, key=lambda one: one.stamp_ns))
    samples = {one.sample: one.stamp_ns for one in ordered if one.sample}
    return Drive(name, channels, ordered, samples)


def keyframes(count: int, every_ms: float = 500, name: str = "drive") -> Drive:
    """A drive with `count` keyframes: every camera fires 10 ms after the one before."""
    return drive_of(
        *(ref(channel, 1000 + i * every_ms + 10 * j, f"{name}-{i}") for i in range(count) for j, channel in enumerate(CAMERAS)),
        name=name,
    )


class Asks(Queries):
    """So many questions about every keyframe."""

    name, fingerprint = "made up", "0" * 64

    def __init__(self, count: int = 1, about: Callable[[PlannedSet], bool] = lambda _: True) -> None:
        self._count, self._about = count, about

    def about(self, planned: PlannedSet) -> list[Query]:
        asked = planned.sample is not None and self._about(planned)
        return [Query(f"{planned.sample}_{i}", "kind", f"question {i}?", "yes") for i in range(self._count * asked)]

    def samples(self) -> frozenset[str] | None:
        return None

    def score(self, answers: object) -> dict[str, object]:
        return {"answers": answers}

    def table(self, answers: object) -> str:
        return str(answers)


class TimedPipeline:
    """Encodes and answers in a given time, on a simulated clock or, without one, on the machine's own."""

    def __init__(self, encode_ms: float, ask_ms: float, clock: SimulatedClock | None = None) -> None:
        self._encode_ms, self._ask_ms, self._clock = encode_ms, ask_ms, clock
        self.deadlines_ms: list[float | None] = []

    def encode(self, frame_set: FrameSet) -> VisualTokens:
        self._pass(self._encode_ms)
        return VisualTokens((), frame_set.missing, frame_set.stamp_ns, (Span("vision", 0, round(self._encode_ms * MS)),))

    def ask(self, tokens: VisualTokens | None, question: str, options: AskOptions | None = None) -> Answer:
        assert tokens is not None
        assert options is not None
        self.deadlines_ms.append(options.deadline_ms)
        self._pass(self._ask_ms)
        return Answer(
            question=question,
            text=f"at {tokens.stamp_ns}",
            token_ids=(1, 2),
            finish=Finish.STOP_TOKEN,
            stamp_ns=tokens.stamp_ns,
            camera_stamps_ns={},
            age_ms={},
            missing=tokens.missing,
            num_prompt_tokens=3,
            num_visual_tokens=2,
            deadline_met=None,
            first_token_ms=self._ask_ms / 2,
            per_token_ms=self._ask_ms / 2,
            spans=(Span("decode", 0, round(self._ask_ms * MS)),),
            bundle_id="bundle",
            backend="none",
        )

    def _pass(self, ms: float) -> None:
        if self._clock is None:
            time.sleep(ms / 1e3)
        else:
            self._clock.wait_until(self._clock.now_ns() + round(ms * MS))
