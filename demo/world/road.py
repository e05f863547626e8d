"""The road of a scene: lanes, strips beside it, crossings with their traffic lights, and what is painted on the ground.

Road frame: x along the road in the ego vehicle's direction, y to the left, z up, in metres. The ego vehicle's lane has its
middle at y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leo_edge.demo.world.kinds import Colour
from leo_edge.demo.world.shapes import GREEN, RED, YELLOW

Rectangle = tuple[float, float, float, float]  # x0, x1, y0, y1

LANE_M, PARKING_M, KERB_M, SIDEWALK_M = 3.5, 2.5, 0.25, 3.5
CROSSING_M = 4.0  # along the road
STOP_LINE_M = 3.5  # from the middle of a crossing

ASPHALT, PARKING_GREY, KERB_GREY, PAVEMENT, PAINT, YELLOW_PAINT = (
    (88, 88, 92),
    (112, 106, 102),
    (178, 176, 172),
    (150, 145, 138),
    (228, 228, 224),
    (214, 176, 60),
)
SURFACES = (ASPHALT, PARKING_GREY, KERB_GREY, PAVEMENT, PAINT, YELLOW_PAINT)
"""What the ground is, by its colour; any other colour is a verge."""
VERGES: tuple[Colour, ...] = ((96, 124, 72), (120, 128, 84), (140, 132, 112))


@dataclass(frozen=True)
class Crossing:
    """A zebra crossing at x. With a light, `phase_s` is how far into its cycle it is at time 0; the cycle starts green.

    `walks` are the spans of time (start, end) in which somebody is on it.
    """

    x: float
    has_light: bool
    phase_s: float
    cycle_s: tuple[float, float, float]
    walks: tuple[tuple[float, float], ...] = ()

    def light_at(self, time_s: float) -> int:
        """Returns the light's state."""
        into = (time_s + self.phase_s) % sum(self.cycle_s)
        green, yellow, _ = self.cycle_s
        return GREEN if into < green else YELLOW if into < green + yellow else RED

    def closed_at(self, time_s: float) -> bool:
        """Whether vehicles must stop before it."""
        walking = any(start <= time_s <= end for start, end in self.walks)
        return walking or (self.has_light and self.light_at(time_s) != GREEN)


@dataclass(frozen=True)
class Road:
    """A straight road. `num_left` and `num_right` lanes beside the ego vehicle's run its way, `num_opposite` towards it."""

    num_left: int
    num_right: int
    num_opposite: int
    parking_left: bool
    parking_right: bool
    crossings: tuple[Crossing, ...]
    verge: Colour
    x_range: tuple[float, float]

    @property
    def right_edge(self) -> float:
        """Outer edge of the rightmost lane."""
        return -LANE_M * (self.num_right + 0.5)

    @property
    def divider(self) -> float:
        """Between the two directions."""
        return LANE_M * (self.num_left + 0.5)

    @property
    def left_edge(self) -> float:
        """Outer edge of the leftmost opposite lane."""
        return self.divider + LANE_M * self.num_opposite

    def kerb(self, side: int) -> float:
        """Where the sidewalk's kerb begins: side +1 left, -1 right."""
        edge, parking = (self.left_edge, self.parking_left) if side > 0 else (self.right_edge, self.parking_right)
        return edge + side * PARKING_M * parking

    def lanes(self) -> list[tuple[float, int]]:
        """Returns the middle of every lane and its direction, the ego vehicle's first."""
        same = [0.0] + [LANE_M * i for i in range(1, self.num_left + 1)] + [-LANE_M * i for i in range(1, self.num_right + 1)]
        opposite = [self.divider + LANE_M * (i + 0.5) for i in range(self.num_opposite)]
        return [(y, 1) for y in same] + [(y, -1) for y in opposite]

    def paint(self) -> list[tuple[Rectangle, Colour]]:
        """Returns rectangles on the ground, later ones over earlier ones."""
        x0, x1 = self.x_range
        left, right = self.kerb(1), self.kerb(-1)
        outer = KERB_M + SIDEWALK_M
        made: list[tuple[Rectangle, Colour]] = [
            ((x0, x1, right - outer, left + outer), PAVEMENT),
            ((x0, x1, right - KERB_M, left + KERB_M), KERB_GREY),
            ((x0, x1, right, left), PARKING_GREY),
            ((x0, x1, self.right_edge, self.left_edge), ASPHALT),
        ]
        made += [((x0, x1, y - 0.08, y + 0.08), PAINT) for y in (self.right_edge, self.left_edge)]
        made += [((x0, x1, y - 0.07, y + 0.07), YELLOW_PAINT) for y in (self.divider - 0.18, self.divider + 0.18)]
        made += self._dashes()
        for crossing in self.crossings:
            made += self._zebra(crossing)
        return made

    def _dashes(self) -> list[tuple[Rectangle, Colour]]:
        between = [LANE_M * (i + 0.5) for i in range(-self.num_right, self.num_left)]
        between += [self.divider + LANE_M * i for i in range(1, self.num_opposite)]
        starts = np.arange(self.x_range[0], self.x_range[1], 7.0)
        return [((x, x + 3.0, y - 0.08, y + 0.08), PAINT) for y in between for x in starts.tolist()]

    def _zebra(self, crossing: Crossing) -> list[tuple[Rectangle, Colour]]:
        x0, x1 = crossing.x - CROSSING_M / 2, crossing.x + CROSSING_M / 2
        bars = np.arange(self.right_edge + 0.3, self.left_edge - 0.5, 1.1)
        made = [((x0, x1, y, y + 0.55), PAINT) for y in bars.tolist()]
        stop = STOP_LINE_M - 0.2
        made.append(((crossing.x - stop - 0.4, crossing.x - stop, self.right_edge, self.divider), PAINT))
        made.append(((crossing.x + stop, crossing.x + stop + 0.4, self.divider, self.left_edge), PAINT))
        return made


def random_road(random: np.random.Generator, x_range: tuple[float, float], seconds: float) -> Road:
    """Draws a road with a crossing every 45 to 90 m."""
    crossings = []
    x = float(random.uniform(8, 60))
    while x < x_range[1] - 20:
        crossings.append(_random_crossing(random, x, seconds))
        x += float(random.uniform(45, 90))
    return Road(
        num_left=int(random.choice(3, p=[0.4, 0.45, 0.15])),
        num_right=int(random.choice(3, p=[0.5, 0.4, 0.1])),
        num_opposite=int(random.choice([1, 2])),
        parking_left=bool(random.random() < 0.6),
        parking_right=bool(random.random() < 0.75),
        crossings=tuple(crossings),
        verge=VERGES[int(random.integers(len(VERGES)))],
        x_range=x_range,
    )


def _random_crossing(random: np.random.Generator, x: float, seconds: float) -> Crossing:
    cycle = (float(random.uniform(5, 9)), float(random.uniform(2.5, 4)), float(random.uniform(6, 10)))
    phase = float(random.uniform(0, sum(cycle)))
    if random.random() < 0.62:
        return Crossing(x, True, phase, cycle)
    starts = np.arange(float(random.uniform(-12, 0)), seconds, float(random.uniform(11, 16)))
    return Crossing(x, False, phase, cycle, tuple((start, start + 11.0) for start in starts.tolist()))


def walk_starts(crossing: Crossing, seconds: float) -> npt.NDArray[np.float64]:
    """Returns when people set out over a crossing: when its light turns red, or at the start of its walks."""
    if not crossing.has_light:
        return np.array([start for start, _ in crossing.walks])
    green, yellow, _ = crossing.cycle_s
    first = green + yellow - crossing.phase_s
    cycles = np.arange(-1, 3 + seconds // sum(crossing.cycle_s)) * sum(crossing.cycle_s)
    return first + cycles + 0.5
