"""runtime/resize.py: what is compiled gives Pillow's pixels, bit for bit, at any size; what does not fit is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from leo_edge.runtime import resize as module
from leo_edge.runtime.frames import read_image
from leo_edge.runtime.resampling import fixed_point_weights
from leo_edge.runtime.resize import describe_resizer, resize
from tests.real_data import NUSCENES_REAL, needs_real_frames

Uint8 = npt.NDArray[np.uint8]

compiled = pytest.mark.skipif(module._compiled is None, reason="runtime/_resize.c is not built: no compiler at installation")


def picture(width: int, height: int, seed: int = 0) -> Uint8:
    """Noise of all grey levels, and on the right hard edges, which overshoot when enlarged."""
    rng = np.random.default_rng([width, height, seed])
    noise = rng.integers(0, 256, (height, width, 3))
    edges = 255 * rng.integers(0, 2, (height, width, 3))
    return np.where(np.arange(width)[None, :, None] < width // 2, noise, edges).astype(np.uint8)


def by_pillow(image: Uint8, width: int, height: int) -> Uint8:
    """Columns, then rows, each by a call of its own."""
    whole = Image.fromarray(image)
    columns = whole.resize((width, whole.height), Image.Resampling.BICUBIC)
    return np.asarray(columns.resize((width, height), Image.Resampling.BICUBIC))


def random_cases(count: int) -> list[tuple[int, int, int, int]]:
    """Sizes of source and target from 1 pixel on, even on a log scale: enlarged, shrunk, one way and the other."""
    sides = np.exp(np.random.default_rng(0).uniform(0, np.log(400), (count, 4))).astype(int)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in sides]


@compiled
class TestCompiled:
    def test_equals_pillow_on_200_random_sizes(self) -> None:
        for width, height, to_width, to_height in random_cases(200):
            image = picture(width, height)
            (got,) = resize(image, [(to_width, to_height)], compiled=True)
            case = f"{width} x {height} to {to_width} x {to_height}"
            np.testing.assert_array_equal(got, by_pillow(image, to_width, to_height), case)

    @pytest.mark.parametrize("size", [(1600, 900), (1601, 901), (1920, 1080), (640, 480), (21, 22), (448, 448), (1, 1)])
    def test_grid_and_thumbnail_together_equal_each_alone(self, size: tuple[int, int]) -> None:
        image = picture(*size)
        for got, wanted in zip(resize(image, [(896, 448), (448, 448)]), [(896, 448), (448, 448)], strict=True):
            np.testing.assert_array_equal(got, by_pillow(image, *wanted))

    def test_bilinear_pixels_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image = picture(160, 90)
        wanted = by_pillow(image, 56, 28)
        assert np.array_equal(resize(image, [(56, 28)], compiled=True)[0], wanted)
        module._taps.cache_clear()
        monkeypatch.setattr(module, "fixed_point_weights", partial(fixed_point_weights, kernel="bilinear"))
        assert not np.array_equal(resize(image, [(56, 28)], compiled=True)[0], wanted)
        module._taps.cache_clear()

    def test_a_last_place_of_a_weight_is_seen(self) -> None:
        """Grey 128 times 2^15 reaches the place that is rounded: sums are whole, not floats."""
        image = np.full((4, 8, 3), 128, np.uint8)
        first, out = np.zeros(1, np.int32), np.empty((1, 1, 3), np.uint8)
        rows = np.array([[1 << 22]], np.int32)
        for weight, grey in (((1 << 22) - (1 << 14), 128), ((1 << 22) - (1 << 14) - 1, 127)):
            module._compiled.resize(image, 4, 8, ((first, np.array([[weight]], np.int32), first, rows, out),))
            assert out.tolist() == [[[grey] * 3]]

    def test_threads_work_side_by_side(self) -> None:
        images = [picture(320, 200, seed) for seed in range(8)]
        with ThreadPoolExecutor(8) as pool:
            resized = list(pool.map(lambda image: resize(image, [(90, 60)], compiled=True)[0], images))
        for image, got in zip(images, resized, strict=True):
            np.testing.assert_array_equal(got, by_pillow(image, 90, 60))

    @pytest.mark.parametrize(
        ("first", "num_weights", "size", "out_px", "text"),
        [
            (7, 2, (8, 4), 1, "weights do not fit 8 source pixels"),
            (-1, 2, (8, 4), 1, "weights do not fit 8 source pixels"),
            (0, 0, (8, 4), 1, "weights do not fit 8 source pixels"),
            (0, 2, (8, 4), 2, "got 6 bytes for 1 x 1 pixels"),
            (0, 2, (8, 5), 1, "got 96 bytes for an image of 8 x 5 pixels"),
            (0, 2, (0, 4), 1, "got 96 bytes for an image of 0 x 4 pixels"),
        ],
    )
    def test_what_would_leave_the_image_is_refused(
        self, first: int, num_weights: int, size: tuple[int, int], out_px: int, text: str
    ) -> None:
        image, out = np.zeros((4, 8, 3), np.uint8), np.empty((1, out_px, 3), np.uint8)
        columns = np.array([first], np.int32), np.zeros((1, num_weights), np.int32)
        rows = np.zeros(1, np.int32), np.zeros((1, 1), np.int32)
        with pytest.raises(ValueError, match=text):
            module._compiled.resize(image, size[1], size[0], ((*columns, *rows, out),))

    def test_it_says_so(self) -> None:
        assert describe_resizer() == "compiled"

    @needs_real_frames
    def test_equals_pillow_on_real_frames(self) -> None:
        paths = sorted(NUSCENES_REAL.glob("samples/CAM_*/*.jpg"))[::7]
        assert len(paths) >= 6
        for path in paths:
            image = read_image(path)
            for got, wanted in zip(resize(image, [(896, 448), (448, 448)]), [(896, 448), (448, 448)], strict=True):
                np.testing.assert_array_equal(got, by_pillow(image, *wanted))


class TestWithoutCompiler:
    def test_it_is_pillow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_compiled", None)
        image = picture(160, 90)
        got = resize(image, [(56, 28), (28, 28)])
        np.testing.assert_array_equal(got[0], by_pillow(image, 56, 28))
        np.testing.assert_array_equal(got[1], by_pillow(image, 28, 28))
        assert describe_resizer().startswith("Pillow's")
