"""What a device will need for a bundle, predicted by a roofline, and which settings meet a deadline.

A run of a stage takes as long as its products or its bytes, whichever is longer, and an overhead (Williams, Waterman and
Patterson, "Roofline", CACM 2009): max(FLOPs / reachable FLOP/s, bytes / reachable bytes/s) + overhead. Calibration by results
measured on the device (`plan_fit`) puts a fixed and a proportional part of its own in the place of overhead and efficiency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from leo_edge.bench.devices import Device
from leo_edge.bench.plan_work import FRAME_SET, INT4, INT8, TOKEN, Setting, StageWork, WorkCounter
from leo_edge.runtime.tiles import choose_grid, num_tiles

_SIDE_EVERY = (1, 2, 3, 6)
VISUAL_SHARES = (1.0, 0.75, 0.5, 0.25)
_ANSWER_SHARES = (1.0, 0.5, 0.25)
# Bits of a weight: what a precision keeps.
_BITS = {None: 16, "float16": 16, INT8: 8, INT4: 4}


@dataclass(frozen=True)
class Fit:
    """A stage's time as `fixed_ms` + `scale` x what the roofline says without an overhead."""

    fixed_ms: float
    scale: float


@dataclass(frozen=True)
class Predictor:
    """Predicts stages on a device. `fits` are those of calibration; `rest_ms` is what no stage accounts for, per answer."""

    device: Device
    fits: Mapping[str, Fit] = field(default_factory=dict)
    rest_ms: float = 0.0

    def stage_ms(self, work: StageWork) -> float:
        """Returns how long one run of a stage takes."""
        fit = self.fits.get(work.stage)
        if fit is None:
            return self.roofline_ms(work) + self.device.efficiencies.overhead_ms.value
        return fit.fixed_ms + fit.scale * self.roofline_ms(work)

    def roofline_ms(self, work: StageWork) -> float:
        """Returns the time of products or bytes, whichever is longer."""
        return 1e3 * max(work.flops / self.device.peak(work.precision), work.moved_bytes / self.device.bandwidth)


@dataclass(frozen=True)
class Prediction:
    """Predicted times. `stages_ms` of one run each; `answer_ms` from a frame set to the last of its answers."""

    stages_ms: Mapping[str, float]
    encode_ms: float
    first_token_ms: float
    answer_ms: float
    memory_gb: float


def predict(counter: WorkCounter, setting: Setting, predictor: Predictor, *, questions: int = 1) -> Prediction:
    """Predicts a setting: `questions` about one frame set, one after the other, each with the whole answer."""
    stages = counter.stages(setting)
    times = {work.stage: predictor.stage_ms(work) for work in stages}
    encode_ms = sum(times[work.stage] for work in stages if work.per == FRAME_SET)
    first_ms = sum(times[work.stage] for work in stages if work.per not in (FRAME_SET, TOKEN))
    token_ms = sum(times[work.stage] for work in stages if work.per == TOKEN)
    each_ms = first_ms + (setting.answer_tokens - 1) * token_ms
    memory_gb = counter.memory_bytes(setting) / 1e9 + predictor.device.efficiencies.runtime_gb.value
    return Prediction(times, encode_ms, first_ms, encode_ms + questions * each_ms + predictor.rest_ms, memory_gb)


@dataclass(frozen=True)
class Asked:
    """What is to be planned: `deadline_ms` of all answers from when the frame set is there.

    visual_shares: those of a camera's visual tokens that may be tried. precisions: None is the one that the graphs have.
    """

    cameras: int
    text_tokens: int
    question_tokens: int
    answer_tokens: int
    deadline_ms: float
    questions: int = 1
    image_px: tuple[int, int] = (1600, 900)
    precisions: tuple[str | None, ...] = (None,)
    visual_shares: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("cameras", "text_tokens", "question_tokens", "answer_tokens", "questions", "deadline_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Choice:
    """One setting by what it gives up. `max_tiles` as the node has it, the thumbnail not among them."""

    precision: str | None
    max_tiles: int
    tiles: int
    side_every: int
    visual_share: float
    answer_tokens: int
    prediction: Prediction

    @property
    def kept(self) -> tuple[float, ...]:
        """What stands for quality, the larger the better; in the order in which it is held on to."""
        return (self.answer_tokens, self.visual_share, -self.side_every, self.tiles, _BITS[self.precision])


@dataclass(frozen=True)
class Plan:
    """All that was tried, the front of it, and what to take: None where nothing meets the deadline.

    front: settings that meet the deadline and memory, of which nothing more can be kept without giving up something else.
    """

    choices: tuple[Choice, ...]
    front: tuple[Choice, ...]
    best: Choice | None

    @property
    def fastest(self) -> Choice:
        """The fastest that fits the memory, or of all if none does."""
        return min(self.choices, key=lambda choice: choice.prediction.answer_ms)


def search(counter: WorkCounter, asked: Asked, predictor: Predictor) -> Plan:
    """Tries all settings."""
    choices = tuple(_choices(counter, asked, predictor))
    memory_gb = predictor.device.memory_gb
    met = [c for c in choices if c.prediction.answer_ms <= asked.deadline_ms and c.prediction.memory_gb <= memory_gb]
    front = pareto_front(met)
    return Plan(choices, front, front[0] if front else None)


def pareto_front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Returns those that no other one equals or beats in all that is kept; what is held on to longest comes first.

    Of those that keep the same, the fastest.
    """
    fastest: dict[tuple[float, ...], Choice] = {}
    for choice in sorted(choices, key=lambda choice: choice.prediction.answer_ms):
        fastest.setdefault(choice.kept, choice)
    front = [c for c in fastest.values() if not any(_beats(other.kept, c.kept) for other in fastest.values())]
    return tuple(sorted(front, key=lambda choice: choice.kept, reverse=True))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine >= yours for mine, yours in zip(one, other, strict=True))


def encoded_cameras(cameras: int, side_every: int) -> int:
    """Returns how many cameras a set encodes at most: the anchor, and those of the others whose turn it is."""
    return 1 + math.ceil((cameras - 1) / side_every)


def _choices(counter: WorkCounter, asked: Asked, predictor: Predictor) -> Iterator[Choice]:
    facts = counter.facts
    every = dict.fromkeys(min(number, max(1, asked.cameras - 1)) for number in _SIDE_EVERY)
    answers = dict.fromkeys(max(1, round(asked.answer_tokens * share)) for share in _ANSWER_SHARES)
    for (max_tiles, tiles), side_every, share, answer, precision in product(
        tile_choices(counter, asked.image_px), every, asked.visual_shares, answers, asked.precisions
    ):
        per_camera = facts.fuse.num_tokens * (tiles if facts.fuse.unit == "tile" else 1)
        setting = Setting(
            cameras=asked.cameras,
            encoded_cameras=encoded_cameras(asked.cameras, side_every),
            tiles=tiles,
            visual_tokens=asked.cameras * max(1, round(share * per_camera)),
            text_tokens=asked.text_tokens,
            question_tokens=asked.question_tokens,
            answer_tokens=answer,
            precision=precision,
            image_px=asked.image_px,
        )
        if setting.prompt_tokens + answer > facts.decoder.context_len:
            continue
        prediction = predict(counter, setting, predictor, questions=asked.questions)
        yield Choice(precision, max_tiles, tiles, side_every, share, answer, prediction)


def tile_choices(counter: WorkCounter, image_px: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Returns what max_tiles may be, and how many tiles an image then gives: each number once, by its largest bound."""
    found: dict[int, int] = {}
    for max_tiles in range(counter.facts.tiling.max_tiles, 0, -1):
        tiling = counter.facts.tiling.at_most(max_tiles)
        found.setdefault(num_tiles(choose_grid(*image_px, tiling), tiling), max_tiles)
    return tuple((max_tiles, tiles) for tiles, max_tiles in found.items())
