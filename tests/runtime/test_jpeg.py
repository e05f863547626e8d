"""runtime/jpeg.py: Pillow's pixels from simplejpeg, and Pillow's own word on all that is not plain."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from leo_edge.runtime import jpeg
from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import decode_image
from leo_edge.runtime.jpeg import decode_jpeg, describe_decoder
from tests.real_data import NUSCENES_REAL, needs_real_frames

Uint8 = npt.NDArray[np.uint8]

here = pytest.mark.skipif(jpeg._simplejpeg is None, reason="no simplejpeg: pip install 'leo_edge[jpeg]'")


def picture(width: int, height: int) -> Image.Image:
    """Colours that run into one another, hard edges and noise."""
    rng = np.random.default_rng(width)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 3 % 256, y * 5 % 256, (x + y) * 2 % 256], axis=2)
    edges = np.where((x // 8 + y // 8)[..., None] % 2 == 0, smooth, 255 - smooth)
    return Image.fromarray((edges + rng.integers(0, 40, edges.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(data: bytes) -> Uint8:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@here
class TestEqualPixels:
    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("size", [(160, 90), (161, 91), (17, 33), (1, 1), (8, 3)])
    def test_colour(self, subsampling: str, progressive: bool, size: tuple[int, int]) -> None:
        for quality in (30, 75, 98):
            data = encoded(picture(*size), quality=quality, subsampling=subsampling, progressive=progressive)
            got = decode_jpeg(data)
            assert got is not None
            np.testing.assert_array_equal(got, by_pillow(data))
            assert got.flags.c_contiguous

    def test_grey(self) -> None:
        data = encoded(picture(161, 91).convert("L"))
        got = decode_jpeg(data)
        assert got is not None
        np.testing.assert_array_equal(got, by_pillow(data))

    def test_orientation_is_not_followed(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(picture(40, 20), exif=exif)
        got = decode_jpeg(data)
        assert got is not None
        assert got.shape == (20, 40, 3)

    def test_fast_upsampling_differs(self) -> None:
        data = encoded(picture(160, 90), subsampling="4:2:0")
        assert not np.array_equal(jpeg._simplejpeg.decode_jpeg(data, "RGB", fastupsample=True), by_pillow(data))

    def test_it_says_what_decodes(self) -> None:
        assert describe_decoder().startswith("simplejpeg ")

    @needs_real_frames
    def test_real_frames(self) -> None:
        paths = sorted(NUSCENES_REAL.glob("samples/CAM_*/*.jpg"))[::7]
        assert len(paths) >= 6
        for path in paths:
            got = decode_jpeg(path.read_bytes())
            assert got is not None
            np.testing.assert_array_equal(got, by_pillow(path.read_bytes()))


@here
class TestLeftToPillow:
    def test_four_colours(self) -> None:
        data = encoded(picture(16, 16).convert("CMYK"))
        assert decode_jpeg(data) is None
        np.testing.assert_array_equal(decode_image(data, "CAM_FRONT"), by_pillow(data))

    def test_another_format(self) -> None:
        file = io.BytesIO()
        picture(16, 16).save(file, "PNG")
        assert decode_jpeg(file.getvalue()) is None

    @pytest.mark.parametrize("left", [0.1, 0.5, 0.9])
    def test_cut_off(self, left: float) -> None:
        data = encoded(picture(160, 90))
        cut = data[: int(len(data) * left)]
        assert decode_jpeg(cut) is None
        with pytest.raises(FrameError, match="cannot decode image CAM_FRONT"):
            decode_image(cut, "CAM_FRONT")

    def test_more_pixels_than_pillow_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        data = encoded(picture(160, 90))
        assert decode_jpeg(data) is None
        with pytest.raises(FrameError, match="decompression bomb"):
            decode_image(data, "CAM_FRONT")


def test_without_simplejpeg_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(161, 91))
    before = decode_image(data, "CAM_FRONT")
    monkeypatch.setattr(jpeg, "_simplejpeg", None)
    assert decode_jpeg(data) is None
    np.testing.assert_array_equal(decode_image(data, "CAM_FRONT"), before)
    assert "pip install 'leo_edge[jpeg]'" in describe_decoder()
