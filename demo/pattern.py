"""Six drawn camera frames for where no real ones are at hand: a road, a sky and some boxes, different for each camera."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet

_WIDTH_PX, _HEIGHT_PX, _HORIZON_PX = 1600, 900, 420
_COLOURS = ("firebrick", "navy", "seagreen", "goldenrod", "slategray", "white")


def pattern_frames(seed: int = 0) -> FrameSet:
    """Draws a frame set of the six nuScenes cameras, 1600x900 each, the same for the same seed."""
    random = np.random.default_rng(seed)
    frames = [CameraFrame(channel, _draw(random), stamp_ns=0) for channel in NUSCENES_CAMERAS]
    return FrameSet.of(frames)


def _draw(random: np.random.Generator) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    image = Image.new("RGB", (_WIDTH_PX, _HEIGHT_PX), "lightskyblue")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, _HORIZON_PX, _WIDTH_PX, _HEIGHT_PX), fill="olivedrab")
    vanishing_px = int(random.integers(500, 1100))
    draw.polygon([(vanishing_px, _HORIZON_PX), (_WIDTH_PX, _HEIGHT_PX), (0, _HEIGHT_PX)], fill="dimgray")
    draw.line([(vanishing_px, _HORIZON_PX), (_WIDTH_PX // 2, _HEIGHT_PX)], fill="white", width=8)
    for _ in range(int(random.integers(1, 6))):
        left, size = int(random.integers(0, 1400)), int(random.integers(40, 260))
        foot = _HORIZON_PX + size
        draw.rectangle((left, foot - size // 2, left + size, foot), fill=_COLOURS[int(random.integers(len(_COLOURS)))])
    return np.asarray(image)
