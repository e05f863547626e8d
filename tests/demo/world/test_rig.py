"""demo/world/rig.py: the same view in every size, and cameras in the order and within the time of nuScenes."""

import numpy as np
import numpy.typing as npt
import pytest

from leo_edge.demo.world.rig import FULL_SIZE_PX, RIG, Camera
from leo_edge.runtime.frames import NUSCENES_CAMERAS

Floats = npt.NDArray[np.float64]


def relative_place(camera: Camera, point: Floats, size_px: tuple[int, int]) -> Floats:
    """Where a point of the camera's frame is in an image: 0 at its left and upper edge, 1 at its right and lower one."""
    u, v, depth = camera.intrinsic(size_px) @ point
    place: Floats = (np.array([u, v]) / depth + 0.5) / size_px
    return place


def in_camera(camera: Camera, point: tuple[float, float, float]) -> Floats:
    """Returns a point of the ego frame in the camera's frame, by angles instead of by the rotation matrix."""
    ahead, left, up = np.subtract(point, camera.position_m)
    yaw, distance = np.arctan2(left, ahead) - np.deg2rad(camera.yaw_deg), np.hypot(ahead, left)
    return np.array([-distance * np.sin(yaw), -up, distance * np.cos(yaw)])


@pytest.mark.parametrize("camera", RIG.values(), ids=RIG)
class TestCamera:
    @pytest.mark.parametrize("size_px", [(288, 288), (800, 450), (333, 101)])
    def test_a_point_is_at_the_same_relative_place_in_every_size(self, camera: Camera, size_px: tuple[int, int]) -> None:
        for point in np.random.default_rng(0).uniform((-3, -2, 5), (3, 2, 20), (20, 3)):
            full = relative_place(camera, point, FULL_SIZE_PX)
            np.testing.assert_allclose(relative_place(camera, point, size_px), full, atol=1e-12)

    def test_scaling_the_matrix_alone_would_miss_by_part_of_a_pixel(self, camera: Camera) -> None:
        naive = camera.intrinsic() * np.array([[288 / 1600], [288 / 900], [1]])
        missed_px = naive[:2, 2] - camera.intrinsic((288, 288))[:2, 2]
        np.testing.assert_allclose(missed_px, [0.41, 0.34], atol=0.01)

    def test_axes_are_right_down_and_ahead(self, camera: Camera) -> None:
        rotation = camera.ego_from_camera()
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        for point in ((20.0, 3.0, 1.0), (-7.0, 12.0, 2.0), (4.0, -9.0, 0.0)):
            local = np.subtract(point, camera.position_m) @ rotation
            np.testing.assert_allclose(local, in_camera(camera, point), atol=1e-9)
            transposed = np.subtract(point, camera.position_m) @ rotation.T
            assert np.abs(transposed - local).max() > 1

    def test_without_a_size_the_intrinsics_are_those_of_the_full_image(self, camera: Camera) -> None:
        np.testing.assert_array_equal(camera.intrinsic(), camera.intrinsic((1600, 900)))
        assert camera.intrinsic()[0, 0] == camera.intrinsic()[1, 1] == camera.focal_px


class TestRig:
    def test_is_in_the_order_of_every_frame_set(self) -> None:
        assert tuple(RIG) == NUSCENES_CAMERAS
        assert [camera.channel for camera in RIG.values()] == list(NUSCENES_CAMERAS)

    def test_fires_in_nuscenes_order_within_43_ms_and_before_the_stamp(self) -> None:
        delays = {channel: camera.delay_us for channel, camera in RIG.items()}
        order = ["FRONT_LEFT", "FRONT", "FRONT_RIGHT", "BACK_RIGHT", "BACK", "BACK_LEFT"]
        assert sorted(delays, key=lambda channel: delays[channel]) == [f"CAM_{name}" for name in order]
        assert len(set(delays.values())) == 6
        assert max(delays.values()) < 0
        assert 40_000 < max(delays.values()) - min(delays.values()) < 43_000

    def test_sees_all_around(self) -> None:
        seen = {angle: self._seeing(angle, set(RIG)) for angle in range(-180, 180, 2)}
        assert all(seen.values())
        assert max(len(channels) for channels in seen.values()) == 2
        without_back = {angle: self._seeing(angle, set(RIG) - {"CAM_BACK"}) for angle in seen}
        assert not all(without_back.values())

    def test_each_camera_looks_where_its_name_says(self) -> None:
        places = {"FRONT": 0, "FRONT_LEFT": 55, "FRONT_RIGHT": -55, "BACK": 180, "BACK_LEFT": 110, "BACK_RIGHT": -110}
        for name, angle in places.items():
            assert f"CAM_{name}" in self._seeing(angle, set(RIG))

    @staticmethod
    def _seeing(angle_deg: float, channels: set[str]) -> set[str]:
        """Which cameras have a point 60 m away in that direction, at their own height, in their image."""
        ahead, left = 60 * np.cos(np.deg2rad(angle_deg)), 60 * np.sin(np.deg2rad(angle_deg))
        found = set()
        for channel in channels:
            local = in_camera(RIG[channel], (ahead, left, 1.5))
            place = relative_place(RIG[channel], local, FULL_SIZE_PX)
            if local[2] > 0 and ((place > 0) & (place < 1)).all():
                found.add(channel)
        return found
