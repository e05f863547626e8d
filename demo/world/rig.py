"""The ego vehicle's six cameras: where they sit, what they see, when they fire. Sizes are like those of nuScenes' vehicles.

Ego frame: x forward, y left, z up, in metres, its origin on the ground below the rear axle. Camera frame: x right, y down,
z along the optical axis. Pixel (0, 0) is the centre of the upper left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.frames import NUSCENES_CAMERAS

Floats = npt.NDArray[np.float64]

FULL_SIZE_PX = (1600, 900)
"""Width and height of a camera image in nuScenes."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on the ego vehicle.

    position_m: in the ego frame. yaw_deg: of the optical axis, counted from forward to the left; the axis is level.
    focal_px, centre_px: of the full-size image. delay_us: from the keyframe's stamp to this camera's shot.
    """

    channel: str
    position_m: tuple[float, float, float]
    yaw_deg: float
    focal_px: float
    centre_px: tuple[float, float]
    delay_us: int

    def intrinsic(self, size_px: tuple[int, int] = FULL_SIZE_PX) -> Floats:
        """Returns [3, 3], pixels of an image of (width, height) from camera coordinates."""
        scale = size_px[0] / FULL_SIZE_PX[0], size_px[1] / FULL_SIZE_PX[1]
        centre = [(self.centre_px[i] + 0.5) * scale[i] - 0.5 for i in range(2)]
        return np.array([[self.focal_px * scale[0], 0, centre[0]], [0, self.focal_px * scale[1], centre[1]], [0, 0, 1]])

    def ego_from_camera(self) -> Floats:
        """Returns the rotation [3, 3] whose columns are the camera's axes in the ego frame."""
        yaw = np.deg2rad(self.yaw_deg)
        ahead = [np.cos(yaw), np.sin(yaw), 0.0]
        right = [np.sin(yaw), -np.cos(yaw), 0.0]
        return np.array([right, [0.0, 0.0, -1.0], ahead]).T


# The order in which a nuScenes vehicle's cameras fire, and how long before the keyframe's own stamp (that of the LiDAR).
_FIRING = {
    "CAM_FRONT_LEFT": -43_107,
    "CAM_FRONT": -35_491,
    "CAM_FRONT_RIGHT": -27_612,
    "CAM_BACK_RIGHT": -20_058,
    "CAM_BACK": -10_426,
    "CAM_BACK_LEFT": -528,
}
_MOUNTS = {
    "CAM_FRONT": ((1.70, 0.02, 1.51), 0.0, 1266.4, (816.3, 491.5)),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 55.0, 1272.6, (826.6, 479.8)),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -55.0, 1260.8, (808.0, 495.3)),
    "CAM_BACK": ((0.03, 0.00, 1.58), 180.0, 809.2, (829.2, 481.8)),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.59), 109.0, 1256.7, (792.1, 492.8)),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -109.0, 1259.5, (807.3, 501.2)),
}

RIG: dict[str, Camera] = {channel: Camera(channel, *_MOUNTS[channel], _FIRING[channel]) for channel in NUSCENES_CAMERAS}
"""The cameras in the order of every frame set and prompt."""
