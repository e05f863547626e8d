"""PIL's resize of 8-bit images as products with constant matrices, which any engine computes without an error.

PIL resizes in two passes, columns then rows, each a sum of source pixels with weights of 22 binary places, rounded back to
8 bits (Pillow, src/libImaging/Resample.c). A pass is a product with a matrix of these weights. Float32 cannot hold such a sum,
so each weight is split into the nearest multiple of 2^-10 (`upper`) and what is left of it (`lower`, of either sign).

No weight reaches 2, so both parts have at most 11 significant bits, and pixels have 8. Products are therefore exact in float32
and also in TF32, which keeps 11 significant bits of each operand and adds in float32. Sums are exact in whatever order an
engine adds as long as they stay within float32's 24 bits: the upper ones always do, the lower ones where `is_exact` says so,
which is always for at most 24 source pixels in a target pixel, and for bicubic weights up to a 16-fold shrinking: 3840 to 448
pixels is 9-fold. Further than that a pixel may be one grey level off.

Columns first is PIL's order in all versions before 13, with which models were trained. From 13.0 on it takes rows first where
the height shrinks, and by more than twice as many pixels as the width; the pixels differ where the first pass is rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float32Matrix = npt.NDArray[np.float32]
FixedPointMatrix = npt.NDArray[np.int32]
_Points = npt.NDArray[np.float64]

_PLACES, _LOWER_PLACES = 22, 12
_MOST_GREY = 255


def _bicubic(x: _Points) -> _Points:
    """Keys' cubic kernel with a = -0.5, PIL's choice."""
    x, a = np.abs(x), -0.5
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _bilinear(x: _Points) -> _Points:
    """The triangle kernel."""
    return np.maximum(0.0, 1 - np.abs(x))


KERNELS: dict[str, tuple[Callable[[_Points], _Points], float]] = {"bicubic": (_bicubic, 2.0), "bilinear": (_bilinear, 1.0)}
"""Each kernel, and how far it reaches on either side, in source pixels where nothing is shrunk."""


def fixed_point_weights(source_px: int, target_px: int, kernel: str = "bicubic") -> FixedPointMatrix:
    """Returns [target_px, source_px]: row i holds the weights of the source pixels in target pixel i, times 2^22.

    Raises:
        ValueError: the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown resample {kernel!r}: expected one of {', '.join(KERNELS)}")
    weigh, support = KERNELS[kernel]
    scale = source_px / target_px
    stretch = max(scale, 1.0)  # widened when shrinking: antialiased
    reach = support * stretch
    centres = (np.arange(target_px) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), source_px)
    places = first[:, None] + np.arange((last - first).max())  # [target, taps]
    inside = places < last[:, None]
    weights = np.where(inside, weigh((places - centres[:, None] + 0.5) * (1.0 / stretch)), 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after the other, as PIL does: the last bit depends on it
    fixed = np.trunc(weights * 2**_PLACES + np.copysign(0.5, weights)).astype(np.int32)
    matrix = np.zeros((target_px, source_px), np.int32)
    matrix[np.nonzero(inside)[0], places[inside]] = fixed[inside]
    return matrix


def split(weights: FixedPointMatrix) -> tuple[Float32Matrix, Float32Matrix]:
    """Returns the upper and the lower part of fixed-point weights, which add up to them."""
    lower = _lower(weights)
    return _to_float(weights - lower), _to_float(lower)


def is_exact(weights: FixedPointMatrix) -> bool:
    """Whether no image can make a sum of lower parts, and the rest of the upper sum added to it, need more than 24 bits."""
    lower = _lower(weights).astype(np.int64)
    largest = max(np.maximum(lower, 0).sum(axis=1).max(), np.maximum(-lower, 0).sum(axis=1).max())
    return bool(_MOST_GREY * largest + 2**_PLACES <= 2**24)


def column_matrices(width: int, target_px: int, kernel: str = "bicubic") -> dict[str, Float32Matrix]:
    """Returns the inputs of a tiles graph that resize its rows of pixels: [width, target_px], by name."""
    parts = split(fixed_point_weights(width, target_px, kernel))
    return {name: np.ascontiguousarray(part.T) for name, part in zip(("columns_upper", "columns_lower"), parts, strict=True)}


def row_matrices(height: int, target_px: int, kernel: str = "bicubic") -> dict[str, Float32Matrix]:
    """Returns the inputs of a tiles graph that resize its columns of pixels: [target_px, height], by name."""
    parts = split(fixed_point_weights(height, target_px, kernel))
    return dict(zip(("rows_upper", "rows_lower"), parts, strict=True))


def grid_matrices(
    width: int, height: int, cols: int, rows: int, tile_px: int, kernel: str = "bicubic"
) -> dict[str, Float32Matrix]:
    """Returns all matrices that a tiles graph takes beside an image of `width` x `height` pixels, by name."""
    return column_matrices(width, cols * tile_px, kernel) | row_matrices(height, rows * tile_px, kernel)


def _lower(weights: FixedPointMatrix) -> FixedPointMatrix:
    """What the nearest multiple of 2^-10 leaves: -2^11 to 2^11 - 1, times 2^-22."""
    half = np.int32(2 ** (_LOWER_PLACES - 1))
    return ((weights + half) & np.int32(2**_LOWER_PLACES - 1)) - half


def _to_float(fixed: FixedPointMatrix) -> Float32Matrix:
    return fixed.astype(np.float32) / np.float32(2**_PLACES)
