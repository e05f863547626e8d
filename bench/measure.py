"""Rounds of one question about one frame set, every stage timed, several subjects in turns.

A subject is a bundle that is open, or a process that speaks the protocol of `versus`. Warm-up rounds come first and are kept
apart. The answer has a fixed length: what ends an answer early would make rounds, and bundles, differ in the work they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from leo_edge.bench.result import Load, StageSamples
from leo_edge.runtime.answer import Answer
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline, Savings
from leo_edge.runtime.spans import Clock, Span
from leo_edge.runtime.tokens import VisualTokens

FIRST_TOKEN, ANSWER, DECODE = "first_token", "answer", "decode"
_FEWEST_WARM_UPS, _MOST_WARM_UPS = 2, 10
# Warm-up ends with the first round that gains less than this on the one before it.
_STABLE = 0.05


@dataclass(frozen=True)
class StageTime:
    """How long a stage took in one round, in milliseconds; `per` as in `StageSamples`."""

    per: str
    ms: float


Round = Mapping[str, StageTime]


class Subject(Protocol):
    """What is measured."""

    def round(self, number: int) -> Round:
        """Does the work of one round and returns its stages, in the order of the data. `ANSWER`, the whole, is among them.

        Raises:
            LeoEdgeError: it cannot.
        """
        ...


class PipelineSubject:
    """A pipeline that encodes a frame set and answers one question about it each round, always with as many tokens.

    Frame sets take turns. Every answer is a first one unless `savings` lets it reuse what one before it did.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        frame_sets: Sequence[FrameSet],
        question: str,
        *,
        answer_tokens: int,
        max_tiles: int | None = None,
        savings: bool = False,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        """`clock` times the whole; the stages come from the pipeline's own spans.

        Raises:
            LeoEdgeError: the images are of several sizes, so there is no one number of tiles.
        """
        if answer_tokens < 2:
            raise ValueError(f"answer_tokens must be at least 2, got {answer_tokens}: the first is not among `decode`")
        if not frame_sets:
            raise ValueError("at least one frame set is needed, got none")
        sizes = sorted({(frame.width, frame.height) for each in frame_sets for frame in each.frames.values()})
        if len(sizes) > 1:
            stated = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise LeoEdgeError(f"the images are of {stated} pixels, expected one size: give frames of cameras that are alike")
        self._image_px = sizes[0]
        self._pipeline = replace(_without_stops(pipeline), savings=Savings(prefix=savings, speculation=savings))
        self._frame_sets, self._question = tuple(frame_sets), question
        self._options, self._max_tiles, self._clock = AskOptions(max_new_tokens=answer_tokens), max_tiles, clock
        self._load: Load | None = None

    @property
    def load(self) -> Load:
        """What a round asks for, known once one was done."""
        assert self._load is not None
        return self._load

    def round(self, number: int) -> Round:
        """See `Subject`."""
        frame_set = self._frame_sets[number % len(self._frame_sets)]
        start_ns = self._clock()
        tokens = self._pipeline.encode(frame_set, max_tiles=self._max_tiles)
        answer = self._pipeline.ask(tokens, self._question, self._options)
        whole_ms = (self._clock() - start_ns) / 1e6
        assert len(answer.token_ids) == self._options.max_new_tokens, answer.finish
        assert answer.per_token_ms is not None
        if self._load is None:
            self._load = self._load_of(tokens, answer)
        stages = _times(answer.encode_spans, "frame set") | _times(answer.spans, "question")
        return stages | {
            DECODE: StageTime("token", answer.per_token_ms),
            FIRST_TOKEN: StageTime("question", answer.first_token_ms),
            ANSWER: StageTime("frame set", whole_ms),
        }

    def _load_of(self, tokens: VisualTokens, answer: Answer) -> Load:
        return Load(
            cameras=len(tokens.cameras),
            tiles_per_camera=tokens.cameras[0].num_tiles,
            image_px=self._image_px,
            visual_tokens=answer.num_visual_tokens,
            text_tokens=answer.num_prompt_tokens - answer.num_visual_tokens,
            question_tokens=len(self._pipeline.tokenizer.encode(self._question, special=False)),
            answer_tokens=len(answer.token_ids),
        )


def warm_up(subject: Subject) -> tuple[Round, ...]:
    """Runs rounds until one is hardly faster than the one before it, and returns them."""
    rounds: list[Round] = []
    while len(rounds) < _MOST_WARM_UPS:
        rounds.append(subject.round(len(rounds)))
        if len(rounds) >= _FEWEST_WARM_UPS and rounds[-1][ANSWER].ms >= (1 - _STABLE) * rounds[-2][ANSWER].ms:
            break
    return tuple(rounds)


def take_turns(
    subjects: Sequence[Subject], rounds: int, on_round: Callable[[], None] = lambda: None
) -> tuple[tuple[Round, ...], ...]:
    """Runs every subject `rounds` times and returns each one's rounds. Two go A B, B A, A B: neither is always the first.

    `on_round` is called after each round of all.
    """
    measured: list[list[Round]] = [[] for _ in subjects]
    for number in range(rounds):
        order = range(len(subjects)) if number % 2 == 0 else reversed(range(len(subjects)))
        for i in order:
            measured[i].append(subjects[i].round(number))
        on_round()
    return tuple(tuple(each) for each in measured)


def samples_of(rounds: Sequence[Round]) -> dict[str, StageSamples]:
    """Returns each stage's samples over the rounds, the whole last. A stage that did not run in a round took no time in it."""
    first = {name: stage.per for each in rounds for name, stage in each.items()}
    names = sorted(first, key=lambda name: (FIRST_TOKEN, ANSWER).index(name) if name in (FIRST_TOKEN, ANSWER) else -1)
    nothing = StageTime("", 0.0)
    return {name: StageSamples(first[name], tuple(each.get(name, nothing).ms for each in rounds)) for name in names}


def sets_per_s(stages: Mapping[str, StageSamples]) -> float:
    """Returns how many frame sets with their answer were done per second, one after the other."""
    answers_ms = stages[ANSWER].samples_ms
    return 1e3 * len(answers_ms) / sum(answers_ms)


def _times(spans: Sequence[Span], per: str) -> dict[str, StageTime]:
    """Adds up spans of one name. `decode` is left out: it is given per token."""
    sums: dict[str, float] = {}
    for span in spans:
        if span.name != DECODE:
            sums[span.name] = sums.get(span.name, 0.0) + span.duration_ms
    return {name: StageTime(per, duration_ms) for name, duration_ms in sums.items()}


def _without_stops(pipeline: Pipeline) -> Pipeline:
    """Returns the pipeline with nothing that ends an answer but its length."""
    bundle = pipeline.bundle
    prompt = replace(bundle.manifest.prompt, stop_ids=(), stop_strings=())
    return replace(pipeline, bundle=replace(bundle, manifest=replace(bundle.manifest, prompt=prompt)))
