"""What stands beside the road and is not annotated: buildings, trees, lamp posts, traffic lights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from leo_edge.demo.world.kinds import Colour
from leo_edge.demo.world.road import KERB_M, SIDEWALK_M, Crossing, Road
from leo_edge.demo.world.shapes import DARK, GREEN, RED, YELLOW, Shape

_WALLS: tuple[Colour, ...] = ((168, 150, 132), (150, 142, 138), (182, 170, 150), (134, 128, 132), (160, 132, 118))
_PANES: tuple[Colour, ...] = ((92, 108, 124), (78, 88, 100))
_LEAVES: tuple[Colour, ...] = ((58, 98, 48), (74, 112, 52), (52, 86, 58))
_TRUNK, _POST = (92, 74, 56), (96, 98, 100)
_LIT: dict[int, Colour] = {GREEN: (30, 240, 110), YELLOW: (255, 205, 20), RED: (255, 25, 25)}


@dataclass(frozen=True)
class Prop:
    """A shape at a place. `crossing` is the index of the crossing whose light it shows, None for what has no state."""

    shape: Shape
    x: float
    y: float
    crossing: int | None = None


def random_scenery(random: np.random.Generator, road: Road) -> Iterator[Prop]:
    """Draws the props of a road."""
    for side in (1, -1):
        line = road.kerb(side) + side * (KERB_M + SIDEWALK_M)
        yield from _buildings(random, road, side, line)
        yield from _trees(random, road, side, line)
        for x in np.arange(road.x_range[0] + float(random.uniform(0, 30)), road.x_range[1], 32.0).tolist():
            yield Prop(_post(6.5), x, road.kerb(side) + side * 0.5)
    for index, crossing in enumerate(road.crossings):
        if crossing.has_light:
            yield _traffic_light(road, crossing, index)


def _buildings(random: np.random.Generator, road: Road, side: int, line: float) -> Iterator[Prop]:
    x = road.x_range[0]
    setback = float(random.uniform(1.5, 7))
    while x < road.x_range[1]:
        length, depth = float(random.uniform(9, 20)), float(random.uniform(8, 14))
        height = float(random.uniform(5.5, 17))
        if random.random() < 0.75:
            y = line + side * (setback + float(random.uniform(0, 1.5)) + depth / 2)
            yield Prop(_building(random, length, depth, height), x + length / 2, y)
        x += length + float(random.choice([0.3, 4.0, 9.0]))


def _building(random: np.random.Generator, length: float, depth: float, height: float) -> Shape:
    shape = Shape.empty()
    wall, pane = _WALLS[int(random.integers(len(_WALLS)))], _PANES[int(random.integers(len(_PANES)))]
    x, y = (-length / 2, length / 2), (-depth / 2, depth / 2)
    shape.box(x, y, (0, height), wall)
    for floor in np.arange(1.2, height - 1.4, 3.1).tolist():
        band = (floor, floor + 1.3)
        shape.sides((-0.45 * length, 0.45 * length), y[1] + 0.03, band, pane)
        shape.front(x[1] + 0.03, (-0.4 * depth, 0.4 * depth), band, pane)
        shape.rear(x[0] - 0.03, (-0.4 * depth, 0.4 * depth), band, pane)
    return shape


def _trees(random: np.random.Generator, road: Road, side: int, line: float) -> Iterator[Prop]:
    x = road.x_range[0] + float(random.uniform(0, 12))
    while x < road.x_range[1]:
        if random.random() < 0.7:
            yield Prop(_tree(random), x, line + side * float(random.uniform(0.3, 1.0)))
        x += float(random.uniform(7, 22))


def _tree(random: np.random.Generator) -> Shape:
    shape = Shape.empty()
    height, r = float(random.uniform(4.5, 7.5)), float(random.uniform(1.2, 2.0))
    leaf = _LEAVES[int(random.integers(len(_LEAVES)))]
    shape.box((-0.14, 0.14), (-0.14, 0.14), (0, 0.45 * height), _TRUNK)
    for radius, low, high in ((r, 0.38, 0.75), (0.65 * r, 0.7, 1.0)):
        ring = np.arange(6) * np.pi / 3 + 0.3
        corners = [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in ring]
        for i in range(6):
            (xa, ya), (xb, yb) = corners[i], corners[(i + 1) % 6]
            tip = 0.55
            shape.face(
                [
                    (xa, ya, low * height),
                    (xb, yb, low * height),
                    (tip * xb, tip * yb, high * height),
                    (tip * xa, tip * ya, high * height),
                ],
                leaf,
            )
        shape.face([(0.55 * xc, 0.55 * yc, high * height) for xc, yc in corners], leaf)
    return shape


def _post(height: float) -> Shape:
    shape = Shape.empty()
    shape.box((-0.07, 0.07), (-0.07, 0.07), (0, height), _POST)
    return shape


def _traffic_light(road: Road, crossing: Crossing, index: int) -> Prop:
    """A pole at the right kerb behind the crossing with an arm over the lanes and one large head that faces the traffic."""
    shape = Shape.empty()
    reach = -road.right_edge + 0.6
    shape.box((-0.1, 0.1), (-0.1, 0.1), (0, 5.9), _POST)
    shape.box((-0.08, 0.08), (0, reach + 0.3), (5.75, 5.9), _POST)
    shape.box((-0.35, 0.2), (reach - 0.6, reach + 0.6), (3.1, 6.3), DARK)
    for state, z in ((RED, 5.3), (YELLOW, 4.25), (GREEN, 3.2)):
        shape.rear(-0.4, (reach - 0.5, reach + 0.5), (z, z + 0.95), _LIT[state], state=state)
    return Prop(shape, crossing.x + 2.6, road.right_edge - 0.6, index)
