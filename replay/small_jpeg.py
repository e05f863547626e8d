"""Camera images made small enough for a report or a recording."""

from __future__ import annotations

import io

from PIL import Image

from leo_edge.runtime.frames import RgbImage


def small_jpeg(image: RgbImage, most_px: tuple[int, int], quality: int) -> tuple[bytes, tuple[int, int]]:
    """Returns an image [H, W, 3] as a JPEG within `most_px` (width, height), its shape kept, and its width and height."""
    picture = Image.fromarray(image)
    picture.thumbnail(most_px, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), picture.size
