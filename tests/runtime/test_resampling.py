"""runtime/resampling.py: matrices that give PIL's pixels bit for bit, in float32 and in TF32, in any order of sums."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from leo_edge.runtime.resampling import (
    FixedPointMatrix,
    Float32Matrix,
    column_matrices,
    fixed_point_weights,
    grid_matrices,
    is_exact,
    row_matrices,
    split,
)

Uint8 = npt.NDArray[np.uint8]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# (source, target): enlarged, shrunk a little and far, one pixel, the same size.
SIZES = [
    ((37, 23), (90, 60)),
    ((160, 90), (56, 28)),
    ((320, 200), (30, 20)),
    ((1, 2), (7, 9)),
    ((9, 8), (9, 1)),
    ((40, 30), (40, 30)),
]


def picture(width: int, height: int) -> Uint8:
    """Noise of all grey levels on the left, on the right hard edges, which overshoot when enlarged."""
    rng = np.random.default_rng(width)
    noise = rng.integers(0, 256, (height, width, 3))
    edges = 255 * (rng.integers(0, 2, (height, width, 3)) > 0)
    return np.where(np.arange(width)[None, :, None] < width // 2, noise, edges).astype(np.uint8)


def by_pil(image: Uint8, width: int, height: int, kernel: str) -> Uint8:
    return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[kernel]))


def tf32(array: Float32Matrix) -> Float32Matrix:
    """Rounds to the 11 significant bits that TF32 keeps of an operand, ties to even."""
    bits = array.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def grey(upper: Float32Matrix, lower: Float32Matrix) -> Float32Matrix:
    shifted = upper + np.float32(0.5)
    whole = np.floor(shifted)
    levels: Float32Matrix = np.clip(whole + np.floor(shifted - whole + lower), 0, 255)
    return levels


def by_matrices(image: Uint8, width: int, height: int, kernel: str, *, in_tf32: bool = False, backwards: bool = False) -> Uint8:
    """Both passes in float32; `backwards` adds every sum from its other end."""
    matrices = column_matrices(image.shape[1], width, kernel) | row_matrices(image.shape[0], height, kernel)
    pixels = image.transpose(2, 0, 1).astype(np.float32)  # [3, H, W]
    columns_upper, columns_lower, rows_upper, rows_lower = matrices.values()
    if in_tf32:
        columns_upper, columns_lower, rows_upper, rows_lower, pixels = map(
            tf32, (columns_upper, columns_lower, rows_upper, rows_lower, pixels)
        )
    step = -1 if backwards else 1
    columns = grey(*(pixels[..., ::step] @ part[::step] for part in (columns_upper, columns_lower)))
    columns = tf32(columns) if in_tf32 else columns
    levels = grey(*(part[:, ::step] @ columns[:, ::step] for part in (rows_upper, rows_lower)))
    return levels.transpose(1, 2, 0).astype(np.uint8)


def worst_image(weights: FixedPointMatrix) -> tuple[npt.NDArray[np.int64], Float32Matrix]:
    """The lower parts of the row with the largest sum that an image can give, and that image's pixels."""
    lower = np.round(split(weights)[1] * 2.0**22).astype(np.int64)
    row = lower[np.maximum(lower, 0).sum(axis=1).argmax()]
    return row, np.where(row > 0, 255, 0).astype(np.float32)


@pytest.mark.parametrize("kernel", FILTERS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_pixels_are_those_of_pil_bit_for_bit(source: tuple[int, int], target: tuple[int, int], kernel: str) -> None:
    image = picture(*source)
    np.testing.assert_array_equal(by_matrices(image, *target, kernel), by_pil(image, *target, kernel))


@pytest.mark.parametrize("kernel", FILTERS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_tf32_and_another_order_of_sums_change_nothing(source: tuple[int, int], target: tuple[int, int], kernel: str) -> None:
    image = picture(*source)
    expected = by_pil(image, *target, kernel)
    np.testing.assert_array_equal(by_matrices(image, *target, kernel, in_tf32=True), expected)
    np.testing.assert_array_equal(by_matrices(image, *target, kernel, backwards=True), expected)


@pytest.mark.parametrize(("source", "target"), [(448, 1024), (1600, 896), (900, 448), (3840, 448), (2, 9), (30, 448)])
def test_both_parts_are_numbers_of_tf32(source: int, target: int) -> None:
    weights = fixed_point_weights(source, target)
    upper, lower = split(weights)
    np.testing.assert_array_equal(upper.astype(np.float64) + lower, weights / 2.0**22)
    np.testing.assert_array_equal(tf32(upper), upper)
    np.testing.assert_array_equal(tf32(lower), lower)
    whole = (weights / 2.0**22).astype(np.float32)
    assert (tf32(whole) != whole).any()  # the control: what is not split is rounded


def test_a_split_of_eleven_and_eleven_places_is_rounded_where_a_weight_exceeds_one() -> None:
    """At the edge of an enlarged image a weight may reach 1.12: with 11 places it has 12 significant bits."""
    weights = fixed_point_weights(448, 1024)
    assert weights.max() > 2**22
    upper = ((weights >> 11) / 2.0**11).astype(np.float32)
    assert (tf32(upper) != upper).any()


@pytest.mark.parametrize("kernel", FILTERS)
def test_weights_of_a_pixel_sum_up_to_one_and_none_reaches_two(kernel: str) -> None:
    for source, target in [(1, 5), (2, 448), (3, 448), (448, 449), (100, 37), (1600, 448)]:
        weights = fixed_point_weights(source, target, kernel)
        assert weights.shape == (target, source)
        np.testing.assert_allclose(weights.sum(axis=1), 2**22, atol=weights.astype(bool).sum(axis=1).max())
        assert np.abs(weights).max() < 2 * 2**22


def test_sums_are_exact_for_24_source_pixels_and_for_bicubic_up_to_a_sixteenth() -> None:
    rng = np.random.default_rng(0)
    for target in (14, 28, 112, 448):
        for scale in rng.uniform(0.1, 16, 8):
            assert is_exact(fixed_point_weights(max(1, int(scale * target)), target)), (scale, target)
    assert is_exact(np.full((1, 24), 2**11 - 1, np.int32))
    assert not is_exact(np.full((1, 25), 2**11 - 1, np.int32))
    assert is_exact(np.full((1, 24), 2**11, np.int32))  # whose lower parts are -2^11
    assert not is_exact(fixed_point_weights(3000, 100))


@pytest.mark.parametrize(("source", "exact"), [(1500, True), (20000, False)])
def test_what_is_called_exact_is_exact_for_the_worst_image(source: int, exact: bool) -> None:
    weights = fixed_point_weights(source, 100)
    assert is_exact(weights) == exact
    row, pixels = worst_image(weights)
    products = (row / 2.0**22).astype(np.float32) * pixels
    added = np.cumsum(products, dtype=np.float32)[-1]  # one after the other
    assert (float(added) * 2**22 == int(row @ pixels.astype(np.int64))) == exact


def test_further_than_that_a_pixel_is_one_grey_level_off_at_most() -> None:
    image = picture(6000, 40)
    difference = np.abs(by_matrices(image, 30, 40, "bicubic").astype(int) - by_pil(image, 30, 40, "bicubic"))
    assert not is_exact(fixed_point_weights(6000, 30))
    assert difference.max() <= 1


def test_bilinear_pixels_differ() -> None:
    image = picture(160, 90)
    difference = np.abs(by_matrices(image, 56, 28, "bilinear").astype(int) - by_pil(image, 56, 28, "bicubic"))
    assert (difference > 1).mean() > 0.5


def test_a_grid_takes_the_matrices_of_its_two_sides() -> None:
    matrices = grid_matrices(160, 90, 3, 2, 28)
    assert {name: matrix.shape for name, matrix in matrices.items()} == {
        "columns_upper": (160, 84),
        "columns_lower": (160, 84),
        "rows_upper": (56, 90),
        "rows_lower": (56, 90),
    }
    assert all(matrix.dtype == np.float32 and matrix.flags.c_contiguous for matrix in matrices.values())


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown resample 'lanczos': expected one of bicubic, bilinear$"):
        fixed_point_weights(64, 96, "lanczos")
