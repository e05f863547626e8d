"""Histograms of magnitudes that grow as values come, in bounded memory, and the range that INT8 is to span."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.errors import CalibrationError

NUM_BINS = 2048
LEVELS = 127  # of symmetric INT8, beside zero and the sign
_CANDIDATES = 128
_PERCENTILE = 0.99995
Counts = npt.NDArray[np.int64]


class Histogram:
    """Counts of |x| in `NUM_BINS` bins of equal width. When a larger value comes, neighbours merge and the width doubles."""

    def __init__(self, counts: Counts | None = None, width: float = 0.0, largest: float = 0.0) -> None:
        self.counts = np.zeros(NUM_BINS, np.int64) if counts is None else counts
        self.width, self.largest = width, largest

    def add(self, values: npt.NDArray[Any]) -> None:
        """Counts values of any shape.

        Raises:
            CalibrationError: one is not finite.
        """
        magnitudes = np.abs(values, dtype=np.float32).ravel()
        if not magnitudes.size:
            return
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise CalibrationError("values that are not finite")
        self.largest = max(self.largest, largest)
        if largest == 0:
            self.counts[0] += magnitudes.size
            return
        if self.width == 0:
            self.width = largest / NUM_BINS
        while self.width * NUM_BINS < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(NUM_BINS // 2, np.int64)])
            self.width *= 2
        bins = np.minimum((magnitudes / self.width).astype(np.int64), NUM_BINS - 1)
        self.counts += np.bincount(bins, minlength=NUM_BINS)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The middle of each bin."""
        return (np.arange(NUM_BINS) + 0.5) * self.width


def minmax_range(histogram: Histogram) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.largest


def percentile_range(histogram: Histogram) -> float:
    """The magnitude that all but 1 in 20,000 values stay below."""
    cumulated = np.cumsum(histogram.counts)
    place = int(np.searchsorted(cumulated, _PERCENTILE * cumulated[-1]))
    return min(float((place + 1) * histogram.width), histogram.largest)


def mse_range(histogram: Histogram) -> float:
    """The range with the least squared error of rounding and clipping together."""
    centres, counts = histogram.centres, histogram.counts
    candidates = histogram.largest * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    errors = []
    for candidate in candidates:
        scale = candidate / LEVELS
        rounded = np.minimum(np.rint(centres / scale), LEVELS) * scale
        errors.append(float((counts * (centres - rounded) ** 2).sum()))
    return float(candidates[int(np.argmin(errors))])


def entropy_range(histogram: Histogram) -> float:
    """The range that keeps the distribution, by the least Kullback-Leibler divergence of what 128 levels can tell.

    S. Migacz, 8-bit Inference with TensorRT, GTC 2017: for each range, the counts beyond it are added to its last bin, and are
    compared with the same counts gathered into 128 levels and spread out again over the bins that were not empty.
    """
    best, chosen = np.inf, NUM_BINS
    counts = histogram.counts.astype(np.float64)
    for end in range(LEVELS + 1, NUM_BINS + 1, (LEVELS + 1) // 8):
        kept = counts[:end].copy()
        levels = (np.arange(end) * (LEVELS + 1)) // end
        filled = kept > 0
        totals = np.bincount(levels, kept, LEVELS + 1)
        members = np.bincount(levels, filled, LEVELS + 1)
        spread = np.where(filled, totals[levels] / np.maximum(members[levels], 1), 0.0)
        kept[-1] += counts[end:].sum()
        divergence = _divergence(kept, spread)
        if divergence < best:
            best, chosen = divergence, end
    return min(float(chosen * histogram.width), histogram.largest)


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """KL(p | q) of counts; infinite where q misses what p has."""
    seen = p > 0
    if not q.sum() or (q[seen] == 0).any():
        return np.inf
    p, q = p[seen] / p.sum(), q[seen] / q.sum()
    return float((p * np.log(p / q)).sum())


RANGES: dict[str, Callable[[Histogram], float]] = {
    "minmax": minmax_range,
    "percentile": percentile_range,
    "entropy": entropy_range,
    "mse": mse_range,
}


def scale_of(histogram: Histogram, method: str) -> float:
    """Returns the INT8 step of a range method; 1 where all values were zero.

    Raises:
        CalibrationError: there is no such method.
    """
    if method not in RANGES:
        raise CalibrationError(f"no range method {method!r}: expected one of {', '.join(RANGES)}")
    return RANGES[method](histogram) / LEVELS if histogram.largest > 0 else 1.0
