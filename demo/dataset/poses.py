"""From the drawn world's frames to the map's. Everything is level, so a heading is the only rotation; quaternions are wxyz.

Frames: road (x along it), ego (the road's axes, origin below the rear axle), map (of `Scene.road_to_map`). All are in metres
with z up, and a yaw counts from x to the left.
"""

from __future__ import annotations

import math

from leo_edge.demo.world.rig import Camera
from leo_edge.demo.world.scene import Scene

Quaternion = tuple[float, float, float, float]
_DECIMALS = 6  # micrometres

LIDAR_POSITION_M = (0.94, 0.0, 1.84)
"""Where a nuScenes vehicle carries its LiDAR, in the ego frame."""
LIDAR_YAW = -math.pi / 2
"""Its frame has x to the right and y forward."""


def yaw_quaternion(yaw: float) -> Quaternion:
    """Returns a turn to the left by `yaw` radians."""
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)


def camera_quaternion(camera: Camera) -> Quaternion:
    """Returns the rotation of `Camera.ego_from_camera`: its yaw, times (1, -1, 1, -1) / 2 of a camera that looks forward."""
    w, _, _, z = yaw_quaternion(math.radians(camera.yaw_deg))
    return (w + z) / 2, -(w + z) / 2, (w - z) / 2, (z - w) / 2


def map_position(scene: Scene, x: float, y: float, z: float = 0.0) -> list[float]:
    """Returns where a point of the road frame is in the map frame."""
    x0, y0, heading = scene.road_to_map
    cos, sin = math.cos(heading), math.sin(heading)
    return [round(value, _DECIMALS) for value in (x0 + x * cos - y * sin, y0 + x * sin + y * cos, z)]
