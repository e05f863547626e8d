"""The rows that are the same in every dataset: nuScenes' categories, attributes and visibility levels, and the sensors."""

from __future__ import annotations

from typing import Any

from leo_edge.demo.dataset.names import LIDAR, token
from leo_edge.demo.dataset.poses import LIDAR_POSITION_M, LIDAR_YAW, camera_quaternion, yaw_quaternion
from leo_edge.demo.world.kinds import ATTRIBUTES, KINDS
from leo_edge.demo.world.rig import RIG

Record = dict[str, Any]

# All 23 of nuScenes, in its order: the devkit's colour map and class mappings know these.
CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
_LEVELS = ((0, 40), (40, 60), (60, 80), (80, 100))


def fixed_rows(size_px: tuple[int, int]) -> dict[str, list[Record]]:
    """Returns the tables that do not depend on the scenes; intrinsics are those of images of (width, height)."""
    drawn = {kind.category: kind.plural for kind in KINDS}
    return {
        "category": [
            {
                "token": token("category", name),
                "name": name,
                "description": f"Drawn as {drawn[name]}." if name in drawn else "Not drawn.",
            }
            for name in CATEGORIES
        ],
        "attribute": [
            {"token": token("attribute", name), "name": name, "description": name.replace(".", " ").replace("_", " ")}
            for name in ATTRIBUTES
        ],
        "visibility": [
            {
                "token": str(number),
                "level": f"v{low}-{high}",
                "description": f"visibility of whole object is between {low} and {high}%",
            }
            for number, (low, high) in enumerate(_LEVELS, 1)
        ],
        "sensor": [
            {"token": token("sensor", channel), "channel": channel, "modality": "lidar" if channel == LIDAR else "camera"}
            for channel in (*RIG, LIDAR)
        ],
        "calibrated_sensor": _calibrated_sensors(size_px),
    }


def _calibrated_sensors(size_px: tuple[int, int]) -> list[Record]:
    """There is one vehicle, so there is one row per sensor."""
    rows = [
        {
            "token": token("calibrated_sensor", channel),
            "sensor_token": token("sensor", channel),
            "translation": list(camera.position_m),
            "rotation": list(camera_quaternion(camera)),
            "camera_intrinsic": camera.intrinsic(size_px).tolist(),
        }
        for channel, camera in RIG.items()
    ]
    lidar: Record = {
        "token": token("calibrated_sensor", LIDAR),
        "sensor_token": token("sensor", LIDAR),
        "translation": list(LIDAR_POSITION_M),
        "rotation": list(yaw_quaternion(LIDAR_YAW)),
        "camera_intrinsic": [],
    }
    return [*rows, lidar]
