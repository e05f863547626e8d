"""Who is in a scene: vehicles in lanes, parked ones, work zones, people walking, standing and crossing, bicycles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from leo_edge.demo.world import kinds
from leo_edge.demo.world.kinds import BARRIER, BICYCLE, BUS, CAR, CONE, CONSTRUCTION, PEDESTRIAN, TRUCK, Colour
from leo_edge.demo.world.road import KERB_M, PARKING_M, SIDEWALK_M, Crossing, Road, walk_starts
from leo_edge.demo.world.shapes import Look

_LANE_KINDS, _LANE_SHARES = (CAR, TRUCK, BUS), (0.7, 0.16, 0.14)
# A vehicle in the ego vehicle's lane starts at least this far from it.
_EGO_ROOM_M = 12.0


@dataclass(frozen=True)
class Actor:
    """One annotated object.

    `lane` and `wanted_mps` are those of a vehicle in traffic (lane None otherwise). Others start at (x, y) at time 0 and move
    with `velocity` (m/s), but stay between the limits of y.
    """

    look: Look
    x: float
    y: float
    yaw: float
    lane: int | None = None
    wanted_mps: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    y_limits: tuple[float, float] = (-np.inf, np.inf)
    colour: str | None = None

    @property
    def parked(self) -> bool:
        """Whether it is a motor vehicle that stands beside the lanes."""
        return self.lane is None and self.look.kind in (CAR, TRUCK, BUS, CONSTRUCTION)


def random_look(
    random: np.random.Generator, kind: int, *, running: bool = False, rider: bool = False
) -> tuple[Look, str | None]:
    """Draws the size and paint of an object, and the name of a car's colour."""
    which = kinds.KINDS[kind]
    w, length, h = (float(v) for v in random.uniform(which.smallest_m, which.largest_m))
    colour = None
    paint: Colour
    if kind == CAR:
        colour = kinds.COLOUR_NAMES[int(random.integers(len(kinds.COLOUR_NAMES)))]
        paint = kinds.CAR_COLOURS[colour]
    else:
        paint = kinds.PAINTS[kind][int(random.integers(len(kinds.PAINTS[kind])))]
    shade = random.integers(-10, 11, 3)
    r, g, b = (int(np.clip(value + change, 0, 255)) for value, change in zip(paint, shade, strict=True))
    size = (w, length, kinds.RIDER_HEIGHT_M if rider else h)
    return Look(kind, size, (r, g, b), running, rider), colour


def populate(random: np.random.Generator, road: Road, seconds: float) -> tuple[list[Actor], Road]:
    """Draws everybody, and returns the road with the spans of time in which somebody walks over its crossings."""
    walkers, crossings = [], []
    for crossing in road.crossings:
        group, changed = _crossing_walkers(random, road, crossing, seconds)
        walkers += group
        crossings.append(changed)
    actors = [*_traffic(random, road), *walkers]
    for side in (1, -1):
        zones = list(_zones(random, road))
        for start, end in zones:
            actors += _work_zone(random, road, side, start, end)
        if road.parking_left if side > 0 else road.parking_right:
            actors += _parked(random, road, side, zones)
        actors += _sidewalk(random, road, side)
    return actors, replace(road, crossings=tuple(crossings))


def _traffic(random: np.random.Generator, road: Road) -> Iterator[Actor]:
    """Vehicles along every lane, with random gaps; the ego vehicle's own place stays free."""
    for lane, (y, direction) in enumerate(road.lanes()):
        x = road.x_range[0] + float(random.uniform(0, 25))
        busy = float(random.choice([12.0, 30.0, 75.0]))
        wanted = float(random.uniform(5, 11))
        while x < road.x_range[1]:
            kind = int(random.choice(_LANE_KINDS, p=_LANE_SHARES))
            look, colour = random_look(random, kind, running=True)
            length = look.size_m[1]
            x += length / 2
            if lane or abs(x) > _EGO_ROOM_M + length / 2:
                yaw = 0.0 if direction > 0 else np.pi
                side = float(random.normal(0, 0.12))
                yield Actor(look, x, y + side, yaw, lane, max(3.5, wanted + float(random.normal(0, 0.8))), colour=colour)
            x += length / 2 + 4.5 + float(random.exponential(busy))


def _zones(random: np.random.Generator, road: Road) -> Iterator[tuple[float, float]]:
    x = road.x_range[0] + float(random.uniform(0, 90))
    while x < road.x_range[1]:
        length = float(random.uniform(10, 20))
        yield x, x + length
        x += length + float(random.uniform(22, 80))


def _work_zone(random: np.random.Generator, road: Road, side: int, start: float, end: float) -> Iterator[Actor]:
    """A construction site on the strip beside the lanes: cones along it, barriers across it, often a machine."""
    edge = road.left_edge if side > 0 else road.right_edge
    for i in range(int(random.integers(1, 6))):
        look, _ = random_look(random, CONE)
        yield Actor(look, start + 1.5 + i * (end - start) / 6, edge + side * float(random.uniform(0.3, 0.7)), 0.0)
    for i in range(int(random.integers(1, 5))):
        look, _ = random_look(random, BARRIER)
        turned = bool(random.random() < 0.5)
        x = start + 0.4 if i == 0 else end + 3.2 * (i - 1) if turned else end + 1.2 * (i - 1)
        yield Actor(look, x, edge + side * float(random.uniform(1.4, 1.8)), np.pi / 2 * turned)
    if random.random() < 0.8:
        look, _ = random_look(random, CONSTRUCTION)
        yield Actor(look, (start + end) / 2, edge + side * 2.3, float(random.choice([0.0, np.pi])))


def _parked(random: np.random.Generator, road: Road, side: int, zones: list[tuple[float, float]]) -> Iterator[Actor]:
    edge = road.left_edge if side > 0 else road.right_edge
    x = road.x_range[0]
    while x < road.x_range[1]:
        x += 1.0 + float(random.exponential(9.0))
        kind = int(random.choice(_LANE_KINDS, p=(0.74, 0.15, 0.11)))
        look, colour = random_look(random, kind)
        w, length, _ = look.size_m
        centre = x + length / 2
        x += length
        in_zone = any(start - 5 < centre + length / 2 and centre - length / 2 < end + 8 for start, end in zones)
        at_crossing = any(abs(centre - crossing.x) < length / 2 + 3.5 for crossing in road.crossings)
        if not in_zone and not at_crossing:
            yaw = 0.0 if side < 0 else np.pi
            y = edge + side * (PARKING_M - 0.15 - w / 2 if w < PARKING_M - 0.3 else PARKING_M / 2 + 0.2)
            yield Actor(look, centre, y, yaw + float(random.normal(0, 0.02)), colour=colour)


def _sidewalk(random: np.random.Generator, road: Road, side: int) -> Iterator[Actor]:
    """People in small groups, parked bicycles, and riders at the outer edge of the lanes."""
    kerb = road.kerb(side) + side * KERB_M
    for x in _places(random, road, 14.0, 44.0):
        walking = bool(random.random() < 0.6)
        direction = float(random.choice([-1, 1]))
        speed = float(random.uniform(0.8, 1.5)) * direction if walking else 0.0
        for _ in range(int(random.choice([1, 2, 3, 4], p=[0.4, 0.28, 0.2, 0.12]))):
            look, _ = random_look(random, PEDESTRIAN, running=walking)
            y = kerb + side * float(random.uniform(0.4, 1.9))
            yaw = (0.0 if direction > 0 else np.pi) if walking else float(random.uniform(-np.pi, np.pi))
            x += float(random.uniform(0.9, 1.8))
            yield Actor(look, x, y, yaw, velocity=(speed, 0.0))
    for x in _places(random, road, 22.0, 70.0):
        for i in range(int(random.integers(1, 4))):
            look, _ = random_look(random, BICYCLE)
            yaw = float(random.choice([0.0, np.pi])) + float(random.normal(0, 0.15))
            yield Actor(look, x + 2.1 * i, kerb + side * float(random.uniform(2.3, SIDEWALK_M - 0.4)), yaw)
    edge = road.left_edge if side > 0 else road.right_edge
    speed = -side * float(random.uniform(3.0, 5.0))
    for x in _places(random, road, 25.0, 80.0):
        look, _ = random_look(random, BICYCLE, running=True, rider=True)
        yield Actor(look, x, edge + side * -0.35, 0.0 if speed > 0 else np.pi, velocity=(speed, 0.0))


def _places(random: np.random.Generator, road: Road, least_m: float, most_m: float) -> Iterator[float]:
    x = road.x_range[0] + float(random.uniform(0, most_m))
    while x < road.x_range[1]:
        yield x
        x += float(random.uniform(least_m, most_m))


def _crossing_walkers(
    random: np.random.Generator, road: Road, crossing: Crossing, seconds: float
) -> tuple[list[Actor], Crossing]:
    """People who walk over a crossing from kerb to kerb, then stand; and the crossing with its walks."""
    walkers, walks = [], []
    low, high = road.kerb(-1) - 1.2, road.kerb(1) + 1.2
    for start in walk_starts(crossing, seconds).tolist():
        if start > seconds or (crossing.has_light and random.random() < 0.35):
            continue
        up = bool(random.random() < 0.5)
        for _ in range(int(random.integers(1, 4))):
            speed = float(random.uniform(1.5, 2.0)) * (1 if up else -1)
            look, _ = random_look(random, PEDESTRIAN, running=True)
            # Where it would have been at time 0: it stands at the kerb until `start`.
            begin = (low if up else high) - speed * start - speed * float(random.uniform(0, 1.2))
            x = crossing.x + float(random.uniform(-1.5, 1.5))
            yaw = np.pi / 2 if up else -np.pi / 2
            walkers.append(Actor(look, x, begin, yaw, velocity=(0.0, speed), y_limits=(low, high)))
            walks.append((start, start + (high - low) / abs(speed) + 0.6))
    return walkers, replace(crossing, walks=tuple(walks))
