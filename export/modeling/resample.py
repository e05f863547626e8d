"""PIL's resampling as two matrix products, so that a tile is resized inside a graph with operators that every engine has.

PIL resizes 8-bit images in two passes, columns then rows, each a weighted sum of the source pixels rounded back to 8 bits
(Pillow, src/libImaging/Resample.c). A pass is a product with a constant matrix, so the same matrices and the same rounding
give PIL's pixels, but for the last bit of PIL's fixed-point weights: at most one grey level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from leo_edge.export.weights import Recipes, constant


def bicubic(x: float) -> float:
    """Keys' cubic kernel with a = -0.5, PIL's choice."""
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def bilinear(x: float) -> float:
    """The triangle kernel."""
    return max(0.0, 1 - abs(x))


KERNELS: dict[str, tuple[Callable[[float], float], float]] = {"bicubic": (bicubic, 2.0), "bilinear": (bilinear, 1.0)}


def resample_matrix(source_px: int, target_px: int, kernel: str) -> Tensor:
    """Returns [target_px, source_px] float32: row i holds the weights of the source pixels in target pixel i."""
    weigh, support = KERNELS[kernel]
    scale = source_px / target_px
    stretch = max(scale, 1.0)  # widened when shrinking: antialiased
    matrix = torch.zeros(target_px, source_px, dtype=torch.float64, device="cpu")
    for i in range(target_px):
        centre = (i + 0.5) * scale
        first = max(0, math.floor(centre - support * stretch + 0.5))
        last = min(source_px, math.floor(centre + support * stretch + 0.5))
        weights = [weigh((j - centre + 0.5) / stretch) for j in range(first, last)]
        matrix[i, first:last] = torch.tensor(weights, dtype=torch.float64, device="cpu") / sum(weights)
    return matrix.to(torch.float32)


class Resample(nn.Module):
    """Resizes square 8-bit images: [T, 3, S, S] values 0..255 -> [T, 3, R, R] values 0..255, float32."""

    matrix: Tensor

    def __init__(self, source_px: int, target_px: int, kernel: str) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"unknown resample {kernel!r}: expected one of {', '.join(KERNELS)}")
        self.table = resample_matrix(source_px, target_px, kernel)
        self.register_buffer("matrix", torch.empty(target_px, source_px, dtype=torch.float32), persistent=False)

    def recipes(self) -> Recipes:
        """The matrix is a constant, not a weight."""
        return {"matrix": constant(self.table)}

    def forward(self, pixels: Tensor) -> Tensor:
        columns = _to_grey_levels(pixels @ self.matrix.T)
        return _to_grey_levels(self.matrix @ columns)


def _to_grey_levels(x: Tensor) -> Tensor:
    return torch.clamp(torch.floor(x + 0.5), 0.0, 255.0)
