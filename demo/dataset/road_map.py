"""The map mask of a scene: where vehicles may be, as the devkit's MapMask reads it.

Pixel (column c, row r) is the point (0.1 c, 0.1 (H - r)) of the map frame, H being the image's height.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from leo_edge.demo.dataset.poses import map_position
from leo_edge.demo.world.scene import Scene

PX_PER_M = 10
MAP_SIDE_M = 500
"""`Scene.road_to_map` keeps every road within this square."""
_SHIFT = 8  # bits of a pixel's fraction
_DRIVABLE = 255


def drivable_mask(scene: Scene) -> npt.NDArray[np.uint8]:
    """Returns 255 where there is a lane or a parking strip and 0 elsewhere, [H, W]."""
    side = MAP_SIDE_M * PX_PER_M
    mask = np.zeros((side, side), np.uint8)
    x0, x1 = scene.road.x_range
    right, left = scene.road.kerb(-1), scene.road.kerb(1)
    corners = np.array([map_position(scene, x, y)[:2] for x, y in ((x0, right), (x1, right), (x1, left), (x0, left))])
    pixels = corners * (PX_PER_M, -PX_PER_M) + (0, side)
    cv2.fillConvexPoly(mask, np.rint(pixels * 2**_SHIFT).astype(np.int32), (_DRIVABLE,), cv2.LINE_8, _SHIFT)
    return mask
