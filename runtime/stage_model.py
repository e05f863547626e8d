"""How long work takes, learned from work that was done: each stage a fixed part and one in proportion to its work.

The vision experts and cutting go by tiles; converting, fusion, router and prompt by cameras; prefill by prompt tokens, decoding
by answer tokens. A stage of another name is taken for constant. What is learned is robust: medians, so that an outlier
changes nothing; slopes only between amounts of work that differ by more than noise, and never such that a part is below zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leo_edge.runtime.spans import Span

_FEWEST = 3  # observations of a stage before it is known
_KEPT = 12  # of each amount of work, the newest
_MOST_AMOUNTS = 8
_LEAST_SPREAD = 0.1  # of the larger: amounts that are nearer to each other tell no slope
# Of a stage of which one amount alone was seen: it is said to shrink less than its work does. Tokens cost what they cost.
_FIXED_SHARE, _IN_PROPORTION = 0.2, frozenset({"decode"})
_ERRORS_KEPT, _ERRORS_FEWEST = 20, 3
_QUANTILE = 0.9
_LEAST_MARGIN, _MOST_MARGIN, _FIRST_MARGIN = 1.05, 2.0, 1.2


@dataclass(frozen=True)
class EncodeWork:
    """What of a frame set is encoded: so many cameras, with so many tiles in all. Nothing where all was encoded before."""

    cameras: int
    tiles: int

    def __post_init__(self) -> None:
        if min(self.cameras, self.tiles) < 0:
            raise ValueError(f"cameras and tiles must be at least 0, got {self.cameras} and {self.tiles}")


@dataclass(frozen=True)
class AskWork:
    """One question: about so many cameras, with prompt and answer of so many tokens."""

    cameras: int
    prompt_tokens: int
    answer_tokens: int

    def __post_init__(self) -> None:
        if self.cameras < 0 or self.prompt_tokens < 1 or self.answer_tokens < 0:
            raise ValueError(f"a question has a prompt, and counts of at least 0, got {self}")


@dataclass(frozen=True)
class Work:
    """A frame set and the questions about it."""

    encode: EncodeWork
    asks: tuple[AskWork, ...]


class StageModel:
    """Learns from spans of finished work and predicts the time of other work, in milliseconds."""

    def __init__(self) -> None:
        self._encode: dict[str, _Line] = {}
        self._ask: dict[str, _Line] = {}
        self._errors: deque[float] = deque(maxlen=_ERRORS_KEPT)

    def observe_encode(self, work: EncodeWork, spans: Sequence[Span]) -> None:
        """Learns from an encoded frame set."""
        if work.cameras:
            _observe(self._encode, spans, {"convert": work.cameras}, work.tiles)

    def observe_ask(self, work: AskWork, spans: Sequence[Span]) -> None:
        """Learns from an answer."""
        _observe(self._ask, spans, _ask_amounts(work), 1)

    def observe_whole(self, predicted_ms: float, measured_ms: float) -> None:
        """Notes how far a prediction was off, of work as it was in the end."""
        if predicted_ms > 0:
            self._errors.append(measured_ms / predicted_ms)

    def predict(self, work: Work) -> dict[str, float] | None:
        """Returns each stage's time, those of several questions added up; None while a stage is not known well enough.

        Stages of encoding and of asking that share a name are told apart by "ask." before the latter.
        """
        lines = {**(self._encode if work.encode.cameras else {}), **(self._ask if work.asks else {})}
        unknown = (work.encode.cameras and not self._encode) or (work.asks and not self._ask)
        if unknown or not all(line.known for line in lines.values()):
            return None
        times: dict[str, float] = {}
        if work.encode.cameras:
            converted, tiles = work.encode.cameras, work.encode.tiles
            times = {name: line.predict(converted if name == "convert" else tiles) for name, line in self._encode.items()}
        for ask in work.asks:
            amounts = _ask_amounts(ask)
            for name, line in self._ask.items():
                key = f"ask.{name}" if name in self._encode else name
                times[key] = times.get(key, 0.0) + line.predict(amounts.get(name, 1))
        return times

    def predict_ms(self, work: Work) -> float | None:
        """Returns the time of all stages together; None while one is not known."""
        times = self.predict(work)
        return None if times is None else sum(times.values())

    @property
    def margin(self) -> float:
        """By how much a prediction is to be multiplied so that nine of ten works were within it."""
        if len(self._errors) < _ERRORS_FEWEST:
            return _FIRST_MARGIN
        return float(np.clip(np.quantile(self._errors, _QUANTILE), _LEAST_MARGIN, _MOST_MARGIN))


def first_that_fits(
    model: StageModel, works: Sequence[Work], left_ms: float, *, level: int = 0, spare: float = 1.0
) -> tuple[int, list[float]] | None:
    """Chooses the first of `works`, which give up more and more, whose time with the margin fits; the last where none does.

    Below `level`, the one in force, it must fit into `spare` of the time, so that noise does not swing the choice.

    Returns: the choice, and the predicted times with the margin; None while the model knows too little.
    """
    times = [model.predict_ms(work) for work in works]
    safe = [time_ms * model.margin for time_ms in times if time_ms is not None]
    if len(safe) < len(works) or not works:
        return None
    fits = (i for i, time_ms in enumerate(safe) if time_ms <= left_ms * (spare if i < level else 1.0))
    return next(fits, len(works) - 1), safe


class _Line:
    """One stage: observations by amount of work, and the line through them."""

    def __init__(self, fixed_share: float) -> None:
        self._fixed_share = fixed_share
        self._times: dict[float, deque[float]] = {}
        self._fitted: tuple[float, float] | None = None

    @property
    def known(self) -> bool:
        return sum(map(len, self._times.values())) >= _FEWEST

    def add(self, amount: float, duration_ms: float) -> None:
        times = self._times.pop(amount, None) or deque(maxlen=_KEPT)
        times.append(duration_ms)
        self._times[amount] = times  # last: the newest
        if len(self._times) > _MOST_AMOUNTS:
            del self._times[next(iter(self._times))]
        self._fitted = None

    def predict(self, amount: float) -> float:
        if self._fitted is None:
            self._fitted = self._line()
        fixed_ms, each_ms = self._fitted
        return fixed_ms + each_ms * amount

    def _line(self) -> tuple[float, float]:
        """Returns fixed part and slope: the median of the slopes between amounts (Theil 1950, Sen 1968), within bounds."""
        amounts = np.array([amount for amount, times in self._times.items() for _ in times])
        times = np.array([time for each in self._times.values() for time in each])
        if not amounts.any():
            return float(np.median(times)), 0.0
        ratio = float(np.median(times[amounts > 0] / amounts[amounts > 0]))
        left, right = np.triu_indices(len(amounts), 1)
        apart = np.abs(amounts[left] - amounts[right]) > _LEAST_SPREAD * np.maximum(amounts[left], amounts[right])
        if apart.any():
            slopes = (times[left] - times[right])[apart] / (amounts[left] - amounts[right])[apart]
            slope = float(np.clip(np.median(slopes), 0.0, ratio))
        else:
            slope = (1 - self._fixed_share) * ratio
        return max(0.0, float(np.median(times - slope * amounts))), slope


def _ask_amounts(work: AskWork) -> Mapping[str, int]:
    cameras = dict.fromkeys(("fuse", "router", "prompt"), work.cameras)
    return cameras | {"prefill": work.prompt_tokens, "decode": work.answer_tokens}


def _observe(lines: dict[str, _Line], spans: Sequence[Span], amounts: Mapping[str, int], default: int) -> None:
    """Adds up spans of one name, and learns from each sum."""
    sums: dict[str, float] = {}
    for span in spans:
        sums[span.name] = sums.get(span.name, 0.0) + span.duration_ms
    for name, duration_ms in sums.items():
        line = lines.setdefault(name, _Line(0.0 if name in _IN_PROPORTION else _FIXED_SHARE))
        line.add(amounts.get(name, default), duration_ms)
