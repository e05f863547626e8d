"""demo/world/draw.py, against boxes that are hit by a ray from every pixel.

Shape letters: H image height, W image width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from leo_edge.demo.world.draw import GROUND, SKY, Drawn, draw
from leo_edge.demo.world.kinds import BUS, CAR, PEDESTRIAN
from leo_edge.demo.world.observe import Keyframe
from leo_edge.demo.world.rig import RIG, Camera
from leo_edge.demo.world.road import ASPHALT, PAVEMENT, SURFACES
from leo_edge.demo.world.scene import LOOKS, Scene
from leo_edge.demo.world.shapes import BRAKING, ROLLING, Shape
from tests.demo.world.stage import faces_of, moment_of, place, stage

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

SIZE_PX = (240, 160)
NEAR_M = 0.3
FRONT = RIG["CAM_FRONT"]


@dataclass(frozen=True)
class Box:
    """A box on the ground: its middle in the ego frame, its heading, its length, width and height."""

    x: float
    y: float
    yaw: float
    size_m: tuple[float, float, float]

    @property
    def shape(self) -> Shape:
        length, width, height = self.size_m
        shape = Shape.empty()
        shape.box((-length / 2, length / 2), (-width / 2, width / 2), (0.0, height), (200, 40, 40))
        return shape

    def hit(self, camera: Camera, size_px: tuple[int, int]) -> tuple[Booleans, Floats]:
        """Whether each pixel's ray enters the box beyond the near plane, and at which depth along the optical axis [H, W]."""
        u, v = np.meshgrid(np.arange(size_px[0]), np.arange(size_px[1]))
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.intrinsic(size_px)).T
        rays = rays @ camera.ego_from_camera().T
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        own_from_ego = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        start = own_from_ego @ np.subtract(camera.position_m, (self.x, self.y, 0.0))
        way = rays @ own_from_ego.T
        half = np.array(self.size_m) / 2
        low, high = (np.array([-half[0], -half[1], 0.0]), np.array([half[0], half[1], self.size_m[2]]))
        ends = np.stack([(low - start) / way, (high - start) / way])
        enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
        return (enter < leave) & (enter > NEAR_M), enter


def draw_boxes(boxes: Sequence[Box], camera: Camera = FRONT, size_px: tuple[int, int] = SIZE_PX) -> Drawn:
    scene = replace(stage(), faces=faces_of([box.shape for box in boxes]))
    return draw(scene, moment_of([(box.x, box.y, box.yaw) for box in boxes]), camera, size_px)


def shrunk(image: npt.NDArray[np.uint8], factor: int) -> Floats:
    height, width, _ = image.shape
    means: Floats = image.reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3))
    return means


class TestDepth:
    @pytest.mark.parametrize("distance_m", [4.0, 11.0, 40.0])
    def test_face_across_the_view_is_at_its_distance(self, distance_m: float) -> None:
        """A column taller than the camera's height, before the camera: its rear is all that shows."""
        column = Box(FRONT.position_m[0] + distance_m + 1.0, 0.0, 0.0, (2.0, 2.0, 4.0))
        drawn = draw_boxes([column])
        np.testing.assert_allclose(drawn.inverse_depth[drawn.objects == 0], 1 / distance_m, rtol=1e-4)
        assert drawn.visible_px[0] > 50

    def test_a_face_twice_as_far_is_half_as_wide(self) -> None:
        widths = []
        for distance_m in (6.0, 12.0):
            drawn = draw_boxes([Box(FRONT.position_m[0] + distance_m + 0.05, 0.0, 0.0, (0.1, 2.0, 2.0))])
            widths.append((drawn.objects == 0).any(axis=0).sum())
        focal = FRONT.intrinsic(SIZE_PX)[0, 0]
        np.testing.assert_allclose(widths, [focal * 2 / 6, focal * 2 / 12], atol=1)

    def test_ground_is_at_the_depth_where_the_ray_meets_it(self) -> None:
        drawn = draw_boxes([Box(60.0, 0.0, 0.0, (0.1, 0.1, 0.1))])
        rows = np.arange(SIZE_PX[1])
        intrinsic = FRONT.intrinsic(SIZE_PX)
        below = (rows - intrinsic[1, 2]) / intrinsic[1, 1]
        # From the third to the last row below the horizon, in the middle of the ego vehicle's lane.
        seen = np.flatnonzero(below > 1.51 / 60)
        middle = round(intrinsic[0, 2])
        np.testing.assert_allclose(drawn.inverse_depth[seen, middle], below[seen] / FRONT.position_m[2], rtol=1e-3)
        assert (drawn.objects[seen, middle] == GROUND - SURFACES.index(ASPHALT)).all()
        assert (drawn.objects == GROUND - SURFACES.index(PAVEMENT)).any()
        assert (drawn.inverse_depth[drawn.objects == SKY] == 0).all()
        assert (drawn.objects[0] == SKY).all()


class TestHiding:
    NEAR, FAR = Box(8.0, 0.2, 0.3, (2.0, 3.0, 2.5)), Box(16.0, 0.0, 0.0, (2.0, 2.0, 1.5))

    def test_nearer_hides_farther_in_either_order(self) -> None:
        one, other = draw_boxes([self.NEAR, self.FAR]), draw_boxes([self.FAR, self.NEAR])
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.objects == 0, other.objects == 1)
        assert one.visible_px.tolist() == other.visible_px[::-1].tolist()
        assert one.visible_px[1] == 0
        assert one.visible_px[0] > 500

    def test_hidden_pixels_still_count_as_those_of_the_whole(self) -> None:
        both, alone = draw_boxes([self.NEAR, self.FAR]), draw_boxes([self.FAR])
        assert both.whole_px[1] == alone.whole_px[0] == alone.visible_px[0] > 100

    def test_visible_pixels_are_those_in_the_image(self, keyframes: list[Keyframe]) -> None:
        hidden = 0
        for keyframe in keyframes[:3]:
            for drawn in keyframe.drawn.values():
                count = len(keyframe.scene.actors) + len(keyframe.scene.props)
                numbers, pixels = np.unique(drawn.objects[drawn.objects >= 0], return_counts=True)
                expected = np.zeros(count, np.int64)
                expected[numbers] = pixels
                np.testing.assert_array_equal(drawn.visible_px, expected)
                assert (drawn.visible_px <= drawn.whole_px).all()
                hidden += int(((drawn.whole_px > 100) & (drawn.visible_px == 0)).sum())
        assert hidden > 5


def beside(camera: Camera, ahead_m: float, left_m: float, turned: float, size_m: tuple[float, float, float]) -> Box:
    """A box whose middle is that far along the optical axis and beside it, turned from it."""
    yaw = np.deg2rad(camera.yaw_deg)
    x = camera.position_m[0] + np.cos(yaw) * ahead_m - np.sin(yaw) * left_m
    y = camera.position_m[1] + np.sin(yaw) * ahead_m + np.cos(yaw) * left_m
    return Box(float(x), float(y), yaw + turned, size_m)


@pytest.mark.parametrize("camera", RIG.values(), ids=RIG)
class TestNearPlane:
    """Boxes beside a camera that reach through the plane in which it sits, and one that is wholly behind it."""

    # Ahead, aside, turned, and (length, width, height); a bus, a car, and what is narrower or askew.
    THROUGH = (
        (1.0, 2.0, 0.0, (11.0, 2.6, 3.2)),
        (1.5, -1.6, np.pi, (4.6, 1.9, 1.7)),
        (0.9, 1.6, 0.5, (5.0, 1.8, 2.4)),
        (1.2, -1.1, 0.8, (3.0, 0.6, 3.0)),
        (0.6, 1.2, -0.3, (2.0, 0.5, 1.2)),
    )
    BEHIND = (-4.0, 0.5, 0.2, (4.6, 1.9, 1.7))

    def test_box_is_where_rays_enter_it(self, camera: Camera) -> None:
        for where in self.THROUGH:
            box = beside(camera, *where)
            expected, depth = box.hit(camera, SIZE_PX)
            assert expected.sum() > 100
            assert depth[expected].min() < 2.5
            drawn = draw_boxes([box], camera)
            mask = drawn.objects == 0
            assert (mask != expected).mean() < 0.01
            both = mask & expected
            # Near its edges a face that OpenCV fills reaches half a pixel onto the next.
            assert (np.abs(drawn.inverse_depth[both] * depth[both] - 1) > 0.02).mean() < 0.02

    def test_depth_is_finite_and_beyond_the_near_plane(self, camera: Camera) -> None:
        for where in (*self.THROUGH, self.BEHIND):
            drawn = draw_boxes([beside(camera, *where)], camera)
            assert np.isfinite(drawn.inverse_depth).all()
            assert drawn.inverse_depth.min() >= 0
            assert drawn.inverse_depth.max() < 1.05 / NEAR_M

    def test_a_box_a_quarter_of_a_metre_aside_would_be_noticed(self, camera: Camera) -> None:
        for ahead_m, left_m, turned, size_m in self.THROUGH:
            drawn = draw_boxes([beside(camera, ahead_m, left_m, turned, size_m)], camera)
            expected, depth = beside(camera, ahead_m, left_m + 0.25, turned, size_m).hit(camera, SIZE_PX)
            both = (drawn.objects == 0) & expected
            unlike = np.abs(drawn.inverse_depth[both] * depth[both] - 1) > 0.02
            assert ((drawn.objects == 0) != expected).mean() > 0.01 or unlike.mean() > 0.02

    def test_nothing_is_drawn_of_what_is_behind_or_around_the_camera(self, camera: Camera) -> None:
        for where in (self.BEHIND, (0.2, 0.1, 0.0, (4.0, 4.0, 3.0))):
            drawn = draw_boxes([beside(camera, *where)], camera)
            assert drawn.whole_px.tolist() == [0]
            assert (drawn.objects < 0).all()


class TestSize:
    def test_small_image_is_the_large_one_shrunk(self, scenes: list[Scene]) -> None:
        """In scenes whose ego vehicle drives: half a second later they look otherwise."""
        driving = [scene for scene in scenes if scene.at(6.0).ego_speed_mps > 3][:3]
        assert len(driving) == 3
        for scene in driving:
            small = draw(scene, scene.at(6.0), FRONT, (240, 240)).image
            large = shrunk(draw(scene, scene.at(6.0), FRONT, (720, 720)).image, 3)
            later = draw(scene, scene.at(6.5), FRONT, (240, 240)).image
            assert np.abs(small - large).mean() < 3
            assert np.abs(later - large).mean() > 5


class TestLooks:
    def test_differ(self, scenes: list[Scene]) -> None:
        scene, moment = scenes[1], scenes[1].at(4.0)
        images = {look: draw(replace(scene, look=look), moment, FRONT, SIZE_PX).image.astype(float) for look in LOOKS}
        day, dusk, rain = (images[look] for look in ("day", "dusk", "rain"))
        assert min(np.abs(one - other).mean() for one, other in ((day, dusk), (day, rain), (dusk, rain))) > 15
        assert dusk.mean() < rain.mean() < day.mean()

    def test_show_the_same_objects(self, scenes: list[Scene]) -> None:
        moment = scenes[1].at(4.0)
        maps = [draw(replace(scenes[1], look=look), moment, FRONT, SIZE_PX).objects for look in LOOKS]
        np.testing.assert_array_equal(maps[0], maps[1])
        np.testing.assert_array_equal(maps[0], maps[2])

    def test_rain_hides_what_is_far(self) -> None:
        """The colour of a car 70 m away is nearer to that of the mist in rain than by day."""
        contrast = {}
        for look in ("day", "rain"):
            drawn = draw(stage(place(CAR, 70.0), look=look), moment_of([(70.0, 0.0, 0.0)]), FRONT, (800, 450))
            car = drawn.image[drawn.objects == 0].astype(float)
            contrast[look] = np.abs(car - drawn.image[drawn.objects == SKY][-1]).mean()
        assert contrast["rain"] < 0.6 * contrast["day"]


class TestLamps:
    def test_braking_lights_a_red_band_that_rolling_does_not(self) -> None:
        car = stage(place(CAR, 10.0, lane=0))
        braking, rolling = (draw(car, moment_of([(10.0, 0.0, 0.0)], state=s), FRONT, SIZE_PX) for s in (BRAKING, ROLLING))
        assert rolling.lamp_px.tolist() == [0]
        assert braking.lamp_px[0] == np.count_nonzero(braking.shining) > 20
        red, green, blue = braking.image[braking.shining].mean(axis=0)
        assert red > 200
        assert max(green, blue) < 60
        np.testing.assert_array_equal(rolling.image[~braking.shining], braking.image[~braking.shining])

    def test_lamps_keep_their_colour_at_dusk(self) -> None:
        moment = moment_of([(10.0, 0.0, 0.0)], state=BRAKING)
        day, dusk = (draw(stage(place(CAR, 10.0, lane=0), look=look), moment, FRONT, SIZE_PX) for look in ("day", "dusk"))
        np.testing.assert_allclose(dusk.image[dusk.shining].mean(axis=0), day.image[day.shining].mean(axis=0), atol=12)


def test_far_below_a_pixel_nothing_is_drawn() -> None:
    moment = moment_of([(80.0, 3.0, 0.0)])
    assert draw(stage(place(PEDESTRIAN, 80.0, 3.0)), moment, FRONT, (16, 16)).whole_px.tolist() == [0]
    assert draw(stage(place(PEDESTRIAN, 80.0, 3.0)), moment, FRONT, (1600, 900)).visible_px[0] > 100


def test_nothing_is_seen_85_m_away() -> None:
    for x, expected in ((84.0, True), (86.0, False)):
        assert (draw(stage(place(BUS, x)), moment_of([(x, 0.0, 0.0)]), FRONT, SIZE_PX).visible_px[0] > 0) == expected
