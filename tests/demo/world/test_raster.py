"""demo/world/raster.py, against rays that are followed from every pixel to every polygon in space.

Shape letters: F polygons, C corners, H image height, W image width.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from leo_edge.demo.world.raster import DepthBuffer

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

# Below OpenCV's turn: a box of the whole image has fewer pixels than the rasteriser tests one by one.
SMALL_PX, LARGE_PX = (54, 48), (260, 180)


@dataclass(frozen=True)
class Polygons:
    """Flat convex polygons in the camera's frame, corners [F, C, 3] in order around them."""

    corners: Floats
    intrinsic: Floats

    @property
    def pixels(self) -> Floats:
        """Where the corners are in the image [F, C, 2]."""
        homogeneous = self.corners @ self.intrinsic.T
        return homogeneous[..., :2] / homogeneous[..., 2:]

    @property
    def planes(self) -> Floats:
        """Coefficients of inverse depth over (u, v, 1), solved from three corners [F, 3]."""
        three = self.pixels[:, :3]
        matrix = np.concatenate([three, np.ones((*three.shape[:2], 1))], axis=-1)
        solved: Floats = np.linalg.solve(matrix, 1 / self.corners[:, :3, 2:])[..., 0]
        return solved

    def shifted(self, right_px: float, down_px: float) -> "Polygons":
        return Polygons(self.corners, self.intrinsic + np.array([[0, 0, right_px], [0, 0, down_px], [0, 0, 0]]))

    def hit(self, size_px: tuple[int, int]) -> tuple[Booleans, Floats]:
        """Follows the ray of each pixel: whether it meets each polygon, and at which depth [F, H, W]."""
        u, v = np.meshgrid(np.arange(size_px[0]), np.arange(size_px[1]))
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(self.intrinsic).T  # [H, W, 3], z = 1
        inside, depths = [], []
        for corners in self.corners:
            normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
            depth = (normal @ corners[0]) / (rays @ normal)
            met = rays * depth[..., None]
            edges = np.roll(corners, -1, axis=0) - corners
            side = np.stack([np.cross(edge, met - corner) @ normal for edge, corner in zip(edges, corners, strict=True)])
            inside.append((side >= 0).all(axis=0) | (side <= 0).all(axis=0))
            depths.append(depth)
        return np.array(inside), np.array(depths)

    def nearest(self, size_px: tuple[int, int]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Returns by pixel the nearest polygon (-1: none) and one over its depth [H, W]."""
        inside, depths = self.hit(size_px)
        inverse = np.where(inside, 1 / depths, 0.0)
        return np.where(inside.any(axis=0), inverse.argmax(axis=0), -1), inverse.max(axis=0)


def random_polygons(seed: int, count: int, size_px: tuple[int, int], *, radius_m: tuple[float, float]) -> Polygons:
    """Hexagons inscribed in circles of random size, place and tilt, some of them partly outside the image; either winding."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tilt, _ = np.linalg.qr(random.normal(size=(3, 3)))
        tilt[2] *= 0.5
        angles = np.sort(random.uniform(0, 2 * np.pi, 6))[:: int(random.choice([1, -1]))]
        ring = float(random.uniform(*radius_m)) * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        z = float(random.uniform(6, 14))
        made.append(ring @ tilt[:, :2].T + [*(random.uniform(-0.5, 0.5, 2) * z), z])
    width, height = size_px
    return Polygons(np.array(made), np.array([[width, 0, width / 2 - 0.2], [0, width, height / 2 + 0.3], [0, 0, 1.0]]))


def drawn(polygons: Polygons, size_px: tuple[int, int], *, tested: bool = True) -> tuple[DepthBuffer, npt.NDArray[np.int32]]:
    buffer = DepthBuffer(*size_px)
    numbers = np.arange(len(polygons.corners), dtype=np.int32)
    return buffer, buffer.draw(polygons.pixels, polygons.planes, numbers, numbers, tested=tested)


class TestSmall:
    """Polygons whose pixels are tested one by one: exact, up to float32 at their outlines."""

    @pytest.fixture(scope="class", params=[0, 1, 2])
    @staticmethod
    def polygons(request: pytest.FixtureRequest) -> Polygons:
        return random_polygons(request.param, 25, SMALL_PX, radius_m=(0.3, 3.0))

    def test_nearest_polygon_is_the_one_that_the_ray_meets_first(self, polygons: Polygons) -> None:
        expected, inverse = polygons.nearest(SMALL_PX)
        buffer, _ = drawn(polygons, SMALL_PX)
        agree = buffer.faces == expected
        assert (~agree).mean() < 1e-3
        np.testing.assert_allclose(buffer.inverse[agree], inverse[agree], rtol=1e-3, atol=1e-6)
        assert len(np.unique(expected)) > 10

    def test_another_pixel_centre_or_the_farthest_polygon_would_be_noticed(self, polygons: Polygons) -> None:
        buffer, _ = drawn(polygons, SMALL_PX)
        assert (buffer.faces != polygons.shifted(0.5, 0.0).nearest(SMALL_PX)[0]).mean() > 0.01
        inside, depths = polygons.hit(SMALL_PX)
        farthest = np.where(inside.any(axis=0), np.where(inside, depths, 0).argmax(axis=0), -1)
        assert (buffer.faces != farthest).mean() > 0.1

    def test_order_does_not_matter(self, polygons: Polygons) -> None:
        buffer, _ = drawn(polygons, SMALL_PX)
        backwards, _ = drawn(Polygons(polygons.corners[::-1], polygons.intrinsic), SMALL_PX)
        last = len(polygons.corners) - 1
        np.testing.assert_array_equal(np.where(backwards.faces < 0, -1, last - backwards.faces), buffer.faces)
        np.testing.assert_array_equal(backwards.inverse, buffer.inverse)

    def test_untested_later_ones_cover_earlier_ones(self, polygons: Polygons) -> None:
        inside, _ = polygons.hit(SMALL_PX)
        last = np.where(inside.any(axis=0), len(inside) - 1 - inside[::-1].argmax(axis=0), -1)
        buffer, _ = drawn(polygons, SMALL_PX, tested=False)
        assert (buffer.faces != last).mean() < 1e-3
        assert (buffer.faces != polygons.nearest(SMALL_PX)[0]).mean() > 0.05

    def test_covered_counts_pixels_whatever_hides_them(self, polygons: Polygons) -> None:
        inside, _ = polygons.hit(SMALL_PX)
        buffer, covered = drawn(polygons, SMALL_PX)
        np.testing.assert_allclose(covered, inside.sum(axis=(1, 2)), atol=1)
        seen = np.bincount(buffer.faces[buffer.faces >= 0], minlength=len(covered))
        assert (seen <= covered).all()
        assert (covered > seen + 20).any()


def outline_distance_px(polygons: Polygons, size_px: tuple[int, int]) -> Floats:
    """Returns how far each pixel's centre is from the outline of the first polygon in the image [H, W]."""
    points = np.stack(np.meshgrid(np.arange(size_px[0]), np.arange(size_px[1])), axis=-1)
    distances = []
    for start, end in zip(polygons.pixels[0], np.roll(polygons.pixels[0], -1, axis=0), strict=True):
        part = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distances.append(np.linalg.norm(points - start - part[..., None] * (end - start), axis=-1))
    nearest: Floats = np.min(distances, axis=0)
    return nearest


class TestLarge:
    """Polygons that OpenCV fills: its outlines are up to half a pixel wider, and its corners on a grid."""

    @pytest.fixture(scope="class", params=range(12))
    @staticmethod
    def polygons(request: pytest.FixtureRequest) -> Polygons:
        """One that covers much of the image."""
        made = (random_polygons(seed, 1, LARGE_PX, radius_m=(4.0, 6.0)) for seed in itertools.count(100 * request.param))
        return next(polygons for polygons in made if np.count_nonzero(polygons.hit(LARGE_PX)[0]) > 5000)

    @staticmethod
    def worst_px(polygons: Polygons, mask: Booleans) -> float:
        """Returns how far from the outline a wrong pixel is."""
        (expected,), _ = polygons.hit(LARGE_PX)
        return float(outline_distance_px(polygons, LARGE_PX)[mask != expected].max(initial=0.0))

    def test_agree_up_to_the_outline(self, polygons: Polygons) -> None:
        buffer, (covered,) = drawn(polygons, LARGE_PX)
        mask = buffer.faces == 0
        assert covered == np.count_nonzero(mask)
        assert self.worst_px(polygons, mask) < 0.8
        (expected,), (depth,) = polygons.hit(LARGE_PX)
        both = mask & expected
        np.testing.assert_allclose(buffer.inverse[both], 1 / depth[both], rtol=1e-3)

    def test_a_shift_by_two_and_a_half_pixels_would_be_noticed(self, polygons: Polygons) -> None:
        shifts = (polygons.shifted(2.5, 0.0), polygons.shifted(0.0, 2.5))
        assert max(self.worst_px(polygons, drawn(one, LARGE_PX)[0].faces == 0) for one in shifts) > 1.2


QUAD = np.array([[[-1.0, -0.8, 4.0], [1.2, -0.8, 4.0], [1.2, 0.9, 5.0], [-1.0, 0.9, 5.0]]])
INTRINSIC = np.array([[54.0, 0, 26.5], [0, 54.0, 23.5], [0, 0, 1]])


class TestCorners:
    @pytest.mark.parametrize(
        "change",
        [
            lambda corners: corners[:, ::-1],
            lambda corners: np.roll(corners, 1, axis=1),
            lambda corners: np.concatenate([corners, corners[:, -1:], corners[:, -1:]], axis=1),
        ],
        ids=["other winding", "other first corner", "last corner repeated"],
    )
    def test_same_polygon_told_otherwise_is_the_same(self, change: Callable[[Floats], Floats]) -> None:
        polygons = Polygons(QUAD, INTRINSIC)
        buffer, covered = drawn(polygons, SMALL_PX)
        other = DepthBuffer(*SMALL_PX)
        assert other.draw(change(polygons.pixels), polygons.planes, np.zeros(1, np.int32), np.zeros(1, np.int32)) == covered
        np.testing.assert_array_equal(other.faces, buffer.faces)
        assert 300 < covered[0] < SMALL_PX[0] * SMALL_PX[1]

    @pytest.mark.parametrize("shift_px", [(-60.0, 0.0), (60.0, 0.0), (0.0, -60.0), (0.0, 60.0)])
    def test_outside_the_image_covers_nothing(self, shift_px: tuple[float, float]) -> None:
        polygons = Polygons(QUAD, INTRINSIC)
        buffer = DepthBuffer(*SMALL_PX)
        covered = buffer.draw(polygons.pixels + shift_px, polygons.planes, np.zeros(1, np.int32), np.zeros(1, np.int32))
        assert covered.tolist() == [0]
        assert (buffer.faces == -1).all()
        assert (buffer.inverse == 0).all()

    def test_corners_too_far_for_opencv_are_tested_instead(self) -> None:
        """A plane's edge close to the camera: corners at 400 million pixels, and 260x180 pixels to fill."""
        corners = np.array([[[-900.0, 1.0, 0.0005], [900.0, 1.0, 0.0005], [900.0, 1.0, 40.0], [-900.0, 1.0, 40.0]]])
        polygons = Polygons(corners, np.array([[260.0, 0, 129.5], [0, 260.0, 89.5], [0, 0, 1]]))
        assert np.abs(polygons.pixels).max() > 2**28
        (expected,), _ = polygons.hit(LARGE_PX)
        buffer, (covered,) = drawn(polygons, LARGE_PX)
        np.testing.assert_array_equal(buffer.faces == 0, expected)
        assert covered > 20000


def test_numbers_are_those_that_were_given() -> None:
    polygons = Polygons(QUAD, INTRINSIC)
    buffer = DepthBuffer(*SMALL_PX)
    buffer.draw(polygons.pixels, polygons.planes, np.array([77], np.int32), np.zeros(1, np.int32))
    assert np.unique(buffer.faces).tolist() == [-1, 77]


@pytest.mark.parametrize(("owners", "covers_twice"), [([0, 0], False), ([0, 1], True)])
def test_what_an_owner_covers_is_counted_once(owners: list[int], covers_twice: bool) -> None:
    """The same quadrangle nearer and farther: the farther one is hidden, but would be there if nothing hid it."""
    near, far = Polygons(QUAD, INTRINSIC), Polygons(QUAD * 1.5, INTRINSIC)
    buffer = DepthBuffer(*SMALL_PX)
    pixels, planes = np.concatenate([near.pixels, far.pixels]), np.concatenate([near.planes, far.planes])
    first, second = buffer.draw(pixels, planes, np.arange(2, dtype=np.int32), np.array(owners, np.int32)).tolist()
    assert first > 300
    assert second == (first if covers_twice else 0)
    assert np.unique(buffer.faces).tolist() == [-1, 0]
