"""The answers to the questions about cameras, counted again without anything of demo/questions but the names of directions."""

import itertools
from collections.abc import Callable

from leo_edge.demo.questions.ask import DIRECTIONS
from leo_edge.demo.world.kinds import BICYCLE, BUS, CAR, COLOUR_NAMES, KINDS, TRUCK
from leo_edge.demo.world.observe import Shown

Answers = dict[tuple[str, ...], str | None]
"""By (form, *slots); None where objects in doubt change the answer."""
Word = Callable[[Shown], str | None]


def naive_answers(shown: dict[str, tuple[Shown, ...]]) -> Answers:
    """Counts again: the answer to each question (form, *slots), None where objects in doubt change it."""
    found: Answers = {}
    both = {channel: ([one for one in seen if one.sure], list(seen)) for channel, seen in shown.items()}

    def number(channel: str, kind: int, colour: str | None = None) -> tuple[int, int]:
        sure, everything = (
            len([one for one in group if one.kind == kind and (colour is None or one.colour == colour)])
            for group in both[channel]
        )
        return sure, everything

    for channel, words in DIRECTIONS.items():
        for index, kind in enumerate(KINDS):
            sure, everything = number(channel, index)
            found["exist", kind.name, words] = "yes" if sure else "no" if not everything else None
            found["count", kind.plural, words] = str(sure) if sure == everything <= 4 else None
            for other, other_kind in enumerate(KINDS):
                if other == index or number(channel, index)[1] + number(channel, other)[1] == 0:
                    continue
                (least, most), (other_least, other_most) = number(channel, index), number(channel, other)
                answer = "yes" if least > other_most else "no" if most <= other_least else None
                answer = None if least + other_least == 0 else answer
                found["more than", kind.plural, other_kind.plural, words] = answer
            for there in set(DIRECTIONS) - {channel}:
                here_and_there = (number(channel, index), number(there, index))
                if here_and_there == ((0, 0), (0, 0)):
                    continue
                certain = all(a == b <= 4 for a, b in here_and_there)
                answer = "yes" if here_and_there[0][0] > here_and_there[1][0] else "no"
                found["more here", kind.plural, words, DIRECTIONS[there]] = answer if certain else None
        for colour in COLOUR_NAMES:
            sure, everything = number(channel, CAR, colour)
            found["exist coloured", colour, words] = "yes" if sure else "no" if not everything else None
        found.update(
            naive_nearest(both[channel], ("nearest",), words, set(range(len(KINDS))), lambda one: KINDS[one.kind].name)
        )
        found.update(naive_nearest(both[channel], ("colour",), words, {CAR}, lambda one: one.colour))
        for index in (CAR, TRUCK, BUS, BICYCLE):
            found.update(naive_nearest(both[channel], ("status", KINDS[index].name), words, {index}, lambda one: one.status))
    return found


def naive_nearest(
    both: tuple[list[Shown], list[Shown]], form: tuple[str, ...], direction: str, kinds: set[int], word: Word
) -> Answers:
    """What everything that is about as near as the nearest has in common, whichever two of those in doubt are counted.

    Nothing if there is nothing.
    """
    sure, everything = ([one for one in group if one.kind in kinds] for group in both)
    if not everything:
        return {}
    doubtful = [one for one in everything if not one.sure]
    told = []
    for some in (some for number in range(3) for some in itertools.combinations(doubtful, number)):
        nearest = min((one.distance_m for one in (*sure, *some)), default=0.0)
        told.append({word(one) for one in (*sure, *some) if 0.85 * one.distance_m < nearest})
    certain = len(told[0]) == 1 and all(one == told[0] for one in told)
    return {(*form, direction): next(iter(told[0])) if certain else None}
