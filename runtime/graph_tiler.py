"""Tiles cut by the bundle's graph `tiles`, where the engine works, and not by PIL on the host: see `leo_edge.runtime.tiles`.

The frame goes up once. The resampling matrices stay there: they depend on nothing but the sizes of image and grid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leo_edge.runtime.backend import Session, Tensor
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.resampling import Float32Matrix, column_matrices, row_matrices
from leo_edge.runtime.tiles import TileGrid, TilingConfig, choose_grid, num_tiles

# Pairs of matrices that are kept: one image size and grid takes two pairs, its thumbnail up to two more. A pair for nuScenes's
# cameras and LEO's tiles has 11 MB, one for the largest grid of 4K images 83 MB.
_KEPT_PAIRS = 24


@dataclass(frozen=True, eq=False)
class CameraTiles:
    """The tiles of one camera: those of its grid row by row, then its thumbnail if it has one, as `TileBatch` has them.

    parts: what the graph gave, each [n, S, S, 3] uint8, wherever the engine keeps it; `count` tiles in all.
    """

    channel: str
    stamp_ns: int
    count: int
    parts: tuple[Tensor, ...]


class GraphTiler:
    """Cuts frame sets with the graph `tiles`. One for each pipeline; not for several threads at once."""

    def __init__(self, session: Session, upload: Callable[[Any], Tensor] = lambda array: array) -> None:
        """Takes the graph's session, and what puts an array where it works.

        `upload` is called once for each frame and once for each matrix, which is then given to the session as the very same
        object whenever it is needed.
        """
        self._session, self._upload = session, upload
        self._pairs: OrderedDict[tuple[str, int, int], dict[str, Tensor]] = OrderedDict()

    def cut(self, frame_set: FrameSet, config: TilingConfig) -> tuple[CameraTiles, ...]:
        """Cuts the frames of all cameras that are there, in camera order; what is missing gives no tiles.

        The session's outputs must stay as they are while it runs again.

        Raises:
            BackendError: the engine refuses, for example an image of another size than it was built for.
        """
        cut = []
        for frame in frame_set.frames.values():
            grid = choose_grid(frame.width, frame.height, config)
            count = num_tiles(grid, config)
            grids = [grid] if count == grid.area else [grid, TileGrid(1, 1)]
            image = self._upload(frame.image)
            parts = tuple(
                self._session.run({"image": image, **self._matrices(frame.width, frame.height, one, config.tile_px)})["tiles"]
                for one in grids
            )
            cut.append(CameraTiles(frame.channel, frame.stamp_ns, count, parts))
        return tuple(cut)

    def _matrices(self, width: int, height: int, grid: TileGrid, tile_px: int) -> dict[str, Tensor]:
        """Returns the four matrices of a grid. A grid and its thumbnail may share a pair."""
        columns = self._pair("columns", column_matrices, width, grid.cols * tile_px)
        return columns | self._pair("rows", row_matrices, height, grid.rows * tile_px)

    def _pair(
        self, axis: str, make: Callable[[int, int], dict[str, Float32Matrix]], source_px: int, target_px: int
    ) -> dict[str, Tensor]:
        key = (axis, source_px, target_px)
        if key not in self._pairs:
            self._pairs[key] = {name: self._upload(matrix) for name, matrix in make(source_px, target_px).items()}
            if len(self._pairs) > _KEPT_PAIRS:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end(key)
        return self._pairs[key]
