"""PIL's resampling as matrix products, so that a tile is resized inside a graph with operators that every engine has.

PIL resizes 8-bit images in two passes, columns then rows, each a sum of source pixels with weights of 22 binary places,
rounded back to 8 bits (Pillow, src/libImaging/Resample.c). A pass is a product with a constant matrix. Float32 cannot hold
such a sum, so each weight is split into its upper 11 places and the rest: both sums are exact in float32 in whatever order an
engine adds, and put together without rounding they give PIL's pixels bit for bit, on every engine that multiplies in float32
(not TF32).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from leo_edge.export.weights import Recipes, constant

_PLACES, _LOWER_PLACES = 22, 11
# The lower sums stay below 2^24 units as long as a target pixel has no more source pixels than this.
_MAX_TAPS = 32


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


def fixed_point_weights(source_px: int, target_px: int, kernel: str) -> Tensor:
    """Returns [target_px, source_px] int64: row i holds the weights of the source pixels in target pixel i, times 2^22.

    Raises:
        ValueError: the kernel is unknown, or the image is shrunk further than float32 sums stay exact.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown resample {kernel!r}: expected one of {', '.join(KERNELS)}")
    weigh, support = KERNELS[kernel]
    scale = source_px / target_px
    stretch = max(scale, 1.0)  # widened when shrinking: antialiased
    if 2 * support * stretch + 1 > _MAX_TAPS:
        raise ValueError(f"cannot resize {source_px} to {target_px} pixels exactly: choose a tile size nearer to the input's")
    matrix = torch.zeros(target_px, source_px, dtype=torch.int64, device="cpu")
    for i in range(target_px):
        centre = (i + 0.5) * scale
        first = max(0, math.floor(centre - support * stretch + 0.5))
        last = min(source_px, math.floor(centre + support * stretch + 0.5))
        weights = [weigh((j - centre + 0.5) / stretch) for j in range(first, last)]
        norm = 1.0 / sum(weights)
        for j, weight in zip(range(first, last), weights, strict=True):
            matrix[i, j] = math.trunc(weight * norm * 2**_PLACES + math.copysign(0.5, weight))
    return matrix


class Resample(nn.Module):
    """Resizes square 8-bit images: [T, 3, S, S] values 0..255 -> [T, 3, R, R] values 0..255, float32."""

    upper: Tensor
    lower: Tensor

    def __init__(self, source_px: int, target_px: int, kernel: str) -> None:
        super().__init__()
        self.weights = fixed_point_weights(source_px, target_px, kernel)
        for name in ("upper", "lower"):
            self.register_buffer(name, torch.empty(target_px, source_px, dtype=torch.float32), persistent=False)

    def recipes(self) -> Recipes:
        """The matrices are constants, not weights: [R, S], the lower one not negative."""
        lower = self.weights & (2**_LOWER_PLACES - 1)
        scaled = {"upper": self.weights - lower, "lower": lower}
        return {name: constant(part.to(torch.float32) / 2**_PLACES) for name, part in scaled.items()}

    def forward(self, pixels: Tensor) -> Tensor:
        columns = _to_grey_levels(pixels @ self.upper.T, pixels @ self.lower.T)
        return _to_grey_levels(self.upper @ columns, self.lower @ columns)


def _to_grey_levels(upper: Tensor, lower: Tensor) -> Tensor:
    """floor(upper + lower + 0.5) without a rounding on the way, clipped to 0..255."""
    shifted = upper + 0.5
    whole = torch.floor(shifted)
    return torch.clamp(whole + torch.floor(shifted - whole + lower), 0.0, 255.0)
