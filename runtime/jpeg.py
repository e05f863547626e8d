"""JPEGs to the pixels of Pillow, in half of its time, where simplejpeg is installed (`pip install 'leo_edge[jpeg]'`).

Both are libjpeg-turbo. Pillow keeps a pixel in four bytes and copies it twice on its way into an array; simplejpeg decodes into
the array. It is given what all versions of libjpeg-turbo decode alike. Anything else, and what is broken, is left to Pillow.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, features

_MAGIC = b"\xff\xd8\xff"
# 4:4:0 is not among them: how its chroma is enlarged has changed from version to version.
_SUBSAMPLINGS = frozenset({"444", "422", "420", "Gray"})
_COLORSPACES = frozenset({"YCbCr", "Gray"})


def _load() -> Any:
    """Returns simplejpeg; None: it is not here, or Pillow has another libjpeg, whose pixels are others."""
    if not features.check("libjpeg_turbo"):
        return None
    try:
        return import_module("simplejpeg")
    except ImportError:
        return None


_simplejpeg = _load()


def describe_decoder() -> str:
    """Says what decodes JPEGs here."""
    if _simplejpeg is None:
        return "Pillow (simplejpeg would take half of the time, to the same pixels: pip install 'leo_edge[jpeg]')"
    return f"simplejpeg {_simplejpeg.__version__}"


def decode_jpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decodes a JPEG into [H, W, 3] uint8 RGB; None: it is none, or one that Pillow has to decode or refuse."""
    if _simplejpeg is None or not data.startswith(_MAGIC):
        return None
    try:
        height, width, colorspace, subsampling = _simplejpeg.decode_jpeg_header(data)
        if colorspace not in _COLORSPACES or subsampling not in _SUBSAMPLINGS or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        image: npt.NDArray[np.uint8] = _simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return image  # [H, W, 3]
