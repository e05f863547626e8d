"""The answers to the questions about cameras, counted again without anything of demo/questions but the names of directions."""

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
                more = [number(channel, index)[i] > number(channel, other)[i] for i in (0, 1)]
                none_sure = number(channel, index)[0] + number(channel, other)[0] == 0
                answer = None if none_sure or more[0] != more[1] else "yes" if more[0] else "no"
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
    """What everything that is about as near as the nearest has in common, sure or not; nothing if there is nothing."""
    told = []
    for group in both:
        chosen = [one for one in group if one.kind in kinds]
        nearest = min((one.distance_m for one in chosen), default=0.0)
        told.append({word(one) for one in chosen if 0.85 * one.distance_m < nearest})
    if not told[1]:
        return {}
    certain = told[0] == told[1] and len(told[0]) == 1
    return {(*form, direction): next(iter(told[0])) if certain else None}
