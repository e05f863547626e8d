"""How much of an activation's outliers to move into the weights that read it: SmoothQuant, and its search weighted by modality.

An activation x [S, K] is divided by s [K] and the weights W [K, N] that read it are multiplied by it, which changes nothing in
float, but x is rounded to one scale, W to one per column. s_k = max|x_k|^a / max|W_k|^(1 - a) (G. Xiao et al., SmoothQuant,
arXiv 2211.10438). a is given, or the one whose quantized products differ least from the float ones on sampled rows of x.
MBQ (S. Li et al., arXiv 2412.19509) weighs the rows in that search by how sensitive the answer is to errors at visual and at
text tokens, since visual tokens are many and forgive more.

Shape letters: R sampled rows, K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.calib.histogram import LEVELS

Vector = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float32]
RoundWeight = Callable[[Matrix], Matrix]

_ALPHAS = tuple(i / 10 for i in range(11))
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Smoothing:
    """s [K], and the exponent that it was made with; None where nothing is moved."""

    scales: Vector
    alpha: float | None
    error: float
    error_before: float


def round_tensor(x: Matrix, largest: float) -> Matrix:
    """INT8 with one scale for all: what it stands for."""
    scale = max(largest, _SMALLEST * LEVELS) / LEVELS
    rounded: Matrix = (np.clip(np.rint(x / scale), -LEVELS, LEVELS) * scale).astype(np.float32)
    return rounded


def smooth_scales(channels: Vector, weights: Sequence[Matrix], alpha: float) -> Vector:
    """s [K] for activations of largest magnitudes `channels` [K] and the weights that read them."""
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    scales = np.maximum(channels, _SMALLEST) ** alpha / np.maximum(rows, _SMALLEST) ** (1 - alpha)
    scales = np.where(channels > 0, scales / np.exp(np.log(scales).mean()), 1.0)
    return np.clip(scales, 1e-3, 1e3).astype(np.float32)


def search(
    rows: Matrix,
    row_weights: Vector,
    channels: Vector,
    weights: Sequence[Matrix],
    *,
    round_weight: RoundWeight,
    alpha: float | None = None,
    round_rows: bool = True,
    shared: Callable[[Vector], Vector] = lambda scales: scales,
) -> Smoothing:
    """Finds s by the least squared error of the quantized products, rows [R, K] weighted by `row_weights` [R].

    `round_weight` gives what a quantized weight stands for, `round_rows` is off where only weights are quantized. `alpha` takes
    this one in place of a search. `shared` makes channels equal that one producer's channel makes.
    """
    exact = [rows @ weight for weight in weights]

    def error(scales: Vector) -> float:
        x = rows / scales
        x = round_tensor(x, float((channels / scales).max())) if round_rows else x
        total = 0.0
        for weight, wanted in zip(weights, exact, strict=True):
            got = x @ round_weight(weight * scales[:, None])
            total += float((((got - wanted) ** 2).sum(axis=1) * row_weights).sum())
        return total

    ones = np.ones_like(channels)
    before = error(ones)
    tried = [(shared(smooth_scales(channels, weights, a)), a) for a in (_ALPHAS if alpha is None else (alpha,))]
    errors = [error(scales) for scales, _ in tried]
    best = int(np.argmin(errors))
    if alpha is None and errors[best] >= before:
        return Smoothing(ones, None, before, before)
    return Smoothing(tried[best][0], tried[best][1], errors[best], before)


def by_heads(num_heads: int, num_kv_heads: int, reduce: Callable[..., Any] = np.max) -> Callable[[Vector], Vector]:
    """Returns what makes s [H * E] the same in all query heads that read one key-value head."""
    groups = num_heads // num_kv_heads

    def share(scales: Vector) -> Vector:
        by_head = scales.reshape(num_kv_heads, groups, -1)
        same = np.broadcast_to(reduce(by_head, axis=1, keepdims=True), by_head.shape)
        return np.ascontiguousarray(same).reshape(-1)

    return share


def of_producer(scales: Vector, heads: tuple[int, int] | None) -> Vector:
    """Returns the s of the producer's own channels: [H * E] -> [K * E] behind an attention, else s itself."""
    if heads is None:
        return scales
    num_heads, num_kv_heads = heads
    return scales.reshape(num_kv_heads, num_heads // num_kv_heads, -1)[:, 0].reshape(-1)
