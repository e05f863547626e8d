"""calib/smoothing.py: what is moved changes nothing in float, and less is lost in INT8 where channels differ."""

import numpy as np
import pytest

from leo_edge.calib.smoothing import Matrix, by_heads, of_producer, round_tensor, search, smooth_scales
from leo_edge.export.quantize.weights import round_columns

RANDOM = np.random.default_rng(11)


def outliers(rows: int = 64, width: int = 32) -> Matrix:
    """Activations of which two channels are 60 times larger."""
    x = RANDOM.standard_normal((rows, width)).astype(np.float32)
    x[:, [3, 17]] *= 60
    return x


WEIGHTS = [RANDOM.standard_normal((32, 48)).astype(np.float32) for _ in range(2)]


def loss(x: Matrix, scales: Matrix) -> float:
    total = 0.0
    for weight in WEIGHTS:
        smoothed = x / scales
        got = round_tensor(smoothed, float(np.abs(smoothed).max())) @ round_columns(weight * scales[:, None])
        total += float(((got - x @ weight) ** 2).sum())
    return total


def test_the_formula_is_that_of_the_paper() -> None:
    channels = np.abs(outliers()).max(axis=0)
    scales = smooth_scales(channels, WEIGHTS, 0.5)
    rows = np.maximum(*(np.abs(weight).max(axis=1) for weight in WEIGHTS))
    expected = np.sqrt(channels / rows)
    np.testing.assert_allclose(scales / scales[0], expected / expected[0], rtol=1e-5)


def test_the_search_finds_an_exponent_that_loses_less() -> None:
    x = outliers()
    found = search(x, np.ones(64, np.float32), np.abs(x).max(axis=0), WEIGHTS, round_weight=round_columns)
    assert found.alpha is not None
    assert found.error == pytest.approx(loss(x, found.scales), rel=1e-3)
    assert found.error_before == pytest.approx(loss(x, np.ones(32, np.float32)), rel=1e-3)
    assert found.error < 0.1 * found.error_before


def test_nothing_is_moved_where_it_would_not_help() -> None:
    x = np.sign(RANDOM.standard_normal((64, 32))).astype(np.float32)  # exact in INT8
    weights = [np.where(RANDOM.random((32, 8)) < 0.5, 127, 64).astype(np.float32)]
    found = search(x, np.ones(64, np.float32), np.ones(32, np.float32), weights, round_weight=round_columns)
    assert (found.alpha, found.error) == (None, found.error_before)
    assert (found.scales == 1).all()


def test_row_weights_decide_for_whom_the_exponent_is_best() -> None:
    """Visual rows have other outliers than text rows: each weighting is best for its own."""
    visual, text = outliers(), RANDOM.standard_normal((64, 32)).astype(np.float32)
    x, channels = np.concatenate([visual, text]), np.abs(np.concatenate([visual, text])).max(axis=0)
    for_text = np.concatenate([np.full(64, 1e-6), np.ones(64)]).astype(np.float32)
    found = {
        name: search(x, row_weights, channels, WEIGHTS, round_weight=round_columns)
        for name, row_weights in (("all", np.ones(128, np.float32)), ("text", for_text))
    }

    def text_loss(scales: Matrix) -> float:
        exact = [text @ weight for weight in WEIGHTS]
        got = [
            round_tensor(text / scales, float((channels / scales).max())) @ round_columns(weight * scales[:, None])
            for weight in WEIGHTS
        ]
        return float(sum(((a - b) ** 2).sum() for a, b in zip(got, exact, strict=True)))

    assert text_loss(found["text"].scales) <= text_loss(found["all"].scales)


def test_heads_that_share_values_share_their_scales() -> None:
    scales = np.arange(1, 9, dtype=np.float32)  # 4 query heads of 2 channels, 2 key-value heads
    shared = by_heads(4, 2)(scales)
    np.testing.assert_array_equal(shared, [3, 4, 3, 4, 7, 8, 7, 8])
    np.testing.assert_array_equal(of_producer(shared, (4, 2)), [3, 4, 7, 8])
    np.testing.assert_array_equal(of_producer(scales, None), scales)
