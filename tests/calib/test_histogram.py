"""calib/histogram.py against numpy on the raw values."""

import numpy as np
import pytest

from leo_edge.calib.histogram import LEVELS, NUM_BINS, RANGES, Histogram, scale_of
from leo_edge.runtime.errors import CalibrationError

RANDOM = np.random.default_rng(5)
NORMAL = RANDOM.standard_normal(200_000).astype(np.float32)
OUTLIERS = np.concatenate([NORMAL, np.full(20, 60.0, np.float32)])


def histogram(values: np.ndarray, pieces: int = 7) -> Histogram:  # type: ignore[type-arg]
    made = Histogram()
    for piece in np.array_split(values, pieces):
        made.add(piece)
    return made


def squared_error(values: np.ndarray, limit: float) -> float:  # type: ignore[type-arg]
    scale = limit / LEVELS
    return float(((np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale - values) ** 2).sum())


def test_no_value_is_lost_and_the_largest_is_exact() -> None:
    made = histogram(OUTLIERS * [1e-3])
    made.add(OUTLIERS)
    assert made.counts.sum() == 2 * len(OUTLIERS)
    assert made.largest == 60.0
    assert made.width * NUM_BINS >= 60.0


def test_the_pieces_do_not_matter_but_for_a_bin() -> None:
    """Values come in any order; the width only depends on the first piece by a factor of two."""
    one, other = histogram(NORMAL, 1), histogram(np.sort(np.abs(NORMAL)), 50)
    quantiles = [np.searchsorted(np.cumsum(h.counts), 0.9 * len(NORMAL)) * h.width for h in (one, other)]
    assert quantiles[0] == pytest.approx(np.quantile(np.abs(NORMAL), 0.9), abs=2 * one.width)
    assert quantiles[1] == pytest.approx(quantiles[0], abs=2 * max(one.width, other.width))


def test_minmax_clips_nothing() -> None:
    assert scale_of(histogram(OUTLIERS), "minmax") * LEVELS == pytest.approx(60.0)


def test_percentile_is_that_of_the_values() -> None:
    made = histogram(NORMAL)
    assert RANGES["percentile"](made) == pytest.approx(np.quantile(np.abs(NORMAL), 0.99995), abs=2 * made.width)


@pytest.mark.parametrize("values", [NORMAL, OUTLIERS], ids=["normal", "outliers"])
def test_mse_finds_the_range_with_the_least_error(values: np.ndarray) -> None:  # type: ignore[type-arg]
    found = RANGES["mse"](histogram(values))
    limits = np.linspace(0.02, 1, 50) * np.abs(values).max()
    best = min(squared_error(values, limit) for limit in limits)
    assert squared_error(values, found) <= 1.03 * best
    assert squared_error(values, np.abs(values).max()) > 1.05 * best or values is NORMAL


def test_entropy_clips_outliers_and_keeps_what_is_even() -> None:
    assert 2.5 < RANGES["entropy"](histogram(OUTLIERS)) < 12
    even = np.linspace(-1, 1, 100_001, dtype=np.float32)
    assert RANGES["entropy"](histogram(even)) > 0.9


def test_zeros_have_a_scale() -> None:
    made = histogram(np.zeros(100, np.float32))
    assert (made.counts[0], scale_of(made, "mse")) == (100, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        Histogram().add(np.array([1.0, bad]))


def test_no_such_method() -> None:
    with pytest.raises(CalibrationError, match="no range method 'best': expected one of minmax, percentile, entropy, mse"):
        scale_of(Histogram(), "best")
