"""Adaptive tiling: one image becomes a grid of square tiles that fits its aspect ratio, and a thumbnail of the whole.

The rule is that of InternVL 1.5 (arXiv 2404.16821, section 3.3), which LEO keeps (arXiv 2501.06986); pixels are PIL's.

Shape letters: T tiles, S tile side in pixels, R rows, C columns, H image height, W image width.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import FrameSet, RgbImage, check_rgb
from leo_edge.runtime.resize import resize

TileArray = npt.NDArray[np.uint8]  # [T, S, S, 3]


@dataclass(frozen=True)
class TileGrid:
    """How many tiles lie side by side (`cols`) and one below the other (`rows`)."""

    cols: int
    rows: int

    def __post_init__(self) -> None:
        if self.cols < 1 or self.rows < 1:
            raise ValueError(f"a tile grid needs at least 1 column and 1 row, got {self.cols} x {self.rows}")

    @property
    def area(self) -> int:
        """Tiles in the grid, the thumbnail not counted."""
        return self.cols * self.rows


@dataclass(frozen=True)
class TilingConfig:
    """How images are cut. The defaults beside `tile_px` are LEO's.

    tile_px: side of a tile, the input size of the vision expert.
    min_tiles, max_tiles: bounds of a grid's area; the thumbnail comes on top.
    use_thumbnail: whether an image cut into more than one tile also gives one tile of the whole.
    """

    tile_px: int
    min_tiles: int = 1
    max_tiles: int = 6
    use_thumbnail: bool = True

    def __post_init__(self) -> None:
        if self.tile_px < 1:
            raise ValueError(f"tile_px must be at least 1, got {self.tile_px}")
        if self.min_tiles < 1:
            raise ValueError(f"min_tiles must be at least 1, got {self.min_tiles}")
        if self.max_tiles < self.min_tiles:
            raise ValueError(f"max_tiles must be at least min_tiles {self.min_tiles}, got {self.max_tiles}")

    def at_most(self, max_tiles: int | None) -> "TilingConfig":
        """Returns the same tiling with no more tiles than this, however many were the least; None changes nothing."""
        if max_tiles is None or max_tiles >= self.max_tiles:
            return self
        return replace(self, min_tiles=min(self.min_tiles, max_tiles), max_tiles=max_tiles)


@dataclass(frozen=True, eq=False)
class TileBatch:
    """The tiles of all cameras of one frame set, one camera after the other in camera order.

    tiles: [T, S, S, 3] uint8 RGB; per camera its grid row by row, then its thumbnail if it has one.
    channels, counts, stamps_ns: per camera its name, how many of the T tiles are its own, and its frame's stamp.
    """

    tiles: TileArray
    channels: tuple[str, ...]
    counts: tuple[int, ...]
    stamps_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = self.tiles.shape
        if self.tiles.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise ValueError(f"tiles must be uint8 [T, S, S, 3], got {self.tiles.dtype} {list(shape)}")
        if not len(self.channels) == len(self.counts) == len(self.stamps_ns):
            raise ValueError(
                f"channels, counts and stamps_ns must be equally long, "
                f"got {len(self.channels)}, {len(self.counts)} and {len(self.stamps_ns)}"
            )
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"a camera may come once in a tile batch, got {self.channels}")
        if min(self.counts, default=1) < 1 or sum(self.counts) != shape[0]:
            raise ValueError(f"counts must be positive and sum to {shape[0]} tiles, got {self.counts}")

    @classmethod
    def from_frames(cls, frame_set: FrameSet, config: TilingConfig) -> "TileBatch":
        """Cuts the frames of all cameras that are there, in camera order; what is missing gives no tiles.

        One thread per camera: the resize works outside the interpreter lock, so the cores share the work.
        """
        frames = tuple(frame_set.frames.values())
        grids = [choose_grid(frame.width, frame.height, config) for frame in frames]
        counts = tuple(num_tiles(grid, config) for grid in grids)
        tiles = _empty_tiles(sum(counts), config)
        parts = np.split(tiles, list(accumulate(counts))[:-1])  # views, one per camera
        with ThreadPoolExecutor(len(frames), "tiles") as pool:
            list(pool.map(_cut_into, parts, (frame.image for frame in frames), grids))
        return cls(tiles, frame_set.channels, counts, tuple(frame.stamp_ns for frame in frames))

    def of_channel(self, channel: str) -> TileArray:
        """The tiles of one camera, [its count, S, S, 3]: a view, not a copy.

        Raises:
            FrameError: the batch holds no tiles of this camera.
        """
        if channel not in self.channels:
            raise FrameError(f"no tiles of {channel}: this batch holds {', '.join(self.channels)}")
        index = self.channels.index(channel)
        start = sum(self.counts[:index])
        return self.tiles[start : start + self.counts[index]]


def choose_grid(width: int, height: int, config: TilingConfig) -> TileGrid:
    """The grid whose aspect ratio is closest to that of an image of `width` x `height` pixels.

    Among equally close grids a later one (see `_candidate_grids`) wins if the image has more than half its pixels.
    Ratios are compared as floats, as in training.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image needs at least 1 x 1 pixels, got {width} x {height}")
    aspect_ratio = width / height
    first, *later = _candidate_grids(config)
    best, best_distance = first, abs(aspect_ratio - first.cols / first.rows)
    for grid in later:
        distance = abs(aspect_ratio - grid.cols / grid.rows)
        fills_half = width * height > 0.5 * config.tile_px**2 * grid.area
        if distance < best_distance or (distance == best_distance and fills_half):
            best, best_distance = grid, distance
    return best


def num_tiles(grid: TileGrid, config: TilingConfig) -> int:
    """Tiles that an image cut by `grid` gives, the thumbnail included where there is one."""
    return grid.area + (1 if config.use_thumbnail and grid.area > 1 else 0)


def cut_tiles(image: RgbImage, config: TilingConfig) -> TileArray:
    """Cuts one image [H, W, 3] uint8 into tiles [T, S, S, 3]: the grid row by row, then the thumbnail.

    Raises:
        FrameError: the image is not uint8 [H, W, 3], C-contiguous.
    """
    check_rgb(image, "cut_tiles")
    grid = choose_grid(image.shape[1], image.shape[0], config)
    tiles = _empty_tiles(num_tiles(grid, config), config)
    _cut_into(tiles, image, grid)
    return tiles


def _candidate_grids(config: TilingConfig) -> list[TileGrid]:
    """All grids that `config` allows, by area, then by columns.

    InternVL sorts by area alone and so leaves grids of one area in the order of a Python set. That order decides only
    for an image whose ratio lies exactly midway between two grids of one area that are both closest. With min_tiles 1
    there is no such image (tests/runtime/test_tiles.py looks at every midpoint up to 24 tiles); with a larger
    min_tiles there are a few, such as 5:4 with min_tiles 2, and there the order by columns is ours.
    """
    grids = [
        TileGrid(cols, rows)
        for cols in range(1, config.max_tiles + 1)
        for rows in range(1, config.max_tiles // cols + 1)
        if cols * rows >= config.min_tiles
    ]
    return sorted(grids, key=lambda grid: (grid.area, grid.cols))


def _empty_tiles(count: int, config: TilingConfig) -> TileArray:
    return np.empty((count, config.tile_px, config.tile_px, 3), np.uint8)


def _cut_into(tiles: TileArray, image: RgbImage, grid: TileGrid) -> None:
    """Fills `tiles` [T, S, S, 3] with the grid of `image`, and with its thumbnail if there is one tile more."""
    side = tiles.shape[1]
    sizes = [(grid.cols * side, grid.rows * side), (side, side)]
    whole, *thumbnail = resize(image, sizes[: 1 + len(tiles) - grid.area])
    blocks = whole.reshape(grid.rows, side, grid.cols, side, 3)
    tiles[: grid.area].reshape(grid.rows, grid.cols, side, side, 3)[:] = blocks.swapaxes(1, 2)  # [R, C, S, S, 3]
    if thumbnail:
        (tiles[grid.area],) = thumbnail
