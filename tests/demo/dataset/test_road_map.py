"""demo/dataset/road_map.py through the devkit's MapMask."""

from typing import Any

import numpy as np
import pytest

from leo_edge.demo.dataset.poses import map_position
from leo_edge.demo.dataset.road_map import MAP_SIDE_M, drivable_mask
from leo_edge.demo.world.scene import make_scene
from tests.demo.dataset.conftest import Written


def test_mask_is_grey_of_two_values(devkit: Any) -> None:
    mask = devkit.map[0]["mask"].mask()
    assert mask.dtype == np.uint8
    assert np.unique(mask).tolist() == [0, 255]


def test_drivable_from_kerb_to_kerb(written: Written, devkit: Any) -> None:
    road, mask = written.scene.road, devkit.map[0]["mask"]
    x = np.linspace(road.x_range[0] + 1, road.x_range[1] - 1, 60)
    for side in (1, -1):
        kerb = road.kerb(side)
        for y, expected in ((0.0, True), (kerb - side * 0.2, True), (kerb + side * 0.2, False)):
            points = np.array([map_position(written.scene, float(along), y) for along in x])
            assert (mask.is_on_mask(points[:, 0], points[:, 1]) == expected).all(), (side, y)


def test_ego_vehicle_is_always_on_the_road(devkit: Any) -> None:
    places = np.array([pose["translation"] for pose in devkit.ego_pose])
    assert devkit.map[0]["mask"].is_on_mask(places[:, 0], places[:, 1]).all()


def test_every_road_lies_inside_its_map() -> None:
    for index in range(8):
        scene = make_scene(1, index)
        corners = [map_position(scene, x, y)[:2] for x in scene.road.x_range for y in (scene.road.kerb(1), scene.road.kerb(-1))]
        assert np.min(corners) > 0
        assert np.max(corners) < MAP_SIDE_M


def test_area_of_the_mask_is_that_of_the_road() -> None:
    scene = make_scene(1, 2)
    area = (scene.road.x_range[1] - scene.road.x_range[0]) * (scene.road.kerb(1) - scene.road.kerb(-1))
    assert np.count_nonzero(drivable_mask(scene)) / 100 == pytest.approx(area, rel=0.02)
