"""runtime/tiles.py: the same grid as InternVL's preprocessing and the same pixels as PIL."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import CameraFrame, FrameSet
from leo_edge.runtime.tiles import TileBatch, TileGrid, TilingConfig, choose_grid, cut_tiles, num_tiles

Uint8 = npt.NDArray[np.uint8]

LEO = TilingConfig(tile_px=448)


def published_grid(width: int, height: int, config: TilingConfig, *, weigh_area: bool = True) -> tuple[int, int]:
    """InternVL's rule as published with the model, in its own order: a set of grids, sorted by area alone."""
    numbers = range(1, config.max_tiles + 1)
    allowed = {(c, r) for c in numbers for r in numbers if config.min_tiles <= c * r <= config.max_tiles}
    chosen, smallest = (1, 1), math.inf
    for cols, rows in sorted(allowed, key=lambda pair: pair[0] * pair[1]):
        difference = abs(width / height - cols / rows)
        if difference < smallest:
            chosen, smallest = (cols, rows), difference
        elif difference == smallest and weigh_area and width * height > 0.5 * config.tile_px**2 * cols * rows:
            chosen = (cols, rows)
    return chosen


def published_tiles(image: Uint8, config: TilingConfig, resample: Image.Resampling) -> Uint8:
    """Tiles [T, S, S, 3] cut with PIL's own crop, one after the other.

    Resized columns first, as PIL did in one call until Pillow 13.
    """

    def resized(width: int, height: int) -> Image.Image:
        return picture.resize((width, picture.height), resample).resize((width, height), resample)

    picture, side = Image.fromarray(image), config.tile_px
    cols, rows = published_grid(picture.width, picture.height, config)
    whole = resized(cols * side, rows * side)
    tiles = []
    for index in range(cols * rows):
        left, top = index % cols * side, index // cols * side
        tiles.append(whole.crop((left, top, left + side, top + side)))
    if config.use_thumbnail and len(tiles) > 1:
        tiles.append(resized(side, side))
    return np.stack([np.array(tile) for tile in tiles])


def random_sizes(count: int, largest: int, seed: int) -> list[tuple[int, int]]:
    """Sizes up to `largest` a side, even on a log scale; every fourth a multiple of a small grid, where grids tie."""
    rng = np.random.default_rng(seed)
    sizes = []
    for index in range(count):
        if index % 4 == 0:
            scale = int(rng.integers(1, max(2, largest // 6)))
            sizes.append((scale * int(rng.integers(1, 4)), scale * int(rng.integers(1, 4))))
        else:
            width, height = np.exp(rng.uniform(0, math.log(largest), 2)).astype(int)
            sizes.append((int(width), int(height)))
    return sizes


def random_image(width: int, height: int, seed: int = 0) -> Uint8:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestChooseGrid:
    @pytest.mark.parametrize("max_tiles", [1, 2, 6, 12])
    def test_equals_the_published_rule_on_200_sizes(self, max_tiles: int) -> None:
        config = TilingConfig(tile_px=448, max_tiles=max_tiles)
        sizes = random_sizes(200, 6000, seed=max_tiles)
        assert max(w / h for w, h in sizes) > 100
        assert min(w / h for w, h in sizes) < 0.01
        got = [choose_grid(w, h, config) for w, h in sizes]
        assert got == [TileGrid(*published_grid(w, h, config)) for w, h in sizes]

    @pytest.mark.parametrize("max_tiles", [2, 6, 12, 24])
    def test_equals_the_published_rule_midway_between_any_two_grids(self, max_tiles: int) -> None:
        config = TilingConfig(tile_px=448, max_tiles=max_tiles)
        ratios = {Fraction(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles // c + 1)}
        for midway in {(one + other) / 2 for one, other in combinations(ratios, 2)}:
            for scale in (1, 3000 // midway.denominator):  # far less and far more pixels than half of any grid
                width, height = midway.numerator * scale, midway.denominator * scale
                assert choose_grid(width, height, config) == TileGrid(*published_grid(width, height, config))

    def test_a_rule_without_the_area_differs(self) -> None:
        sizes = random_sizes(200, 6000, seed=6)
        with_area = [published_grid(w, h, LEO) for w, h in sizes]
        assert with_area != [published_grid(w, h, LEO, weigh_area=False) for w, h in sizes]

    @pytest.mark.parametrize(
        ("width", "height", "grid"),
        [
            (1600, 900, TileGrid(2, 1)),  # nuScenes
            (448, 448, TileGrid(1, 1)),  # half of 2 x 2 tiles is not exceeded
            (900, 900, TileGrid(2, 2)),
            (633, 633, TileGrid(1, 1)),  # 400,689 pixels; half of 2 x 2 tiles is 401,408
            (634, 634, TileGrid(2, 2)),  # 401,956
            (6000, 10, TileGrid(6, 1)),
            (10, 6000, TileGrid(1, 6)),
            (1, 1, TileGrid(1, 1)),
        ],
    )
    def test_known_sizes_at_six_tiles(self, width: int, height: int, grid: TileGrid) -> None:
        assert choose_grid(width, height, LEO) == grid

    def test_min_tiles_bounds_the_grid(self) -> None:
        assert choose_grid(448, 448, TilingConfig(448, min_tiles=4)) == TileGrid(2, 2)
        assert choose_grid(448, 448, TilingConfig(448, min_tiles=2, max_tiles=2)).area == 2

    @pytest.mark.parametrize("max_tiles", range(1, 25))
    def test_order_within_an_area_never_decides_from_one_tile_up(self, max_tiles: int) -> None:
        assert not ties_within_an_area(1, max_tiles)

    def test_order_within_an_area_is_ours_where_it_decides(self) -> None:
        assert ties_within_an_area(2, 2) == [Fraction(5, 4)]
        config = TilingConfig(tile_px=448, min_tiles=2, max_tiles=2)
        assert choose_grid(50, 40, config) == TileGrid(1, 2)  # by columns, and the later one is too large
        assert choose_grid(1250, 1000, config) == TileGrid(2, 1)

    def test_empty_image(self) -> None:
        with pytest.raises(ValueError, match="an image needs at least 1 x 1 pixels, got 0 x 900"):
            choose_grid(0, 900, LEO)


def ties_within_an_area(min_tiles: int, max_tiles: int) -> list[Fraction]:
    """Image ratios to which two grids of one area are equally close and no grid is closer."""
    numbers = range(1, max_tiles + 1)
    grids = [(c, r) for c in numbers for r in numbers if min_tiles <= c * r <= max_tiles]
    ties = []
    for one, other in combinations(grids, 2):
        if one[0] * one[1] == other[0] * other[1]:
            midway = (Fraction(*one) + Fraction(*other)) / 2
            if min(abs(midway - Fraction(*grid)) for grid in grids) == abs(midway - Fraction(*one)):
                ties.append(midway)
    return ties


class TestCutTiles:
    def test_equals_pil_on_200_sizes(self) -> None:
        for index, (width, height) in enumerate(random_sizes(200, 300, seed=1)):
            config = TilingConfig(tile_px=int(5 + index % 23), max_tiles=1 + index % 9, use_thumbnail=index % 3 > 0)
            image = random_image(width, height, index)
            expected = published_tiles(image, config, Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(cut_tiles(image, config), expected, err_msg=f"{width} x {height}, {config}")

    def test_bilinear_pixels_differ(self) -> None:
        config, image = TilingConfig(tile_px=16), random_image(64, 36)
        assert not np.array_equal(cut_tiles(image, config), published_tiles(image, config, Image.Resampling.BILINEAR))

    def test_nuscenes_image_gives_two_tiles_and_a_thumbnail(self) -> None:
        image = random_image(1600, 900)
        tiles = cut_tiles(image, LEO)
        assert tiles.shape == (3, 448, 448, 3)
        assert tiles.dtype == np.uint8
        assert num_tiles(choose_grid(1600, 900, LEO), LEO) == 3
        np.testing.assert_array_equal(tiles, published_tiles(image, LEO, Image.Resampling.BICUBIC))

    def test_tiles_run_row_by_row(self) -> None:
        image = np.zeros((40, 60, 3), np.uint8)
        for index in range(6):
            image[index // 3 * 20 :, index % 3 * 20 :] = 40 * index  # each overwrites what is right of it and below
            image[index // 3 * 20 : index // 3 * 20 + 20, index % 3 * 20 : index % 3 * 20 + 20] = 40 * index
        tiles = cut_tiles(image, TilingConfig(tile_px=20))
        assert [int(tile[10, 10, 0]) for tile in tiles[:6]] == [0, 40, 80, 120, 160, 200]
        assert len(tiles) == 7

    def test_a_single_tile_has_no_thumbnail(self) -> None:
        assert len(cut_tiles(random_image(20, 20), TilingConfig(tile_px=20))) == 1
        assert num_tiles(TileGrid(1, 1), LEO) == 1

    def test_thumbnail_can_be_left_out(self) -> None:
        assert num_tiles(TileGrid(2, 1), LEO) == 3
        assert num_tiles(TileGrid(2, 1), TilingConfig(448, use_thumbnail=False)) == 2

    def test_wrong_image(self) -> None:
        with pytest.raises(FrameError, match=r"image must be uint8 \[H, W, 3\] in RGB, got float64 \[4, 4, 3\]"):
            cut_tiles(np.zeros((4, 4, 3)), LEO)  # type: ignore[arg-type]


class TestTileBatch:
    config = TilingConfig(tile_px=16)
    frames = (
        CameraFrame("CAM_BACK", random_image(20, 20, 1), 30),
        CameraFrame("CAM_FRONT", random_image(64, 36, 2), 10),
        CameraFrame("CAM_FRONT_LEFT", random_image(30, 90, 3), 20),
    )

    def test_tiles_come_in_camera_order_with_their_stamps(self) -> None:
        batch = TileBatch.from_frames(FrameSet.of(self.frames), self.config)
        assert batch.channels == ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK")
        assert batch.counts == (3, 4, 1)
        assert batch.stamps_ns == (10, 20, 30)
        assert batch.tiles.shape == (8, 16, 16, 3)
        assert batch.tiles.flags.c_contiguous

    def test_each_camera_has_the_tiles_that_it_has_alone(self) -> None:
        batch = TileBatch.from_frames(FrameSet.of(self.frames), self.config)
        for frame in self.frames:
            np.testing.assert_array_equal(batch.of_channel(frame.channel), cut_tiles(frame.image, self.config))
            assert np.shares_memory(batch.of_channel(frame.channel), batch.tiles)
        assert not np.array_equal(batch.of_channel("CAM_FRONT"), cut_tiles(self.frames[0].image, self.config))

    def test_one_camera(self) -> None:
        batch = TileBatch.from_frames(FrameSet.of(self.frames[:1]), self.config)
        assert batch.counts == (1,)

    def test_camera_without_tiles(self) -> None:
        batch = TileBatch.from_frames(FrameSet.of(self.frames), self.config)
        with pytest.raises(FrameError, match="no tiles of CAM_BACK_LEFT: this batch holds CAM_FRONT, CAM_FRONT_LEFT"):
            batch.of_channel("CAM_BACK_LEFT")

    @pytest.mark.parametrize(
        ("shape", "channels", "counts", "text"),
        [
            ((2, 4, 5, 3), ("a",), (2,), r"tiles must be uint8 \[T, S, S, 3\], got uint8 \[2, 4, 5, 3\]"),
            ((2, 4, 4, 3), ("a", "b"), (2,), "must be equally long, got 2, 1 and 1"),
            ((2, 4, 4, 3), ("a",), (3,), r"sum to 2 tiles, got \(3,\)"),
        ],
    )
    def test_contradictions(
        self, shape: tuple[int, ...], channels: tuple[str, ...], counts: tuple[int, ...], text: str
    ) -> None:
        with pytest.raises(ValueError, match=text):
            TileBatch(np.zeros(shape, np.uint8), channels, counts, (0,))

    def test_counts_must_be_positive_and_cameras_distinct(self) -> None:
        tiles = np.zeros((2, 4, 4, 3), np.uint8)
        with pytest.raises(ValueError, match="counts must be positive"):
            TileBatch(tiles, ("a", "b"), (2, 0), (0, 0))
        with pytest.raises(ValueError, match="a camera may come once"):
            TileBatch(tiles, ("a", "a"), (1, 1), (0, 0))


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ((0, 1, 6), "tile_px must be at least 1, got 0"),
            ((448, 0, 6), "min_tiles must be at least 1, got 0"),
            ((448, 4, 3), "max_tiles must be at least min_tiles 4, got 3"),
        ],
    )
    def test_wrong_values(self, values: tuple[int, int, int], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            TilingConfig(*values)

    def test_empty_grid(self) -> None:
        with pytest.raises(ValueError, match="at least 1 column and 1 row, got 0 x 2"):
            TileGrid(0, 2)
