"""Dense labels, held against the drawn pixels and the observed objects."""

import itertools

import numpy as np
import pytest

from leo_edge.demo.training.labels import CHANNELS, GRID, LAMPS, NUM_CHANNELS, NUM_CLASSES, channels_of, label
from leo_edge.demo.world.kinds import KINDS
from leo_edge.demo.world.observe import Keyframe, observe
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.demo.world.stage import ROAD, stage, with_light

SIDE_PX = 16


def test_channels_follow_one_another_without_gap() -> None:
    ends = [channels_of(name) for name in CHANNELS]
    assert ends[0].start == 0
    assert all(one.stop == other.start for one, other in itertools.pairwise(ends))
    assert ends[-1].stop == NUM_CHANNELS
    with pytest.raises(KeyError):
        channels_of("absent")


@pytest.mark.parametrize("channel", NUSCENES_CAMERAS)
def test_shares_of_a_patch_are_those_of_its_pixels(keyframe: Keyframe, channel: str) -> None:
    made, drawn = label(keyframe, channel), keyframe.drawn[channel]
    classes = made[..., channels_of("class")].astype(int)
    assert (abs(classes.sum(axis=-1) - 255) <= NUM_CLASSES).all()  # rounded down
    actors = keyframe.scene.actors
    for row, column in ((9, 4), (9, 9), (11, 13)):
        pixels = drawn.objects[row * SIDE_PX : (row + 1) * SIDE_PX, column * SIDE_PX : (column + 1) * SIDE_PX]
        for kind in range(len(KINDS)):
            share = sum(0 <= i < len(actors) and actors[i].look.kind == kind for i in pixels.ravel().tolist()) / SIDE_PX**2
            assert classes[row, column, kind] == int(share * 255)


def test_centres_are_those_of_the_clearly_shown(keyframe: Keyframe) -> None:
    total = 0
    for channel in NUSCENES_CAMERAS:
        centres = label(keyframe, channel)[..., channels_of("centre")] / 64
        for kind in range(len(KINDS)):
            wanted = sum(one.kind == kind and one.sure for one in keyframe.shown[channel])
            assert centres[..., kind].sum() == pytest.approx(wanted, abs=0.05)
            total += wanted
    assert total > 10


def test_lamps_are_where_a_light_shines() -> None:
    """Green, of a light 25 m ahead: its channel alone, in the patches of the shining pixels."""
    keyframe = observe(stage(road=with_light(ROAD, 25.0, (90.0, 1.0, 1.0))), 3)
    green, yellow, red = np.moveaxis(label(keyframe, "CAM_FRONT")[..., LAMPS], -1, 0)
    shining = keyframe.drawn["CAM_FRONT"].shining.reshape(GRID[0], SIDE_PX, GRID[1], SIDE_PX).sum(axis=(1, 3))
    np.testing.assert_array_equal(green > 0, shining > 1)
    assert green.any()
    assert not yellow.any()
    assert not red.any()


def test_depth_grows_from_the_road_to_the_sky(keyframe: Keyframe) -> None:
    made = label(keyframe, "CAM_FRONT")
    depth = made[..., channels_of("depth").start]
    assert depth.shape == GRID
    assert depth[0].max() == 255
    assert depth[-1].max() < depth[0].min()
    nearest = made[..., channels_of("nearest").start]
    assert (nearest <= depth).all()
    assert not np.array_equal(nearest, depth)
