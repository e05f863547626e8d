"""Weights as integers: INT8 with a scale per output channel, INT4 with a scale per block of 128 input channels.

Scales are rounded to the graph's float type first, so that the integers are those that fit the scales that are stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

INT4_BLOCK = 128
_INT8_MOST, _INT4_MOST = 127, 7
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)
Matrix = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]


def quantize_channels(weight: Matrix, axis: int, dtype: np.dtype[Any]) -> tuple[Int8, npt.NDArray[Any]]:
    """INT8 with a scale for each place along `axis`: returns integers of the weight's shape, and scales [N]."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = _stored(np.abs(weight).max(axis=others) / _INT8_MOST, dtype)
    shape = [1] * weight.ndim
    shape[axis] = -1
    wide = scales.astype(np.float32).reshape(shape)
    return np.clip(np.rint(weight / wide), -_INT8_MOST, _INT8_MOST).astype(np.int8), scales


def quantize_blocks(weight: Matrix, dtype: np.dtype[Any]) -> tuple[Int8, npt.NDArray[Any]]:
    """INT4 [K, N] with scales [K / 128, N], each block clipped where that loses least: integers from -7 to 7."""
    blocks = weight.reshape(-1, INT4_BLOCK, weight.shape[1])
    largest = np.abs(blocks).max(axis=1)
    best = np.full(largest.shape, np.inf, np.float32)
    scales = _stored(largest / _INT4_MOST, dtype)
    for clip in _CLIPS:
        tried = _stored(largest * clip / _INT4_MOST, dtype)
        wide = tried.astype(np.float32)[:, None]
        error = ((np.clip(np.rint(blocks / wide), -_INT4_MOST, _INT4_MOST) * wide - blocks) ** 2).sum(axis=1)
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, tried, scales)
    wide = scales.astype(np.float32)[:, None]
    return np.clip(np.rint(blocks / wide), -_INT4_MOST, _INT4_MOST).astype(np.int8).reshape(weight.shape), scales


def round_columns(weight: Matrix) -> Matrix:
    """What INT8 columns of [K, N] stand for."""
    integers, scales = quantize_channels(weight, 1, np.dtype(np.float32))
    wide: Matrix = (integers * scales).astype(np.float32)
    return wide


def round_blocks(weight: Matrix) -> Matrix:
    """What INT4 blocks of [K, N] stand for."""
    integers, scales = quantize_blocks(weight, np.dtype(np.float32))
    wide: Matrix = (integers * np.repeat(scales, INT4_BLOCK, axis=0)).astype(np.float32)
    return wide


def _stored(scales: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Returns scales as they are stored: positive, 1 where all is zero, and never rounded down, which would clip."""
    stored = np.maximum(scales, np.finfo(dtype).smallest_subnormal).astype(dtype)
    stored = np.where(stored.astype(np.float64) < scales, np.nextafter(stored, dtype.type(np.inf)), stored)
    return np.where(scales > 0, stored, 1.0).astype(dtype)
