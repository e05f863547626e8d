"""demo/world/observe.py: what counts as shown, what a single image tells of a status, and the light ahead."""

from dataclasses import replace

import numpy as np
import pytest

from leo_edge.demo.world.kinds import BARRIER, BICYCLE, BUS, CAR, CONE, CONSTRUCTION, PEDESTRIAN, TRUCK
from leo_edge.demo.world.observe import (
    KEYFRAME_S,
    SMALL_SIZE_PX,
    Keyframe,
    Shown,
    attribute_of,
    keyframe_time,
    lane_span,
    observe,
    shot,
    visibility_of,
)
from leo_edge.demo.world.populate import Actor
from leo_edge.demo.world.rig import RIG, Camera
from leo_edge.demo.world.scene import EGO_FRONT_M, SCENE_SECONDS, Scene
from leo_edge.demo.world.shapes import GREEN, RED, YELLOW
from tests.demo.world.stage import ROAD, pedestrian, place, stage, with_light

FRONT, BACK = "CAM_FRONT", "CAM_BACK"


def relative_place(keyframe: Keyframe, actor: int, camera: Camera) -> tuple[float, float] | None:
    """Where an actor's middle is in an image: 0 to 1 from left to right and from top to bottom.

    By angles, at the moment of the shot. None if it is behind the camera.
    """
    moment = keyframe.scene.at(keyframe_time(keyframe.number) + camera.delay_us * 1e-6)
    middle = (moment.x[actor], moment.y[actor], keyframe.scene.actors[actor].look.size_m[2] / 2)
    ahead, left, up = np.subtract(middle, camera.position_m)
    angle, distance = np.arctan2(left, ahead) - np.deg2rad(camera.yaw_deg), np.hypot(ahead, left)
    depth = distance * np.cos(angle)
    if depth < 0.5:
        return None
    u = camera.centre_px[0] - camera.focal_px * np.tan(angle)
    v = camera.centre_px[1] - camera.focal_px * up / depth
    return u / 1600, v / 900


def inside(where: tuple[float, float] | None) -> bool:
    return where is not None and 0 < min(where) <= max(where) < 1


def seen_by(keyframe: Keyframe, channel: str, actor: int) -> Shown | None:
    return next((one for one in keyframe.shown[channel] if one.actor == actor), None)


class TestKeyframes:
    def test_cameras_fire_within_the_drive(self) -> None:
        times = [keyframe_time(number) for number in range(40)]
        np.testing.assert_allclose(np.diff(times), KEYFRAME_S)
        assert times[0] + min(camera.delay_us for camera in RIG.values()) * 1e-6 > 0
        assert times[-1] < SCENE_SECONDS

    def test_each_image_is_that_of_its_own_shot(self, keyframes: list[Keyframe]) -> None:
        keyframe = keyframes[1]
        for channel, camera in RIG.items():
            again = shot(keyframe.scene, keyframe_time(keyframe.number), camera, SMALL_SIZE_PX)
            np.testing.assert_array_equal(again.image, keyframe.drawn[channel].image)
            assert again.image.shape == (288, 288, 3)


class TestShown:
    def test_sure_in_doubt_and_unseen_follow_from_the_pixels(self, keyframes: list[Keyframe]) -> None:
        """Counted anew in the images: 20 pixels to be shown; 160, 70 % of the whole, and the middle in the image to be sure."""
        doubts = {"too few pixels": 0, "hidden": 0, "cut by the image's edge": 0}
        sure = unseen = 0
        for keyframe in keyframes[:5]:
            for channel, camera in RIG.items():
                drawn = keyframe.drawn[channel]
                expected = {}
                for actor in range(len(keyframe.scene.actors)):
                    pixels = np.count_nonzero(drawn.objects == actor)
                    if pixels < 20:
                        unseen += pixels > 0
                        continue
                    where = relative_place(keyframe, actor, camera)
                    reasons = (pixels < 160, pixels < 0.7 * drawn.whole_px[actor], not inside(where))
                    expected[actor] = not any(reasons)
                    if sum(reasons) == 1:
                        doubts[list(doubts)[reasons.index(True)]] += 1
                shown = keyframe.shown[channel]
                assert {one.actor: one.sure for one in shown} == expected
                assert len(shown) == len(expected)
                sure += sum(expected.values())
        assert min(doubts.values()) > 2
        assert sure > 50
        assert unseen > 5

    @pytest.mark.parametrize(("x", "expected"), [(15.0, True), (45.0, False), (84.0, None)])
    def test_the_same_pedestrian_is_sure_in_doubt_or_unseen_by_distance(self, x: float, expected: bool | None) -> None:
        seen = seen_by(observe(stage(pedestrian(x, 1.0)), 3), FRONT, 0)
        assert (None if seen is None else seen.sure) == expected

    def test_who_is_half_hidden_is_in_doubt(self) -> None:
        hidden = observe(stage(place(CAR, 20.0), place(TRUCK, 14.0, -1.1)), 3)
        free = observe(stage(place(CAR, 20.0), place(TRUCK, 14.0, -4.0)), 3)
        assert [getattr(seen_by(keyframe, FRONT, 0), "sure", None) for keyframe in (hidden, free)] == [False, True]

    def test_tells_kind_colour_and_distance_from_the_camera(self) -> None:
        keyframe = observe(stage(place(CAR, 12.0, 3.0), pedestrian(-9.0, 1.0)), 3)
        car, person = seen_by(keyframe, FRONT, 0), seen_by(keyframe, BACK, 1)
        assert car is not None
        assert person is not None
        assert (car.kind, car.colour, person.kind, person.colour) == (CAR, "red", PEDESTRIAN, None)
        assert car.distance_m == pytest.approx(np.hypot(12.0 - 1.70, 3.0 - 0.02))
        assert person.distance_m == pytest.approx(np.hypot(9.03, 1.0))

    def test_middle_of_what_is_surely_shown_lies_on_its_own_pixels(self, keyframes: list[Keyframe]) -> None:
        own = mirrored = total = 0
        for keyframe in keyframes:
            for channel, camera in RIG.items():
                objects = keyframe.drawn[channel].objects
                for one in keyframe.shown[channel]:
                    where = relative_place(keyframe, one.actor, camera)
                    if not one.sure or where is None:
                        continue
                    column, row = int(where[0] * 288), int(where[1] * 288)
                    own += objects[row, column] == one.actor
                    mirrored += objects[row, 287 - column] == one.actor
                    total += 1
        assert total > 100
        assert own > 0.85 * total
        assert mirrored < 0.3 * total

    def test_surely_shown_is_by_any_camera(self) -> None:
        keyframe = observe(stage(place(CAR, 12.0, 3.0), place(CAR, 12.0, 3.0)), 3)
        one = Shown(0, CAR, "red", None, 10.0, sure=True)
        shown = {**dict.fromkeys(RIG, ()), FRONT: (replace(one, sure=False),), BACK: (one, replace(one, actor=1, sure=False))}
        keyframe = replace(keyframe, shown=shown)
        assert keyframe.surely_shown(0)
        assert not keyframe.surely_shown(1)


class TestStatus:
    """What one image can tell: a held brake shows at the rear, near enough."""

    @pytest.mark.parametrize(
        ("who", "channel", "expected"),
        [
            (place(CAR, 15.0, lane=0), FRONT, "stopped"),
            (place(CAR, 15.0, lane=0, mps=4.0), FRONT, "moving"),
            (place(CAR, 15.0, lane=0, mps=0.5), FRONT, None),
            (place(CAR, 15.0, 7.0, yaw=np.pi, lane=3), FRONT, None),
            (place(BUS, -14.0, lane=0), BACK, None),
            (place(CAR, -14.0, 7.0, yaw=np.pi, lane=3), BACK, "stopped"),
            (place(BUS, 30.0, lane=0), FRONT, "stopped"),
            (place(CAR, 45.0, lane=0), FRONT, None),
            (place(CAR, 6.0, 3.5, lane=1), FRONT, None),
            (place(CAR, 12.0, -6.5), FRONT, "parked"),
            (place(TRUCK, 20.0, 8.0, yaw=np.pi), FRONT, "parked"),
            (place(BICYCLE, 12.0, -4.0), FRONT, "without rider"),
            (place(BICYCLE, 8.0, -4.0, mps=4.0), FRONT, "with rider"),
            (place(CONSTRUCTION, 15.0, -6.0), FRONT, None),
            (pedestrian(12.0, 2.0), FRONT, None),
            (place(CONE, 10.0, 2.0), FRONT, None),
            (place(BARRIER, 10.0, 2.0), FRONT, None),
        ],
        ids=[
            *("brakes held", "drives", "between the two", "its front shows", "behind, its front shows"),
            *(
                "behind, its rear shows",
                "a bus farther away",
                "too far",
                "cut off",
                "parked",
                "parked the other way",
                "bicycle",
            ),
            *("rider", "construction vehicle", "pedestrian", "cone", "barrier"),
        ],
    )
    def test_is_what_the_image_shows(self, who: Actor, channel: str, expected: str | None) -> None:
        seen = seen_by(observe(stage(who), 0), channel, 0)
        assert seen is not None
        assert seen.status == expected

    @pytest.mark.parametrize(("y", "expected"), [(0.0, None), (5.0, "stopped")])
    def test_is_none_where_something_stands_before_the_rear(self, y: float, expected: str | None) -> None:
        seen = seen_by(observe(stage(place(CAR, 20.0, lane=0), place(BARRIER, 16.5, y)), 0), FRONT, 0)
        assert seen is not None
        assert seen.status == expected

    def test_lamps_agree_with_it(self, keyframes: list[Keyframe], scenes: list[Scene]) -> None:
        lit = {"stopped": 0, "moving": 0, "parked": 0}
        count = dict.fromkeys(lit, 0)
        for keyframe in (*keyframes, *(observe(scene, 5) for scene in scenes[8:])):
            for channel in RIG:
                for one in keyframe.shown[channel]:
                    if one.status in lit:
                        lit[one.status] += keyframe.drawn[channel].lamp_px[one.actor] > 8
                        count[one.status] += 1
        assert min(count.values()) > 3
        assert lit == {"stopped": count["stopped"], "moving": 0, "parked": 0}


# Lengths of green, yellow and red that keep a light in one state for the whole drive.
ALWAYS = {GREEN: (90.0, 1.0, 1.0), YELLOW: (0.0, 90.0, 1.0), RED: (0.0, 0.0, 90.0)}


class TestLight:
    @pytest.mark.parametrize("state", [GREEN, YELLOW, RED])
    def test_is_the_state_of_the_one_ahead(self, state: int) -> None:
        keyframe = observe(stage(road=with_light(ROAD, 25.0, ALWAYS[state])), 3)
        assert keyframe.light == state
        assert keyframe.light_gap_m == pytest.approx(25.0 - 3.5 - EGO_FRONT_M)
        drawn = keyframe.drawn[FRONT]
        shining = drawn.image[drawn.shining].mean(axis=0)
        assert (shining[0] > 150) == (state in (YELLOW, RED))
        assert (shining[1] > 150) == (state in (YELLOW, GREEN))

    def test_changes_with_time(self) -> None:
        scene = stage(road=with_light(ROAD, 25.0, (2.0, 1.5, 3.0), phase_s=0.3))
        into = [(keyframe_time(number) - 0.035491 + 0.3) % 6.5 for number in range(14)]
        expected = [GREEN if t < 2 else YELLOW if t < 3.5 else RED for t in into]
        assert [observe(scene, number).light for number in range(14)] == expected
        assert set(expected) == {GREEN, YELLOW, RED}

    def test_is_that_of_the_shot_and_not_of_the_stamp(self) -> None:
        """35 ms apart: green still at the shot, yellow at the keyframe's stamp, 0.42 + 1.6 s into the cycle."""
        keyframe = observe(stage(road=with_light(ROAD, 25.0, (2.0, 1.5, 3.0), phase_s=0.42)), 3)
        assert keyframe.moment.lights == (YELLOW,)
        assert keyframe.light == GREEN
        red, green, _ = keyframe.drawn[FRONT].image[keyframe.drawn[FRONT].shining].mean(axis=0)
        assert red < green / 2

    def test_without_one_there_is_none(self) -> None:
        keyframe = observe(stage(pedestrian(9.0, 2.0)), 3)
        assert (keyframe.light, keyframe.light_gap_m) == (0, float("inf"))

    def test_one_too_far_to_see_is_none(self) -> None:
        keyframe = observe(stage(road=with_light(ROAD, 120.0, ALWAYS[RED])), 3)
        assert keyframe.light == 0
        assert keyframe.light_gap_m == pytest.approx(120.0 - 3.5 - EGO_FRONT_M)

    def test_one_behind_which_is_another_is_told_from_it(self) -> None:
        road = with_light(with_light(ROAD, 22.0, ALWAYS[RED]), 60.0, ALWAYS[GREEN])
        assert observe(stage(road=road), 3).light == RED

    def test_passed_one_gives_way_to_the_next(self) -> None:
        stop_line_m = EGO_FRONT_M + 3.5
        for x, expected in ((stop_line_m - 3.5, RED), (stop_line_m - 4.5, GREEN)):
            road = with_light(with_light(ROAD, x, ALWAYS[RED]), 30.0, ALWAYS[GREEN])
            keyframe = observe(stage(road=road), 3)
            assert (keyframe.light_gap_m > 0) == (expected == GREEN)
            # The light that is just above is out of the image: what shows is the other one's, so the state is in doubt.
            assert keyframe.light == (None if expected == RED else GREEN)

    def test_one_hidden_by_a_bus_is_none(self) -> None:
        road = with_light(ROAD, 31.0, ALWAYS[RED])
        lights = [observe(stage(place(BUS, 13.0, y, lane=0), road=road), 3).light for y in (0.0, 6.0)]
        assert lights == [0, RED]


class TestVisibility:
    @pytest.mark.parametrize(("visible_px", "level"), [(0, 1), (39, 1), (40, 2), (59, 2), (60, 3), (79, 3), (80, 4), (100, 4)])
    def test_level_is_nuscenes_by_the_visible_part(self, visible_px: int, level: int) -> None:
        keyframe = self._with_pixels({FRONT: (visible_px, 100)})
        assert visibility_of(keyframe, 0) == level

    def test_parts_of_several_cameras_are_taken_together(self) -> None:
        assert visibility_of(self._with_pixels({FRONT: (100, 100), "CAM_FRONT_LEFT": (0, 100)}), 0) == 2
        assert visibility_of(self._with_pixels({FRONT: (10, 10), "CAM_FRONT_LEFT": (10, 190)}), 0) == 1

    def test_unseen_by_all_is_the_lowest(self) -> None:
        assert visibility_of(self._with_pixels({}), 0) == 1

    @staticmethod
    def _with_pixels(pixels: dict[str, tuple[int, int]]) -> Keyframe:
        keyframe = observe(stage(place(CAR, 12.0)), 0)
        drawn = {
            channel: replace(one, **{name: np.array([n]) for name, n in zip(("visible_px", "whole_px"), px, strict=True)})
            for channel, one in keyframe.drawn.items()
            for px in [pixels.get(channel, (0, 0))]
        }
        return replace(keyframe, drawn=drawn)


class TestAttribute:
    @pytest.mark.parametrize(
        ("who", "expected"),
        [
            (place(CAR, 15.0, lane=0), "vehicle.stopped"),
            (place(CAR, -15.0, 7.0, yaw=np.pi, lane=3, mps=6.0), "vehicle.moving"),
            (place(TRUCK, 15.0, -6.5), "vehicle.parked"),
            (place(CONSTRUCTION, 15.0, -6.5), "vehicle.parked"),
            (place(BICYCLE, 15.0, -6.5), "cycle.without_rider"),
            (place(BICYCLE, 15.0, -1.5, mps=4.0), "cycle.with_rider"),
            (pedestrian(9.0, 2.0), "pedestrian.standing"),
            (place(PEDESTRIAN, 9.0, 2.0, mps=1.2), "pedestrian.moving"),
            (place(CONE, 9.0, 2.0), None),
            (place(BARRIER, 9.0, 2.0), None),
        ],
    )
    def test_is_what_it_does_whatever_shows_it(self, who: Actor, expected: str | None) -> None:
        scene = stage(who)
        assert attribute_of(scene, scene.at(1.0), 0) == expected


def test_lane_span_is_from_bumper_to_bumper() -> None:
    scene = stage(place(BUS, 20.0, lane=0, mps=3.0))
    assert lane_span(scene, scene.at(2.0), 0) == pytest.approx((26.0 - 11.5 / 2, 26.0 + 11.5 / 2))
