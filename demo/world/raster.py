"""A depth-buffered rasteriser of flat convex polygons. Inverse depth is linear in the image, so it is exact at every pixel.

Shape letters: H image height, W image width, F polygons, C corners.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Ints32 = npt.NDArray[np.int32]

# Below this many pixels of its bounding box a polygon is tested at every pixel's centre; above, OpenCV fills it, whose
# outlines are up to half a pixel wider, and which takes coordinates of a limited range.
_TESTED_PX = 3000
_FILL_RANGE_PX = 2**14
_SHIFT = 4


class DepthBuffer:
    """The nearest polygon at every pixel: `faces` [H, W] its number (-1: none), `inverse` [H, W] one over its depth in 1/m."""

    def __init__(self, width: int, height: int) -> None:
        self.faces: Ints32 = np.full((height, width), -1, np.int32)
        self.inverse: Floats32 = np.zeros((height, width), np.float32)
        self._last = np.full((height, width), -1, np.int32)  # which object was drawn last here, hidden or not
        self._columns = np.arange(width, dtype=np.float32)
        self._rows = np.arange(height, dtype=np.float32)

    def draw(self, corners: Floats, planes: Floats, numbers: Ints32, owners: Ints32, *, tested: bool = True) -> Ints32:
        """Draws polygons [F, C, 2] (pixels, any winding, corners may repeat), inverse depth = planes [F, 3] . (u, v, 1).

        Without `tested` later ones cover earlier ones whatever their depth. Those of one owner [F] come in a row. Returns how
        many pixels of the image each one adds to what its owner would cover if nothing hid it [F].
        """
        height, width = self.faces.shape
        low = np.maximum(np.ceil(corners.min(axis=1) - 0.5), 0).astype(np.int64)
        high = np.minimum(np.floor(corners.max(axis=1) + 0.5), [width - 1, height - 1]).astype(np.int64) + 1
        edges = _edges(corners)
        covered = np.zeros(len(corners), np.int32)
        fillable = (np.abs(corners) < _FILL_RANGE_PX).all(axis=(1, 2))
        inside = np.flatnonzero((high > low).all(axis=1)).tolist()
        for i in inside:
            (x0, y0), (x1, y1) = low[i].tolist(), high[i].tolist()
            if fillable[i] and (x1 - x0) * (y1 - y0) > _TESTED_PX:
                mask = _filled(corners[i], x0, y0, x1, y1)
            else:
                mask = self._inside(edges[i], x0, y0, x1, y1)
            if mask.any():
                last = self._last[y0:y1, x0:x1]
                covered[i] = np.count_nonzero(mask & (last != owners[i]))
                np.copyto(last, owners[i], where=mask)
                self._put(mask, planes[i].tolist(), int(numbers[i]), (x0, y0, x1, y1), tested=tested)
        return covered

    def _inside(self, edges: Floats32, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.bool_]:
        """Returns which pixel centres of a box lie on the inner side of all edges [C, 3]."""
        across = edges[:, 0, None] * self._columns[x0:x1]  # [C, w]
        down = edges[:, 1, None] * self._rows[y0:y1] + edges[:, 2, None]  # [C, h]
        mask: npt.NDArray[np.bool_] = (across[:, None, :] + down[:, :, None] >= 0).all(axis=0)
        return mask

    def _put(
        self, mask: npt.NDArray[np.bool_], plane: list[float], number: int, box: tuple[int, int, int, int], *, tested: bool
    ) -> None:
        x0, y0, x1, y1 = box
        a, b, c = plane
        inverse = (np.float32(b) * self._rows[y0:y1] + np.float32(c))[:, None] + np.float32(a) * self._columns[x0:x1]
        held = self.inverse[y0:y1, x0:x1]
        if tested:
            mask &= inverse > held
        np.copyto(held, inverse, where=mask)
        np.copyto(self.faces[y0:y1, x0:x1], number, where=mask)


def _edges(corners: Floats) -> Floats32:
    """Returns for each polygon [F, C, 2] its edges as a u + b v + c >= 0 inside, [F, C, 3]. Repeated corners give zeros."""
    following = np.roll(corners, -1, axis=1)
    du, dv = (following - corners)[..., 0], (following - corners)[..., 1]
    area = (corners[..., 0] * following[..., 1] - following[..., 0] * corners[..., 1]).sum(axis=1)
    sign = np.where(area >= 0, 1.0, -1.0)[:, None]
    a, b = -dv * sign, du * sign
    c = -(a * corners[..., 0] + b * corners[..., 1])
    made: Floats32 = np.stack([a, b, c], axis=-1).astype(np.float32)
    return made


def _filled(corners: Floats, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.bool_]:
    """Returns a polygon's mask in a box of the image, by OpenCV."""
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    points = (corners - (x0, y0)) * 2**_SHIFT
    cv2.fillConvexPoly(mask, np.rint(points).astype(np.int32), (1,), cv2.LINE_8, _SHIFT)
    return mask.view(np.bool_)
