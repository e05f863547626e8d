"""From an observed keyframe to questions with true answers.

What is in doubt is left out: a question is kept only if its answer is the same with and without the objects that the cameras
show unclearly.

`by_camera` holds what the same question's answer would be for each camera alone (None where that has no meaning or is in
doubt): training can tell the model what each camera's visual tokens ought to carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from leo_edge.demo.world.kinds import BICYCLE, CAR, COLOUR_NAMES, CONSTRUCTION, KINDS, PEDESTRIAN
from leo_edge.demo.world.observe import Keyframe, Shown, lane_span
from leo_edge.demo.world.road import LANE_M
from leo_edge.demo.world.scene import EGO_FRONT_M, VEHICLES
from leo_edge.demo.world.shapes import GREEN, RED, YELLOW
from leo_edge.runtime.frames import NUSCENES_CAMERAS

DIRECTIONS = {
    "CAM_FRONT": "front",
    "CAM_FRONT_LEFT": "front left",
    "CAM_FRONT_RIGHT": "front right",
    "CAM_BACK": "back",
    "CAM_BACK_LEFT": "back left",
    "CAM_BACK_RIGHT": "back right",
}
QUESTION_TYPES = (
    "exist",
    "count",
    "object",
    "status",
    "comparison",
    "colour",
    "light",
    "distance",
    "lane_change",
    "action",
)
LARGEST_COUNT = 4
# Of two things, the nearer must be nearer by this factor, or which one is nearest is in doubt.
_NEARER = 0.85

_LIGHTS = {0: "no traffic light", GREEN: "green", YELLOW: "yellow", RED: "red"}
NO_VEHICLE = "no vehicle ahead"
_BANDS = ((10.0, "less than 10 meters"), (20.0, "10 to 20 meters"), (40.0, "20 to 40 meters"))
SAFE, NO_LANE, OCCUPIED = "yes", "no, there is no lane", "no, a vehicle is there"
STOP_RED, SLOW_YELLOW, GO_GREEN = "stop, the light is red", "slow down, the light is yellow", "go on, the light is green"
STOP_PERSON, KEEP_DISTANCE = "stop, a pedestrian is on the road", "keep distance, a vehicle is close ahead"
GO_CLEAR = "go on, the road is clear"

ANSWERS = (
    "yes",
    "no",
    *(str(i) for i in range(LARGEST_COUNT + 1)),
    *(kind.name for kind in KINDS),
    *("moving", "parked", "stopped", "with rider", "without rider"),
    *COLOUR_NAMES,
    *(answer for answer in _LIGHTS.values() if answer not in COLOUR_NAMES),
    *(band for _, band in _BANDS),
    NO_VEHICLE,
    NO_LANE,
    OCCUPIED,
    *(STOP_RED, SLOW_YELLOW, GO_GREEN, STOP_PERSON, KEEP_DISTANCE, GO_CLEAR),
)
"""Every answer that a question can have."""


@dataclass(frozen=True)
class Question:
    """What is asked, before it is put into words. `slots` fill the phrasings of `form`; `num_hop` is NuScenes-QA's."""

    kind: str
    form: str
    slots: tuple[str, ...]
    answer: str
    by_camera: tuple[str | None, ...]

    @property
    def num_hop(self) -> int:
        """1 where a direction is named, else 0."""
        return int(self.kind in ("exist", "count", "object", "status", "comparison", "colour"))


@dataclass
class Asked:
    """The questions of a keyframe, and how many were left out because their answer is in doubt."""

    questions: list[Question]
    in_doubt: int


Counts = tuple[tuple[int, ...], ...]

# Reads an answer off what a camera shows: None in doubt, "" where there is nothing to ask about.
Reading = Callable[[Sequence[Shown]], str | None]
_NOTHING: tuple[None, ...] = (None,) * len(NUSCENES_CAMERAS)


def ask_all(keyframe: Keyframe) -> Asked:
    """Returns every question that this keyframe can answer."""
    made = [*_about_cameras(keyframe), *_about_driving(keyframe)]
    kept = [question for question in made if question is not None]
    return Asked(kept, len(made) - len(kept))


def certain_counts(keyframe: Keyframe) -> Counts:
    """Returns how many of each kind each camera shows, [cameras, kinds]; -1 in doubt and above `LARGEST_COUNT`."""
    read = [[_undoubted(_counts(k), keyframe.shown[c]) for k in range(len(KINDS))] for c in NUSCENES_CAMERAS]
    return tuple(tuple(-1 if number is None else int(number) for number in camera) for camera in read)


def _about_cameras(keyframe: Keyframe) -> Iterator[Question | None]:
    for index, kind in enumerate(KINDS):
        there, number = _exists(index), _counts(index)
        yield from _each_camera(keyframe, "exist", "exist", (kind.name,), there)
        yield from _each_camera(keyframe, "count", "count", (kind.plural,), number)
        yield from _more_here_than_there(keyframe, index)
        for other in range(len(KINDS)):
            if other != index:
                slots = (kind.plural, KINDS[other].plural)
                yield from _each_camera(keyframe, "comparison", "more than", slots, _more(index, other))
    for colour in COLOUR_NAMES:
        yield from _each_camera(keyframe, "exist", "exist coloured", (colour,), _exists(CAR, colour))
    yield from _each_camera(keyframe, "object", "nearest", (), _nearest(_anything, lambda one: KINDS[one.kind].name))
    yield from _each_camera(keyframe, "colour", "colour", (), _nearest(lambda one: one.kind == CAR, lambda one: one.colour))
    for index in (*VEHICLES, BICYCLE):
        reading = _nearest(lambda one, index=index: one.kind == index, lambda one: one.status)  # type: ignore[misc]
        yield from _each_camera(keyframe, "status", "status", (KINDS[index].name,), reading)


def _each_camera(
    keyframe: Keyframe, kind: str, form: str, slots: tuple[str, ...], reading: Reading
) -> Iterator[Question | None]:
    """Asks the same about each direction."""
    answers = [_undoubted(reading, keyframe.shown[channel]) for channel in NUSCENES_CAMERAS]
    by_camera = tuple(answer or None for answer in answers)
    for channel, answer in zip(NUSCENES_CAMERAS, answers, strict=True):
        if answer != "":
            yield None if answer is None else Question(kind, form, (*slots, DIRECTIONS[channel]), answer, by_camera)


def _undoubted(reading: Reading, shown: tuple[Shown, ...]) -> str | None:
    """Returns the answer if the objects in doubt do not change it, whichever of them are counted.

    That is so for every reading here if it holds with each of them alone, and with all those of any kind.
    """
    sure = [one for one in shown if one.sure]
    doubtful = [one for one in shown if not one.sure]
    by_kind = [[one for one in doubtful if one.kind == kind] for kind in {one.kind for one in doubtful}]
    answer = reading(sure)
    some = [*by_kind, *([one] for one in doubtful)]
    return answer if all(reading([*sure, *others]) == answer for others in some) else None


def _anything(_: Shown) -> bool:
    return True


def _exists(kind: int, colour: str | None = None) -> Reading:
    def read(shown: Sequence[Shown]) -> str:
        return "yes" if any(one.kind == kind and colour in (None, one.colour) for one in shown) else "no"

    return read


def _counts(kind: int) -> Reading:
    def read(shown: Sequence[Shown]) -> str | None:
        number = sum(one.kind == kind for one in shown)
        return str(number) if number <= LARGEST_COUNT else None

    return read


def _more(kind: int, other: int) -> Reading:
    def read(shown: Sequence[Shown]) -> str:
        kinds = [one.kind for one in shown]
        if kind not in kinds and other not in kinds:
            return ""
        return "yes" if kinds.count(kind) > kinds.count(other) else "no"

    return read


def _nearest(chosen: Callable[[Shown], bool], tell: Callable[[Shown], str | None]) -> Reading:
    """What `tell` says of the nearest chosen object; in doubt if another about as near says otherwise."""

    def read(shown: Sequence[Shown]) -> str | None:
        near = sorted((one for one in shown if chosen(one)), key=lambda one: one.distance_m)
        if not near:
            return ""
        told = tell(near[0])
        tie = any(tell(one) != told and near[0].distance_m > _NEARER * one.distance_m for one in near[1:])
        return None if tie else told

    return read


def _more_here_than_there(keyframe: Keyframe, kind: int) -> Iterator[Question | None]:
    counts = tuple(_undoubted(_counts(kind), keyframe.shown[channel]) for channel in NUSCENES_CAMERAS)
    for here, mine in zip(NUSCENES_CAMERAS, counts, strict=True):
        for there, other in zip(NUSCENES_CAMERAS, counts, strict=True):
            if here == there or mine == other == "0":
                continue
            if mine is None or other is None:
                yield None
                continue
            slots = (KINDS[kind].plural, DIRECTIONS[here], DIRECTIONS[there])
            yield Question("comparison", "more here", slots, "yes" if int(mine) > int(other) else "no", counts)


def _about_driving(keyframe: Keyframe) -> Iterator[Question | None]:
    light = None if keyframe.light is None else _LIGHTS[keyframe.light]
    yield _front("light", light)
    gap = _gap_ahead(keyframe)
    yield _front("distance", _band(gap))
    yield _lane_change(keyframe, 1)
    yield _lane_change(keyframe, -1)
    yield _front("action", _action(keyframe, gap))


def _front(kind: str, answer: str | None) -> Question | None:
    """A question that the front camera answers."""
    return Question(kind, kind, (), answer, (answer, *_NOTHING[1:])) if answer else None


def _gap_ahead(keyframe: Keyframe) -> float | None:
    """Returns the free metres to the vehicle ahead in the lane, infinity without one within 55 m; None in doubt."""
    scene, moment = keyframe.scene, keyframe.moment
    front = {one.actor: one for one in keyframe.shown["CAM_FRONT"]}
    ahead = [
        (lane_span(scene, moment, i)[0] - EGO_FRONT_M, i)
        for i, actor in enumerate(scene.actors)
        if actor.look.kind in VEHICLES and actor.lane == 0 and moment.x[i] > EGO_FRONT_M
    ]
    gap, nearest = min(ahead, default=(float("inf"), -1))
    if gap > 55:
        return float("inf")
    return gap if nearest in front and front[nearest].sure else None


def _band(gap: float | None) -> str | None:
    """Puts a gap into words; None near a boundary, where an eye could not tell."""
    if gap is None or any(abs(gap - limit) < 0.08 * limit for limit, _ in _BANDS) or 40 < gap < 55:
        return None
    return next((words for limit, words in _BANDS if gap < limit), NO_VEHICLE)


def _lane_change(keyframe: Keyframe, side: int) -> Question | None:
    """Is the lane beside free from 12 m behind the rear axle to 10 m before it? In doubt within 2 m of the ends."""
    scene = keyframe.scene
    name = "left" if side > 0 else "right"
    by_camera: list[str | None] = [None] * len(NUSCENES_CAMERAS)
    if not (scene.road.num_left if side > 0 else scene.road.num_right):
        by_camera[0] = NO_LANE
        return Question("lane_change", "lane change", (name,), NO_LANE, tuple(by_camera))
    inside, doubtful = _vehicles_beside(keyframe, side)
    by_camera[0] = SAFE
    for camera in (1 if side > 0 else 2, 4 if side > 0 else 5, 3):
        visible = {one.actor for one in keyframe.shown[NUSCENES_CAMERAS[camera]]}
        if not visible & doubtful:
            by_camera[camera] = OCCUPIED if visible & inside else SAFE
    if not inside and doubtful:
        return None
    if inside and not any(keyframe.surely_shown(actor) or _is_large(keyframe, actor) for actor in inside):
        return None
    return Question("lane_change", "lane change", (name,), OCCUPIED if inside else SAFE, tuple(by_camera))


def _vehicles_beside(keyframe: Keyframe, side: int) -> tuple[set[int], set[int]]:
    """Returns the actors that are in the way in the lane beside, and those of which it is in doubt."""
    inside, doubtful = set(), set()
    for i, actor in enumerate(keyframe.scene.actors):
        lateral = abs(keyframe.moment.y[i] - side * LANE_M)
        if actor.look.kind not in (*VEHICLES, BICYCLE, CONSTRUCTION) or lateral > LANE_M / 2 + 0.2:
            continue
        rear, front = lane_span(keyframe.scene, keyframe.moment, i)
        if rear < 8 and front > -10:
            inside.add(i)
        elif rear < 12 and front > -14:
            doubtful.add(i)
    return inside, doubtful


def _is_large(keyframe: Keyframe, actor: int) -> bool:
    """Whether an actor fills a good part of some image, though its middle is outside."""
    return any(drawn.visible_px[actor] > 2000 for drawn in keyframe.drawn.values())


def _action(keyframe: Keyframe, gap: float | None) -> str | None:
    """What to do next and why: lights first, then people on the road, then the vehicle ahead."""
    if keyframe.light is None or gap is None:
        return None
    near = keyframe.light_gap_m < 38
    if keyframe.light and 38 <= keyframe.light_gap_m < 46:
        return None
    if near and keyframe.light in (RED, YELLOW):
        return STOP_RED if keyframe.light == RED else SLOW_YELLOW
    person = _person_on_road(keyframe)
    if person is None or 10 < gap < 14:
        return None
    if person:
        return STOP_PERSON
    if gap <= 10:
        return KEEP_DISTANCE
    return GO_GREEN if near and keyframe.light == GREEN else GO_CLEAR


def _person_on_road(keyframe: Keyframe) -> bool | None:
    """Whether somebody is on the road within 25 m ahead and 4 m aside; None in doubt."""
    moment, doubt = keyframe.moment, False
    for i, actor in enumerate(keyframe.scene.actors):
        if actor.look.kind != PEDESTRIAN or not EGO_FRONT_M < moment.x[i] < 30:
            continue
        on_road = keyframe.scene.road.right_edge - 0.2 < moment.y[i] < keyframe.scene.road.left_edge + 0.2
        aside = abs(moment.y[i])
        if aside < 4.0 and moment.x[i] < 25 and on_road and keyframe.surely_shown(i):
            return True
        doubt = doubt or (aside < 6.0 and on_road)
    return None if doubt else False
