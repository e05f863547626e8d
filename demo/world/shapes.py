"""Objects as flat convex faces. A face has six corners (fewer are repeated), counter-clockwise from outside, and one colour.

A face is there always, or only in one state of its object: lamps change with what a vehicle or a traffic light does.

Shape letters: F faces. Coordinates are the object's own: x forward, y left, z up, its origin on the ground below its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leo_edge.demo.world import kinds
from leo_edge.demo.world.kinds import Colour

Corners = npt.NDArray[np.float64]  # [F, 6, 3]
NUM_CORNERS = 6

ALWAYS = 0
ROLLING, BRAKING = 1, 2  # states of a vehicle in traffic
GREEN, YELLOW, RED = 1, 2, 3  # states of a traffic light, in the order in which they follow

GLASS, TYRE, DARK, WHITE = (70, 85, 100), (25, 25, 25), (45, 45, 50), (235, 235, 235)
HEADLIGHT, LAMP_OFF, BRAKE, TAIL = (255, 250, 215), (120, 120, 120), (255, 20, 15), (110, 20, 20)
SKIN, TROUSERS, ORANGE_RED = (205, 160, 130), (50, 55, 75), (215, 30, 25)


@dataclass
class Shape:
    """Faces as they are gathered: corners, colour, whether a face shines by itself (lamps), and in which state it is there."""

    corners: list[list[tuple[float, float, float]]]
    colours: list[Colour]
    shining: list[bool]
    states: list[int]

    @classmethod
    def empty(cls) -> Shape:
        """Returns a shape without faces."""
        return cls([], [], [], [])

    def face(
        self, corners: list[tuple[float, float, float]], colour: Colour, *, shining: bool = False, state: int = ALWAYS
    ) -> None:
        """Adds a face of up to six corners."""
        self.corners.append(corners + corners[-1:] * (NUM_CORNERS - len(corners)))
        self.colours.append(colour)
        self.shining.append(shining)
        self.states.append(state)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        sides: Colour | None = None,
    ) -> None:
        """Adds a box without its bottom; its four sides may have another colour than its top."""
        (x0, x1), (y0, y1), (z0, z1), around = x, y, z, sides or colour
        self.face([(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)], around)
        self.face([(x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1)], around)
        self.face([(x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1)], around)
        self.face([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], around)
        self.face([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], colour)

    def front(self, x: float, y: tuple[float, float], z: tuple[float, float], colour: Colour, *, shining: bool = False) -> None:
        """Adds a rectangle that faces forward."""
        (y0, y1), (z0, z1) = y, z
        self.face([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], colour, shining=shining)

    def rear(self, x: float, y: tuple[float, float], z: tuple[float, float], colour: Colour, *, state: int = ALWAYS) -> None:
        """Adds a rectangle that faces backward; one that is there in a single state is a lamp that shines."""
        (y0, y1), (z0, z1) = y, z
        self.face([(x, y1, z0), (x, y0, z0), (x, y0, z1), (x, y1, z1)], colour, shining=state != ALWAYS, state=state)

    def sides(self, x: tuple[float, float], y: float, z: tuple[float, float], colour: Colour) -> None:
        """Adds a rectangle on the left at y and one on the right at -y."""
        (x0, x1), (z0, z1) = x, z
        self.face([(x1, y, z0), (x0, y, z0), (x0, y, z1), (x1, y, z1)], colour)
        self.face([(x0, -y, z0), (x1, -y, z0), (x1, -y, z1), (x0, -y, z1)], colour)

    def wheel(self, x: float, y: float, radius: float, colour: Colour = TYRE) -> None:
        """Adds a hexagonal disc that faces away from the middle."""
        angles = np.arange(6) * np.pi / 3
        ring = [(x + radius * float(np.cos(a)), y, radius + radius * float(np.sin(a))) for a in angles]
        self.face(ring[::-1] if y > 0 else ring, colour)


@dataclass(frozen=True)
class Look:
    """What decides an object's shape: kind, size (width, length, height), paint, whether it runs (or walks), and is ridden."""

    kind: int
    size_m: tuple[float, float, float]
    paint: Colour
    running: bool = False
    rider: bool = False


def shape_of(look: Look) -> Shape:
    """Builds the faces of an object."""
    shape = Shape.empty()
    _BUILDERS[look.kind](shape, look)
    return shape


def _lamps(shape: Shape, look: Look, height: float) -> None:
    """Adds head and rear lamps in bands at `height`; a held brake lights a wide band."""
    w, length, _ = look.size_m
    y, x = w / 2, length / 2 + 0.02
    front = HEADLIGHT if look.running else LAMP_OFF
    for low, high in ((0.45, 0.95), (-0.95, -0.45)):
        shape.front(x, (low * y, high * y), (height, height + 0.22), front, shining=look.running)
    for low, high in ((0.6, 0.95), (-0.95, -0.6)):
        shape.rear(-x, (low * y, high * y), (height, height + 0.2), TAIL)
    shape.rear(-x - 0.02, (-0.95 * y, 0.95 * y), (height, height + 0.34), BRAKE, state=BRAKING)


def _wheels(shape: Shape, look: Look, places: tuple[float, ...], radius: float) -> None:
    w, length, _ = look.size_m
    for x in places:
        for y in (w / 2 + 0.02, -w / 2 - 0.02):
            shape.wheel(x * length, y, radius)


def _car(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    shape.box((-length / 2, length / 2), (-w / 2, w / 2), (0.25, 0.6 * h), look.paint)
    shape.box((-0.4 * length, 0.2 * length), (-0.44 * w, 0.44 * w), (0.6 * h, h), look.paint, sides=GLASS)
    _lamps(shape, look, 0.38 * h)
    _wheels(shape, look, (-0.31, 0.31), 0.34)


def _truck(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    shape.box((0.3 * length, 0.5 * length), (-w / 2, w / 2), (0.4, 0.75 * h), look.paint)
    shape.front(0.5 * length + 0.02, (-0.42 * w, 0.42 * w), (0.48 * h, 0.68 * h), GLASS)
    shape.sides((0.36 * length, 0.46 * length), w / 2 + 0.02, (0.48 * h, 0.68 * h), GLASS)
    shape.box((-0.5 * length, 0.27 * length), (-w / 2, w / 2), (0.7, h), (205, 205, 200))
    _lamps(shape, look, 0.75)
    _wheels(shape, look, (-0.38, -0.2, 0.38), 0.5)


def _bus(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    shape.box((-length / 2, length / 2), (-w / 2, w / 2), (0.35, h), look.paint)
    shape.sides((-0.46 * length, 0.46 * length), w / 2 + 0.02, (0.5 * h, 0.82 * h), GLASS)
    shape.front(length / 2 + 0.02, (-0.45 * w, 0.45 * w), (0.42 * h, 0.85 * h), GLASS)
    shape.rear(-length / 2 - 0.02, (-0.4 * w, 0.4 * w), (0.55 * h, 0.82 * h), GLASS)
    _lamps(shape, look, 0.6)
    _wheels(shape, look, (-0.3, 0.33), 0.5)


def _construction(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    shape.box((-0.5 * length, 0.25 * length), (-w / 2, w / 2), (0.1, 0.32 * h), DARK)
    shape.box((-0.48 * length, 0.1 * length), (-0.45 * w, 0.45 * w), (0.32 * h, 0.62 * h), look.paint)
    shape.box((-0.2 * length, 0.1 * length), (-0.1 * w, 0.45 * w), (0.62 * h, h), look.paint, sides=GLASS)
    shape.box((0.1 * length, 0.36 * length), (-0.3 * w, -0.08 * w), (0.5 * h, h), look.paint)
    shape.box((0.36 * length, 0.5 * length), (-0.35 * w, 0.0), (0.05, 0.8 * h), DARK)


def _bicycle(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    bicycle_h = kinds.KINDS[kinds.BICYCLE].largest_m[2] - 0.1 if look.rider else h
    for x in (-0.32, 0.32):
        for y in (0.04, -0.04):
            shape.wheel(x * length, y, 0.34, DARK)
    shape.box((-0.26 * length, 0.26 * length), (-0.04, 0.04), (0.45, 0.72), look.paint)
    shape.box((0.2 * length, 0.27 * length), (-w / 2, w / 2), (bicycle_h - 0.15, bicycle_h), DARK)
    if look.rider:
        shape.box((-0.16, 0.1), (-0.2, 0.2), (0.45, 0.95), TROUSERS)
        shape.box((-0.18, 0.18), (-0.27, 0.27), (0.95, 1.5), look.paint)
        shape.box((-0.02, 0.2), (-0.12, 0.12), (1.5, h), SKIN)


def _pedestrian(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    stride = 0.5 * length if look.running else 0.12
    for side, lead in ((1, stride), (-1, -stride)):
        y0, y1 = sorted((side * 0.05 * w, side * 0.32 * w))
        shape.box((lead - 0.11, lead + 0.11), (y0, y1), (0.0, 0.48 * h), TROUSERS)
    shape.box((-0.17, 0.17), (-w / 2, w / 2), (0.46 * h, 0.85 * h), look.paint)
    shape.box((-0.12, 0.12), (-0.13, 0.13), (0.85 * h, h), SKIN)


def _cone(shape: Shape, look: Look) -> None:
    w, _, h = look.size_m
    shape.box((-w / 2, w / 2), (-w / 2, w / 2), (0.0, 0.06), DARK)
    levels = ((0.42 * w, 0.06, 0.4 * h, look.paint), (0.27 * w, 0.4 * h, 0.65 * h, WHITE), (0.17 * w, 0.65 * h, h, look.paint))
    for (r0, z0, z1, colour), r1 in zip(levels, (0.27 * w, 0.17 * w, 0.03), strict=True):
        low = [(r0, -r0, z0), (r0, r0, z0), (-r0, r0, z0), (-r0, -r0, z0)]
        high = [(r1, -r1, z1), (r1, r1, z1), (-r1, r1, z1), (-r1, -r1, z1)]
        for i in range(4):
            j = (i + 1) % 4
            shape.face([low[i], low[j], high[j], high[i]], colour)


def _barrier(shape: Shape, look: Look) -> None:
    w, length, h = look.size_m
    shape.box((-length / 2, length / 2), (-w / 2, w / 2), (0.0, h), look.paint)
    for i in range(3):
        y = (-0.42 * w + 0.3 * w * i, -0.42 * w + 0.3 * w * i + 0.18 * w)
        shape.front(length / 2 + 0.02, y, (0.35 * h, 0.9 * h), ORANGE_RED)
        shape.rear(-length / 2 - 0.02, y, (0.35 * h, 0.9 * h), ORANGE_RED)
    shape.sides((-0.4 * length, 0.4 * length), w / 2 + 0.02, (0.35 * h, 0.9 * h), ORANGE_RED)


_BUILDERS = {
    kinds.CAR: _car,
    kinds.TRUCK: _truck,
    kinds.BUS: _bus,
    kinds.CONSTRUCTION: _construction,
    kinds.BICYCLE: _bicycle,
    kinds.PEDESTRIAN: _pedestrian,
    kinds.CONE: _cone,
    kinds.BARRIER: _barrier,
}
