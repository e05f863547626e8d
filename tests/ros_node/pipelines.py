"""A pipeline that takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from leo_edge.runtime.answer import Answer
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline
from leo_edge.runtime.spans import Span
from leo_edge.runtime.tokens import VisualTokens


class SlowPipeline(Pipeline):
    """A real pipeline whose answers take `ask_s` longer. Notes what it was asked to do."""

    ask_s: float
    encoded: list[tuple[str, ...]]
    asked: list[tuple[str, AskOptions]]

    @classmethod
    def of(cls, pipeline: Pipeline, ask_s: float = 0.0) -> SlowPipeline:
        slow = cls(**{field.name: getattr(pipeline, field.name) for field in fields(pipeline)})
        for name, value in (("ask_s", ask_s), ("encoded", []), ("asked", [])):
            object.__setattr__(slow, name, value)
        return slow

    def encode(self, frame_set: FrameSet, **options: Any) -> VisualTokens:
        self.encoded.append(frame_set.channels)
        return super().encode(frame_set, **options)

    def ask(
        self,
        tokens: VisualTokens | None,
        question: str,
        options: AskOptions | None = None,
        *,
        now_ns: int | None = None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        self.asked.append((question, options or AskOptions()))
        end = time.monotonic() + self.ask_s
        while time.monotonic() < end:
            on_text("")
            time.sleep(0.005)
        return super().ask(tokens, question, options, now_ns=now_ns, on_text=on_text)


class FakeClock:
    """A clock that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def span(self, name: str, duration_ms: float) -> Span:
        """Moves on, and returns a span of that time."""
        start_ns, self.now_ns = self.now_ns, self.now_ns + round(duration_ms * 1e6)
        return Span(name, start_ns, self.now_ns)


class CostedPipeline(SlowPipeline):
    """A real pipeline whose stages take a known time on a clock of its own: 10 ms a tile, 20 a prompt and 5 an answer's token.

    Times `slowdown`. Its answers are always as long as may be: neither deadlines nor stop tokens cut them.
    """

    clock: FakeClock
    slowdown: float

    @classmethod
    def costed(cls, pipeline: Pipeline, clock: FakeClock) -> CostedPipeline:
        costed = cls(**{field.name: getattr(pipeline, field.name) for field in fields(pipeline)})
        prompt = replace(pipeline.bundle.manifest.prompt, stop_ids=(), stop_strings=())
        bundle = replace(pipeline.bundle, manifest=replace(pipeline.bundle.manifest, prompt=prompt))
        object.__setattr__(costed, "bundle", bundle)
        for name, value in (("clock", clock), ("slowdown", 1.0), ("ask_s", 0.0), ("encoded", []), ("asked", [])):
            object.__setattr__(costed, name, value)
        return costed

    def encode(self, frame_set: FrameSet, **options: Any) -> VisualTokens:
        tokens = super().encode(frame_set, **options)
        tiles = sum(camera.num_tiles for camera in tokens.cameras)
        return replace(tokens, spans=(self.clock.span("vision.vit", 10 * tiles * self.slowdown),))

    def ask(
        self,
        tokens: VisualTokens | None,
        question: str,
        options: AskOptions | None = None,
        *,
        now_ns: int | None = None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        uncut = replace(options or AskOptions(), deadline_ms=None)
        answer = super().ask(tokens, question, uncut, now_ns=now_ns, on_text=on_text)
        times = {"prefill": 20.0, "decode": 5.0 * len(answer.token_ids)}
        return replace(answer, spans=tuple(self.clock.span(name, ms * self.slowdown) for name, ms in times.items()))
