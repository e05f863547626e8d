"""What is given up when time is short: a ladder of steps, chosen from predicted times, and corrected by missed deadlines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.stage_model import StageModel, Work, first_that_fits

# No share of the visual tokens: one that was trained with all of them falls from 93 to 53 % with half (docs/ros.md).
DEFAULT_STEPS = ("max_tiles=3", "side_every=3", "max_new_tokens=16")

_STEP = re.compile(r"(max_tiles|side_every|visual_tokens|max_new_tokens)=([0-9.]+)")
_MISSES_DOWN = 2  # of so many missed deadlines in a row the ladder is gone down: one alone may be chance
_GOOD_UP, _MOST_GOOD_UP = 20, 640  # answers in a row with time to spare before it is gone up
_SPARE = 0.7  # of the deadline: an answer that took less had time to spare
_SPARE_UP = 0.9  # of what is left of it: a prediction must fit in to go up


@dataclass(frozen=True)
class Economy:
    """What is given up.

    max_tiles: the most tiles of a camera; None: the bundle's.
    side_every: cameras beside the anchor are encoded anew only in every so-manieth set.
    visual_tokens: the share of a camera's visual tokens that the language model is shown.
    max_new_tokens: the longest answer; None: the node's own.
    """

    max_tiles: int | None = None
    side_every: int = 1
    visual_tokens: float = 1.0
    max_new_tokens: int | None = None


def parse_step(step: str, economy: Economy) -> Economy:
    """Returns the economy with one more step, such as `side_every=3`.

    Raises:
        LeoEdgeError: it is no step.
    """
    match = _STEP.fullmatch(step.strip())
    try:
        if match is None:
            raise ValueError
        name, value = match[1], float(match[2])
        if name == "visual_tokens":
            if not 0 < value <= 1:
                raise ValueError
            return replace(economy, visual_tokens=value)
        if value != int(value) or value < 1:
            raise ValueError
        return replace(economy, **{name: int(value)})
    except ValueError:
        raise LeoEdgeError(
            f"degrade has {step!r}: a step is max_tiles=N, side_every=N, visual_tokens=SHARE (0 to 1) or max_new_tokens=N"
        ) from None


def parse_ladder(steps: Sequence[str]) -> tuple[Economy, ...]:
    """Returns the economy of each level; level 0 gives up nothing.

    Raises:
        LeoEdgeError: a step is none.
    """
    levels = [Economy()]
    for step in steps:
        levels.append(parse_step(step, levels[-1]))
    return tuple(levels)


class Ladder:
    """Where on the ladder we stand.

    Before a set's work starts, `choose` takes the first level whose predicted time fits what is left of the deadline; it goes
    up only where that leaves some of it. Beside it stands the least level, which answers decide: two missed deadlines in a row
    go a step down from where we are. Twenty answers in a row with time to spare take a step of it back; if a step down follows
    before twenty more, the next try waits twice as long: so it does not swing between two steps. Without predictions, the
    least level is the level.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        """Begins at the top.

        Raises:
            LeoEdgeError: a step is none.
        """
        self.steps = tuple(steps)
        self.levels = parse_ladder(steps)
        self.level = 0
        self._least = self._chosen = 0
        self._misses = self._good = 0
        self._good_up = _GOOD_UP
        self._since_up: int | None = None

    @property
    def economy(self) -> Economy:
        """What is given up now."""
        return self.levels[self.level]

    @property
    def in_force(self) -> tuple[str, ...]:
        """The steps that are in force."""
        return self.steps[: self.level]

    def choose(self, model: StageModel, works: Sequence[Work] | None, left_ms: float | None) -> str | None:
        """Chooses the level for a set, whose work at each level is `works`; returns why it changed, None if it did not.

        Where there is no deadline, or the work or its time is not known, nothing changes.
        """
        if left_ms is None or works is None or len(self.levels) == 1:
            return None
        found = first_that_fits(model, works, left_ms, level=self.level, spare=_SPARE_UP)
        if found is None:
            return None
        self._chosen, times = found
        before, self.level = self.level, max(self._chosen, self._least)
        if self.level == before:
            return None
        if self.level > before:
            steps = ", ".join(self.steps[before : self.level])
            return f"{times[before]:.0f} ms predicted, {left_ms:.0f} left: {steps}"
        steps = ", ".join(self.steps[self.level : before])
        return f"{times[self.level]:.0f} ms predicted without, {left_ms:.0f} left: {steps} taken back"

    def record(self, since_set_ms: float, deadline_ms: float | None) -> str | None:
        """Notes how long after its set an answer was there; returns why the level changed, None if it did not."""
        if deadline_ms is None or len(self.levels) == 1:
            return None
        late, spare = since_set_ms > deadline_ms, since_set_ms < _SPARE * deadline_ms
        self._misses = self._misses + 1 if late else 0
        self._good = self._good + 1 if spare else 0
        if self._since_up is not None:
            self._since_up += 1
            if self._since_up > _GOOD_UP and not late:
                self._since_up, self._good_up = None, _GOOD_UP
        if self._misses >= _MISSES_DOWN and self.level < len(self.steps):
            return self._down(since_set_ms, deadline_ms)
        if self._good >= self._good_up and self._least > 0:
            return self._up(deadline_ms)
        return None

    def _down(self, since_set_ms: float, deadline_ms: float) -> str:
        if self._since_up is not None:
            self._good_up = min(2 * self._good_up, _MOST_GOOD_UP)
        self._since_up = None
        self._least = self.level = self.level + 1
        misses, self._misses, self._good = self._misses, 0, 0
        step = self.steps[self.level - 1]
        return f"{misses} answers in a row missed {deadline_ms:g} ms, the last after {since_set_ms:.0f}: {step}"

    def _up(self, deadline_ms: float) -> str | None:
        before = self.level
        self._least -= 1
        self.level = max(self._least, self._chosen)
        good, self._misses, self._good, self._since_up = self._good, 0, 0, 0
        if self.level == before:
            return None
        return f"{good} answers in a row took less than {_SPARE:.0%} of {deadline_ms:g} ms: {self.steps[self.level]} taken back"
