"""What there is in the drawn world, under nuScenes' names: kinds of objects, their sizes, categories and colours."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]  # RGB


@dataclass(frozen=True)
class Kind:
    """One kind of object. `name` and `plural` are NuScenes-QA's words; sizes are (width, length, height) in metres."""

    name: str
    plural: str
    category: str
    smallest_m: tuple[float, float, float]
    largest_m: tuple[float, float, float]


KINDS = (
    Kind("car", "cars", "vehicle.car", (1.8, 4.2, 1.5), (2.0, 4.8, 1.75)),
    Kind("truck", "trucks", "vehicle.truck", (2.3, 6.2, 2.8), (2.5, 7.8, 3.2)),
    Kind("bus", "buses", "vehicle.bus.rigid", (2.6, 9.5, 3.1), (2.8, 11.5, 3.4)),
    Kind("construction vehicle", "construction vehicles", "vehicle.construction", (2.3, 5.0, 2.8), (2.6, 6.0, 3.2)),
    Kind("bicycle", "bicycles", "vehicle.bicycle", (0.6, 1.7, 1.1), (0.7, 1.9, 1.2)),
    Kind("pedestrian", "pedestrians", "human.pedestrian.adult", (0.6, 0.5, 1.65), (0.75, 0.65, 1.95)),
    Kind("traffic cone", "traffic cones", "movable_object.trafficcone", (0.5, 0.5, 0.95), (0.6, 0.6, 1.1)),
    Kind("barrier", "barriers", "movable_object.barrier", (2.2, 0.5, 1.0), (2.6, 0.6, 1.15)),
)
CAR, TRUCK, BUS, CONSTRUCTION, BICYCLE, PEDESTRIAN, CONE, BARRIER = range(len(KINDS))

# The riders' height comes on top of the bicycle's.
RIDER_HEIGHT_M = 1.75

# Colours of cars that have a name, each drawn near its RGB.
CAR_COLOURS: dict[str, Colour] = {
    "red": (190, 25, 30),
    "blue": (30, 60, 190),
    "green": (25, 130, 55),
    "yellow": (235, 200, 30),
    "white": (240, 240, 240),
    "black": (24, 24, 28),
}
COLOUR_NAMES = tuple(CAR_COLOURS)

# What the others may be painted. Clothes for pedestrians and riders.
PAINTS: dict[int, tuple[Colour, ...]] = {
    TRUCK: ((160, 60, 50), (60, 90, 150), (70, 110, 80), (150, 150, 155)),
    BUS: ((205, 120, 40), (60, 150, 165), (190, 60, 90), (215, 215, 205)),
    CONSTRUCTION: ((235, 165, 20), (225, 145, 30)),
    BICYCLE: ((200, 60, 60), (70, 110, 200), (90, 160, 90), (220, 180, 60), (180, 90, 180)),
    PEDESTRIAN: ((200, 60, 60), (70, 110, 200), (90, 160, 90), (220, 180, 60), (180, 90, 180), (225, 225, 225)),
    CONE: ((250, 100, 20),),
    BARRIER: ((235, 235, 230),),
}

ATTRIBUTES = (
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)
