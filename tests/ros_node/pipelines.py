"""A pipeline that takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from leo_edge.runtime.answer import Answer
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline
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
