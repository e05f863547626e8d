"""A mosaic of the cameras with the last answers, for rviz or Foxglove."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from leo_edge.ros_node.encoder import EncodedSet
from leo_edge.ros_node.synchronizer import CameraState
from leo_edge.runtime.frames import RgbImage

_COLS, _WIDTH, _HEIGHT = 3, 320, 180  # of a camera in the mosaic, in pixels
_LINE_PX, _CHARS = 22, 100
_COLOURS = {CameraState.FRESH: (120, 220, 120), CameraState.STALE: (240, 200, 80), CameraState.MISSING: (240, 100, 100)}


class Mosaic:
    """Keeps a small image of each camera, since not every one is encoded anew for every set."""

    def __init__(self) -> None:
        self._small: dict[str, Image.Image] = {}
        self._font = ImageFont.load_default(16)

    def draw(self, encoded: EncodedSet, lines: Sequence[str]) -> RgbImage:
        """Returns the cameras of a set, each with its name and state, above lines of text."""
        for channel, image in encoded.images.items():
            self._small[channel] = Image.fromarray(image).resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2.0)
        wrapped = [part for line in lines for part in textwrap.wrap(line, _CHARS)]
        rows = -(-len(encoded.cameras) // _COLS)
        canvas = Image.new("RGB", (_COLS * _WIDTH, rows * _HEIGHT + _LINE_PX * len(wrapped) + 8))
        pen = ImageDraw.Draw(canvas)
        for i, use in enumerate(encoded.cameras):
            corner = (i % _COLS * _WIDTH, i // _COLS * _HEIGHT)
            if use.state is not CameraState.MISSING and use.channel in self._small:
                canvas.paste(self._small[use.channel], corner)
            label = use.channel if use.state is CameraState.FRESH else f"{use.channel}, {use.state.name.lower()}"
            pen.text(
                (corner[0] + 6, corner[1] + 4), label, _COLOURS[use.state], self._font, stroke_width=2, stroke_fill="black"
            )
        for i, line in enumerate(wrapped):
            pen.text((8, rows * _HEIGHT + 4 + i * _LINE_PX), line, (255, 255, 255), self._font)
        return np.asarray(canvas)
