"""modeling/resample.py: the pixels of PIL's resize, from matrix products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from leo_edge.export.modeling.resample import Resample

Uint8 = npt.NDArray[np.uint8]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SIZES = [(448, 1024), (112, 256), (336, 448), (64, 65), (65, 64), (448, 336), (100, 37), (256, 112), (1000, 64)]


def random_tiles(side: int) -> Uint8:
    """Two tiles [2, S, S, 3]: noise of all grey levels, and hard black and white edges, which overshoot when enlarged."""
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (side, side, 3))
    edges = 255 * (rng.integers(0, 2, (side, side, 3)) > 0)
    tiles: Uint8 = np.stack([noise, edges]).astype(np.uint8)
    return tiles


def resized(tiles: Uint8, target: int, kernel: str) -> npt.NDArray[np.float32]:
    """What the module makes of tiles [T, S, S, 3]: [T, R, R, 3]."""
    module = Resample(tiles.shape[1], target, kernel)
    for name, recipe in module.recipes().items():
        module.register_buffer(name, recipe.make(), persistent=False)
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).to(torch.float32)
    output: npt.NDArray[np.float32] = module(pixels).permute(0, 2, 3, 1).numpy()
    return output


def resized_by_pil(tiles: Uint8, target: int, kernel: str) -> npt.NDArray[np.float32]:
    pictures = [Image.fromarray(tile).resize((target, target), FILTERS[kernel]) for tile in tiles]
    output: npt.NDArray[np.float32] = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32)
    return output


@pytest.mark.parametrize("kernel", FILTERS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_pixels_are_those_of_pil_bit_for_bit(source: int, target: int, kernel: str) -> None:
    tiles = random_tiles(source)
    np.testing.assert_array_equal(resized(tiles, target, kernel), resized_by_pil(tiles, target, kernel))


@pytest.mark.parametrize(("source", "target"), [(112, 256), (256, 112)])
def test_another_kernel_gives_other_pixels(source: int, target: int) -> None:
    tiles = random_tiles(source)
    difference = np.abs(resized(tiles, target, "bilinear") - resized_by_pil(tiles, target, "bicubic"))
    assert (difference > 1).mean() > 0.5


def test_rows_and_columns_are_not_exchanged() -> None:
    tiles = random_tiles(64)
    turned = resized_by_pil(tiles, 96, "bicubic").swapaxes(1, 2)
    assert (np.abs(resized(tiles, 96, "bicubic") - turned) > 1).mean() > 0.5


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown resample 'lanczos': expected one of bicubic, bilinear$"):
        Resample(64, 96, "lanczos")


def test_shrinking_further_than_sums_stay_exact_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^cannot resize 2048 to 64 pixels exactly: choose a tile size nearer"):
        Resample(2048, 64, "bicubic")
