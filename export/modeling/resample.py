"""PIL's resampling inside a graph, with operators that every engine has: see `leo_edge.runtime.resampling`.

Two products give the upper and the lower part of each sum without an error, in float32 and in TF32 alike; put together without
rounding they give PIL's pixels bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leo_edge.export.weights import Recipes, constant
from leo_edge.runtime.resampling import fixed_point_weights, is_exact, split


class Resample(nn.Module):
    """Resizes square 8-bit images: [T, 3, S, S] values 0..255 -> [T, 3, R, R] values 0..255, float32.

    Raises:
        ValueError: the kernel is unknown, or the images are shrunk further than float32 sums stay exact.
    """

    upper: Tensor
    lower: Tensor

    def __init__(self, source_px: int, target_px: int, kernel: str) -> None:
        super().__init__()
        self.weights = fixed_point_weights(source_px, target_px, kernel)
        if not is_exact(self.weights):
            raise ValueError(
                f"cannot resize {source_px} to {target_px} pixels exactly: choose a tile size nearer to the input's"
            )
        for name in ("upper", "lower"):
            self.register_buffer(name, torch.empty(target_px, source_px, dtype=torch.float32), persistent=False)

    def recipes(self) -> Recipes:
        """The matrices are constants, not weights: [R, S]."""
        parts = zip(("upper", "lower"), split(self.weights), strict=True)
        return {name: constant(torch.from_numpy(part)) for name, part in parts}

    def forward(self, pixels: Tensor) -> Tensor:
        columns = to_grey_levels(pixels @ self.upper.T, pixels @ self.lower.T)
        return to_grey_levels(self.upper @ columns, self.lower @ columns)


def to_grey_levels(upper: Tensor, lower: Tensor) -> Tensor:
    """floor(upper + lower + 0.5) without a rounding on the way, clipped to 0..255."""
    shifted = upper + 0.5
    whole = torch.floor(shifted)
    return torch.clamp(whole + torch.floor(shifted - whole + lower), 0.0, 255.0)
