"""The tiles of a camera image as a graph, so that on a GPU the image goes up once, as the camera gave it.

Resizing is PIL's, exactly: see `leo_edge.runtime.resampling`. The matrices are inputs and not constants of the graph because
they depend on the size of the camera's image and on its grid: so one graph serves every camera and every grid, also those that
the pipeline takes when time is short. They stay the same from frame to frame, and an engine keeps them where it computes.

Shape letters: H image height, W image width, S tile side in pixels, R rows, C columns, Y = R S, X = C S, T = R C tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leo_edge.export.modeling.resample import to_grey_levels


class Tiles(nn.Module):
    """Cuts one image [H, W, 3] uint8 into a grid of tiles, row by row: [T, S, S, 3] uint8.

    The parts of the column weights are [W, X], those of the row weights [Y, H]. A thumbnail is a grid of one tile.
    """

    def __init__(self, tile_px: int) -> None:
        super().__init__()
        self.tile_px = tile_px

    def forward(
        self, image: Tensor, columns_upper: Tensor, columns_lower: Tensor, rows_upper: Tensor, rows_lower: Tensor
    ) -> Tensor:
        side = self.tile_px
        rows, cols = rows_upper.shape[0] // side, columns_upper.shape[1] // side
        pixels = image.to(torch.float32).permute(2, 0, 1)  # [3, H, W], cast at once: TensorRT takes bytes in no other operator
        columns = to_grey_levels(pixels @ columns_upper, pixels @ columns_lower)  # [3, H, X]
        levels = to_grey_levels(rows_upper @ columns, rows_lower @ columns)  # [3, Y, X]
        tiles = levels.reshape(3, rows, side, cols, side).permute(1, 3, 2, 4, 0)  # [R, C, S, S, 3]
        return tiles.reshape(rows * cols, side, side, 3).to(torch.uint8)
