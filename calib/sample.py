"""Which frames and questions to calibrate on: spread over conditions, drives and kinds of questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from leo_edge.runtime.errors import CalibrationError

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Candidate:
    """A frame set that may be taken: where it is, its drive, and the conditions there ("day", "night", "rain")."""

    drive: str
    number: int
    conditions: str


def conditions_of(description: str) -> str:
    """Returns the conditions of a drive, from its description, as nuScenes writes them: "Night, Rain, ..."."""
    words = description.lower()
    return " ".join(word for word in ("night", "rain") if word in words) or "day"


def choose_frames(candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    """Chooses frame sets in turn from each condition, within it from each drive, within that at random.

    Raises:
        CalibrationError: there are fewer than `count`.
    """
    if count < 1:
        raise CalibrationError(f"--frames must be at least 1, got {count}")
    if len(candidates) < count:
        raise CalibrationError(
            f"{count} frames were asked for, there are {len(candidates)} with questions: give more drives or fewer --frames"
        )
    random = np.random.default_rng(seed)
    shuffled = [candidates[i] for i in random.permutation(len(candidates))]
    by_condition: dict[str, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for one in shuffled:
        by_condition[one.conditions][one.drive].append(one)
    in_turn = [list(_in_turn(drives.values())) for _, drives in sorted(by_condition.items())]
    return list(_in_turn(in_turn))[:count]


def choose_questions(kinds: Sequence[str], count: int, asked: Counter[str]) -> list[int]:
    """Chooses questions by their kinds, those that were asked least so far first; notes them in `asked`."""
    left, chosen = list(range(len(kinds))), list[int]()
    while left and len(chosen) < count:
        best = min(left, key=lambda i: (asked[kinds[i]], i))
        asked[kinds[best]] += 1
        left.remove(best)
        chosen.append(best)
    return chosen


def _in_turn(lists: Iterable[Sequence[Candidate]]) -> Iterable[Candidate]:
    """Yields the first of each, then the second of each, and so on."""
    lists = list(lists)
    for place in range(max(map(len, lists), default=0)):
        yield from (one[place] for one in lists if place < len(one))
