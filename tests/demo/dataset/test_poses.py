"""demo/dataset/poses.py, against the drawn cameras' own axes."""

import numpy as np
import pytest
from pyquaternion import Quaternion

from leo_edge.demo.dataset.poses import camera_quaternion, map_position, yaw_quaternion
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import make_scene


@pytest.mark.parametrize("channel", RIG)
def test_camera_quaternion_is_the_rotation_that_is_drawn_with(channel: str) -> None:
    rotation = Quaternion(camera_quaternion(RIG[channel])).rotation_matrix
    np.testing.assert_allclose(rotation, RIG[channel].ego_from_camera(), atol=1e-12)


def test_yaw_turns_x_to_the_left() -> None:
    np.testing.assert_allclose(Quaternion(yaw_quaternion(np.pi / 2)).rotate(np.array([1.0, 0, 0])), [0, 1, 0], atol=1e-12)


def test_map_position_turns_by_the_heading_and_keeps_lengths_and_height() -> None:
    scene = make_scene(0, 1)
    origin, ahead, left = (np.array(map_position(scene, *xy, 1.5)) for xy in ((0.0, 0.0), (10.0, 0.0), (0.0, 10.0)))
    heading = Quaternion(yaw_quaternion(scene.road_to_map[2]))
    np.testing.assert_allclose(ahead - origin, heading.rotate(np.array([10.0, 0, 0])), atol=2e-6)
    np.testing.assert_allclose(left - origin, heading.rotate(np.array([0, 10.0, 0])), atol=2e-6)
    assert origin[2] == 1.5
