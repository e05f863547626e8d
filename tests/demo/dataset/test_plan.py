"""demo/dataset/plan.py: which scenes, keyframes and images, and when each camera fires."""

from itertools import pairwise

import pytest

from leo_edge.demo.dataset.plan import DatasetOptions, Shot, keyframe_stamp_us
from leo_edge.demo.world.rig import RIG
from leo_edge.runtime.errors import DatasetError


def test_scenes_are_the_first_of_the_world_or_of_a_split() -> None:
    assert DatasetOptions(11).scenes == list(range(11))
    assert DatasetOptions(2, split="train").scenes == [0, 1]
    assert DatasetOptions(2, split="dev").scenes == [8, 18]
    assert DatasetOptions(2, split="val").scenes == [9, 19]


@pytest.mark.parametrize(("seconds", "expected"), [(20.0, 40), (1.5, 3), (1.6, 3), (1.61, 4), (0.11, 1)])
def test_keyframes_come_twice_a_second(seconds: float, expected: int) -> None:
    assert len(DatasetOptions(1, seconds=seconds).keyframes(0)) == expected


@pytest.mark.parametrize(("keyframes_only", "expected"), [(False, 6 * (39 * 6 + 1)), (True, 6 * 40)])
def test_images_are_counted_before_they_are_drawn(keyframes_only: bool, expected: int) -> None:
    assert DatasetOptions(1, keyframes_only=keyframes_only).num_images == expected
    assert DatasetOptions(3, keyframes_only=keyframes_only).num_images == 3 * expected


def test_cameras_fire_twelve_times_a_second_each_at_its_own_time() -> None:
    shots = [shot for keyframe in range(3) for shot in DatasetOptions(1).shots(keyframe)]
    for channel, camera in RIG.items():
        mine = [shot for shot in shots if shot.channel == channel]
        stamps = [shot.stamp_us(5) for shot in mine]
        assert {after - before for before, after in pairwise(stamps)} <= {83_333, 83_334}
        assert [shot.is_key_frame for shot in mine] == [True] + [False, False, False, False, False, True] * 2
        assert stamps[0] == keyframe_stamp_us(5, 0) + camera.delay_us
        assert stamps[-1] == keyframe_stamp_us(5, 2) + camera.delay_us


def test_stamp_and_time_of_a_shot_agree() -> None:
    for shot in DatasetOptions(1).shots(7):
        start_us = keyframe_stamp_us(4, 0) - 100_000
        assert shot.stamp_us(4) - start_us == pytest.approx(shot.fired_s * 1e6, abs=1e-3)


def test_no_stamp_is_used_twice() -> None:
    last = Shot("CAM_BACK_LEFT", 39, 0).stamp_us(0)
    assert last < Shot("CAM_FRONT_LEFT", 0, 0).stamp_us(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_scenes": 0}, r"^--scenes must be at least 1, got 0$"),
        ({"seed": -1}, r"^--seed must not be negative, got -1$"),
        ({"split": "test"}, r"^--split must be one of train, dev, val, got 'test'$"),
        ({"seconds": 0.1}, r"^--seconds must be more than 0.1, where the first keyframe is, and at most 20, got 0.1$"),
        ({"seconds": 20.5}, r"and at most 20, got 20.5$"),
        ({"seconds": float("nan")}, r"and at most 20, got nan$"),
        ({"size_px": (0, 288)}, r"^--size must have sides of 16 to 8192 pixels, got 0x288$"),
        ({"size_px": (288, 9000)}, r"pixels, got 288x9000$"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"num_scenes": 1, **change}
    with pytest.raises(DatasetError, match=message):
        DatasetOptions(**arguments)  # type: ignore[arg-type]
