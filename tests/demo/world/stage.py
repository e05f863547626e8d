"""Scenes put together by hand from the world's own parts: a straight road, and on it only who is named.

The ego vehicle stands. Vehicles in lanes drive at their `wanted_mps` for the whole drive.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from leo_edge.demo.world.kinds import BICYCLE, CAR, KINDS, PEDESTRIAN
from leo_edge.demo.world.populate import Actor
from leo_edge.demo.world.road import VERGES, Crossing, Road
from leo_edge.demo.world.scene import EGO_CENTRE_M, SCENE_SECONDS, Faces, Moment, Scene
from leo_edge.demo.world.scenery import Prop, random_scenery
from leo_edge.demo.world.shapes import Look, Shape, shape_of
from leo_edge.demo.world.traffic import STEP_S, Traffic

RED_PAINT = (190, 25, 30)
ROAD = Road(
    num_left=1,
    num_right=1,
    num_opposite=1,
    parking_left=True,
    parking_right=True,
    crossings=(),
    verge=VERGES[0],
    x_range=(-75.0, 300.0),
)


def place(kind: int, x: float, y: float = 0.0, *, yaw: float = 0.0, lane: int | None = None, mps: float = 0.0) -> Actor:
    """Returns an object of the largest size of its kind; a vehicle without a lane is parked."""
    look = Look(kind, KINDS[kind].largest_m, RED_PAINT, running=lane is not None, rider=kind == BICYCLE and mps > 0)
    velocity = (mps, 0.0) if lane is None else (0.0, 0.0)
    return Actor(look, x, y, yaw, lane, mps, velocity, colour="red" if kind == CAR else None)


def pedestrian(x: float, y: float) -> Actor:
    return place(PEDESTRIAN, x, y)


def with_light(road: Road, x: float, state_lasts_s: tuple[float, float, float], *, phase_s: float = 0.0) -> Road:
    """Adds a crossing whose traffic light is green, yellow and red for so long."""
    return replace(road, crossings=(*road.crossings, Crossing(x, True, phase_s, state_lasts_s)))


def faces_of(shapes: Iterable[Shape]) -> Faces:
    """Returns the faces of objects 0, 1, ... of a scene."""
    rows = [
        (owner, *face)
        for owner, shape in enumerate(shapes)
        for face in zip(shape.corners, shape.colours, shape.shining, shape.states, strict=True)
    ]
    return Faces(
        corners=np.array([row[1] for row in rows], np.float64).reshape(-1, 6, 3),
        owner=np.array([row[0] for row in rows], np.int64),
        colour=np.array([row[2] for row in rows], np.float64).reshape(-1, 3),
        shining=np.array([row[3] for row in rows], np.bool_),
        state=np.array([row[4] for row in rows], np.int64),
    )


def stage(*actors: Actor, road: Road = ROAD, look: str = "day") -> Scene:
    """Returns a drive with these actors, and of the scenery the road's traffic lights only."""
    random = np.random.default_rng(0)
    props: list[Prop] = [prop for prop in random_scenery(random, road) if prop.crossing is not None]
    in_traffic = np.array([i for i, actor in enumerate(actors) if actor.lane is not None], np.int64)
    driving = [actors[i] for i in in_traffic]
    times = np.arange(0, SCENE_SECONDS + 3 * STEP_S, STEP_S)[:, None]
    along = [actor.wanted_mps * np.cos(actor.yaw) for actor in driving] + [0.0]
    return Scene(
        seed=0,
        index=0,
        look=look,
        road=road,
        actors=actors,
        props=tuple(props),
        faces=faces_of([shape_of(actor.look) for actor in actors] + [prop.shape for prop in props]),
        traffic=Traffic(
            position_m=np.array([actor.x for actor in driving] + [EGO_CENTRE_M]) + times * np.array(along),
            speed_mps=np.broadcast_to(np.abs(along), (len(times), len(along))),
        ),
        in_traffic=in_traffic,
        road_to_map=(250.0, 250.0, 0.0),
    )


def moment_of(places: Iterable[tuple[float, float, float]], *, state: int = 0) -> Moment:
    """Returns a moment at which objects 0, 1, ... stand at (x, y, yaw) in the ego frame, all in one state."""
    x, y, yaw = np.array(list(places), np.float64).reshape(-1, 3).T
    return Moment(0.0, x, y, yaw, np.full(len(x), state), np.zeros(len(x)), 0.0, 0.0, ())
