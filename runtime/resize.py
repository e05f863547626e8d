"""Pillow's bicubic resize of RGB images, columns first: compiled where a compiler was there at installation, else Pillow's own.

Both give the same pixels. The compiled one (`_resize.c`) takes a fraction of the time: it works in the CPU's vector units, and
reads an image once for its grid and its thumbnail.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from leo_edge.runtime.frames import RgbImage
from leo_edge.runtime.resampling import fixed_point_weights

Int32Array = npt.NDArray[np.int32]
# Axes whose weights are kept: an image size and grid have two, its thumbnail up to two more. One takes some 50 kB.
_KEPT_AXES = 64


def _load() -> Any:
    """Returns the compiled module; None: it was not built."""
    try:
        return import_module("leo_edge.runtime._resize")
    except ImportError:
        return None


_compiled = _load()


def describe_resizer() -> str:
    """Says which one works here."""
    return "compiled" if _compiled is not None else "Pillow's (built without a compiler: slower, to the same pixels)"


def resize(image: RgbImage, sizes: list[tuple[int, int]], *, compiled: bool | None = None) -> list[RgbImage]:
    """Returns an image [H, W, 3], C-contiguous, in each of one or two `sizes` (width, height) [height, width, 3].

    `compiled` chooses; None: the compiled one where it is there.
    """
    if _compiled is None if compiled is None else not compiled:
        picture = Image.fromarray(image)
        return [_by_pillow(picture, *size) for size in sizes]
    source_height, source_width, _ = image.shape
    resized = [np.empty((height, width, 3), np.uint8) for width, height in sizes]
    targets = [
        (*_taps(source_width, width), *_taps(source_height, height), out)
        for (width, height), out in zip(sizes, resized, strict=True)
    ]
    _compiled.resize(image, source_height, source_width, tuple(targets))
    return resized


def _by_pillow(picture: Image.Image, width: int, height: int) -> RgbImage:
    """Resizes columns first, then rows, as Pillow does before 13, which takes rows first where that is quicker."""
    columns = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    return np.asarray(columns.resize((width, height), Image.Resampling.BICUBIC))  # [height, width, 3]


@lru_cache(_KEPT_AXES)
def _taps(source_px: int, target_px: int) -> tuple[Int32Array, Int32Array]:
    """Returns for each target pixel its first source pixel [target_px], and its weights times 2^22 [target_px, taps]."""
    weights = fixed_point_weights(source_px, target_px)
    used = weights != 0
    first = used.argmax(axis=1)
    count = int((source_px - used[:, ::-1].argmax(axis=1) - first).max())
    first = np.minimum(first, source_px - count)
    taps = np.take_along_axis(weights, first[:, None] + np.arange(count), axis=1)
    return first.astype(np.int32), np.ascontiguousarray(taps)
