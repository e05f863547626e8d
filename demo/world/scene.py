"""One drive of 20 s: everything that is there, and where it is at any moment of it.

A world is a seed; its scenes are numbered, and scene i of a world is always the same. Shape letters: A annotated actors, O all
objects (the actors first, then props), F faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from leo_edge.demo.world.kinds import BUS, CAR, TRUCK
from leo_edge.demo.world.populate import Actor, populate
from leo_edge.demo.world.road import STOP_LINE_M, SURFACES, Road, random_road
from leo_edge.demo.world.scenery import Prop, random_scenery
from leo_edge.demo.world.shapes import BRAKING, ROLLING, Shape, shape_of
from leo_edge.demo.world.traffic import STEP_S, Start, Traffic, simulate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

SCENE_SECONDS = 20.0
SPLITS = ("train", "dev", "val")
LOOKS = ("day", "dusk", "rain")

# The ego vehicle, whose own body no camera sees. Its origin is below the rear axle.
EGO_LENGTH_M, EGO_FRONT_M = 4.6, 3.7
EGO_CENTRE_M = EGO_FRONT_M - EGO_LENGTH_M / 2
_X_RANGE = (-75.0, 300.0)
_VERGE_M = 120.0
STANDING_MPS = 0.15


@dataclass(frozen=True)
class Faces:
    """All faces of a scene: corners [F, 6, 3] in their object's frame, owner [F], colour [F, 3], shining [F], state [F]."""

    corners: Floats
    owner: Ints
    colour: Floats
    shining: Booleans
    state: Ints


@dataclass(frozen=True)
class Moment:
    """Where everything is at one time, in the ego frame: x, y, yaw and state [O], speed [A] in m/s; `light` by crossing."""

    time_s: float
    x: Floats
    y: Floats
    yaw: Floats
    state: Ints
    speed_mps: Floats
    ego_x: float
    ego_speed_mps: float
    lights: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """A drive. `look` is one of LOOKS; `road_to_map` = (x, y, heading) of the road frame in the map's frame."""

    seed: int
    index: int
    look: str
    road: Road
    actors: tuple[Actor, ...]
    props: tuple[Prop, ...]
    faces: Faces
    traffic: Traffic
    in_traffic: Ints
    road_to_map: tuple[float, float, float]

    @cached_property
    def ground(self) -> tuple[Floats, Floats, Ints]:
        """What lies on the ground, later over earlier: rectangles [F, 4] (x0, x1, y0, y1), colours [F, 3], surfaces [F].

        Rectangles are in the road frame; a surface is an index into SURFACES, or their number for a verge.
        """
        verge = ((*self.road.x_range, -_VERGE_M, _VERGE_M), self.road.verge)
        rectangles, colours = zip(verge, *self.road.paint(), strict=True)
        surfaces = [SURFACES.index(colour) if colour in SURFACES else len(SURFACES) for colour in colours]
        return np.array(rectangles, np.float64), np.array(colours, np.float64), np.array(surfaces)

    def at(self, time_s: float) -> Moment:
        """Returns the moment `time_s` after the scene's start."""
        positions, speeds = self.traffic.at(time_s)
        ego_x = float(positions[-1]) - EGO_CENTRE_M
        base = self._base
        x, y = base.x + base.vx * time_s, base.y + base.vy * time_s
        clipped = np.clip(y, base.low, base.high)
        count = len(self.actors)
        speed = np.hypot(base.vx, base.vy)[:count] * (clipped == y)[:count]
        x[self.in_traffic] = positions[:-1]
        speed[self.in_traffic] = speeds[:-1]
        lights = tuple(crossing.light_at(time_s) for crossing in self.road.crossings)
        state = base.state.copy()
        state[self.in_traffic] = np.where(speeds[:-1] < STANDING_MPS, BRAKING, ROLLING)
        with_light = np.flatnonzero(base.crossing >= 0)
        state[with_light] = np.array((*lights, 0))[base.crossing[with_light]]
        return Moment(time_s, x - ego_x, clipped, base.yaw, state, speed, ego_x, float(speeds[-1]), lights)

    @cached_property
    def _base(self) -> _Base:
        return _Base.of(self.actors, self.props)


@dataclass(frozen=True)
class _Base:
    """Starting poses [O] and motions of all objects."""

    x: Floats
    y: Floats
    yaw: Floats
    vx: Floats
    vy: Floats
    low: Floats
    high: Floats
    state: Ints
    crossing: Ints

    @classmethod
    def of(cls, actors: tuple[Actor, ...], props: tuple[Prop, ...]) -> _Base:
        rows = [(a.x, a.y, a.yaw, *a.velocity, *a.y_limits) for a in actors]
        rows += [(p.x, p.y, 0.0, 0.0, 0.0, -np.inf, np.inf) for p in props]
        x, y, yaw, vx, vy, low, high = np.array(rows, np.float64).T
        crossing = [-1] * len(actors) + [-1 if p.crossing is None else p.crossing for p in props]
        return cls(x, y, yaw, vx, vy, low, high, np.zeros(len(rows), np.int64), np.array(crossing))


def make_scene(seed: int, index: int) -> Scene:
    """Draws scene `index` of world `seed`. The same two numbers give the same scene."""
    random = np.random.Generator(np.random.SFC64([seed, index]))
    road = random_road(random, _X_RANGE, SCENE_SECONDS)
    actors, road = populate(random, road, SCENE_SECONDS)
    props = tuple(random_scenery(random, road))
    in_traffic = np.array([i for i, actor in enumerate(actors) if actor.lane is not None], np.int64)
    angle, reach = float(random.uniform(-np.pi, np.pi)), _X_RANGE[1] / 2
    origin = (250.0 - reach * np.cos(angle), 250.0 - reach * np.sin(angle), angle)
    return Scene(
        seed=seed,
        index=index,
        look=str(random.choice(LOOKS, p=[0.6, 0.2, 0.2])),
        road=road,
        actors=tuple(actors),
        props=props,
        faces=_faces([shape_of(actor.look) for actor in actors] + [prop.shape for prop in props]),
        traffic=_drive(random, road, [actors[i] for i in in_traffic]),
        in_traffic=in_traffic,
        road_to_map=origin,
    )


def split_of(index: int) -> str:
    """Returns which split a scene belongs to: of ten, one is for choices (dev), one for the final figures (val)."""
    return {8: "dev", 9: "val"}.get(index % 10, "train")


def scene_indices(split: str, count: int) -> list[int]:
    """Returns the indices of the first `count` scenes of a split."""
    found: list[int] = []
    index = 0
    while len(found) < count:
        if split_of(index) == split:
            found.append(index)
        index += 1
    return found


def _faces(shapes: list[Shape]) -> Faces:
    return Faces(
        corners=np.array([face for shape in shapes for face in shape.corners], np.float64),
        owner=np.repeat(np.arange(len(shapes)), [len(shape.corners) for shape in shapes]),
        colour=np.array([colour for shape in shapes for colour in shape.colours], np.float64),
        shining=np.array([shining for shape in shapes for shining in shape.shining]),
        state=np.array([state for shape in shapes for state in shape.states]),
    )


def _drive(random: np.random.Generator, road: Road, actors: list[Actor]) -> Traffic:
    """Simulates the vehicles in the lanes, the ego vehicle last among them."""
    lanes = road.lanes()
    wanted = float(random.uniform(4.5, 10.5))
    start = Start(
        position_m=np.array([actor.x for actor in actors] + [EGO_CENTRE_M]),
        direction=np.array([float(lanes[actor.lane or 0][1]) for actor in actors] + [1.0]),
        lane=np.array([actor.lane or 0 for actor in actors] + [0]),
        length_m=np.array([actor.look.size_m[1] for actor in actors] + [EGO_LENGTH_M]),
        wanted_mps=np.array([actor.wanted_mps for actor in actors] + [wanted]),
    )
    times = np.arange(int(SCENE_SECONDS / STEP_S) + 3) * STEP_S
    lines = np.array([(c.x - STOP_LINE_M - 0.6, c.x + STOP_LINE_M + 0.6) for c in road.crossings]).reshape(-1, 2)
    closed = np.array([[crossing.closed_at(t) for crossing in road.crossings] for t in times.tolist()], np.bool_)
    return simulate(start, lines, closed.reshape(len(times), len(lines)))


VEHICLES = (CAR, TRUCK, BUS)
"""Kinds that drive in the lanes."""
