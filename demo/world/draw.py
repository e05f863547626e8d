"""Draws a moment of a scene into a camera: faces projected with their depth, then colour, light, mist and sky.

Any image size will do: the camera's field of view stays, so a small image is what a large one shows when it is shrunk, without
drawing the large one first. Shape letters: H image height, W image width, F faces, C corners, O objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leo_edge.demo.world.raster import DepthBuffer
from leo_edge.demo.world.rig import FULL_SIZE_PX, Camera
from leo_edge.demo.world.scene import Moment, Scene
from leo_edge.runtime.frames import RgbImage

Floats = npt.NDArray[np.float64]
Ints32 = npt.NDArray[np.int32]

_NEAR_M = 0.3
_FAR_M = 95.0
SKY = -1
GROUND = -2
"""Of the surface `GROUND - i` in `objects`, i counting the colours of road.SURFACES."""


@dataclass(frozen=True)
class _Weather:
    """How a look changes colours: light on faces by direction, mist towards `haze` with depth, and the sky's two ends."""

    gain: tuple[float, float, float]
    shade: float
    mist_per_m: float
    haze: tuple[int, int, int]
    zenith: tuple[int, int, int]


_WEATHER = {
    "day": _Weather((1.0, 1.0, 0.98), 0.42, 0.0015, (196, 208, 220), (104, 150, 206)),
    "dusk": _Weather((0.62, 0.56, 0.60), 0.30, 0.003, (150, 118, 112), (62, 62, 98)),
    "rain": _Weather((0.72, 0.75, 0.78), 0.16, 0.008, (150, 155, 160), (118, 124, 132)),
}
# Where the light comes from, in the road frame.
_SUN = np.array([-0.35, 0.52, 0.78])


@dataclass(frozen=True)
class Drawn:
    """What a camera sees.

    image: [H, W, 3] uint8 RGB. objects: [H, W] int32, the object at each pixel (actors first), SKY, or GROUND and below.
    inverse_depth: [H, W] float32 in 1/m, 0 in the sky. shining: [H, W], where a lamp is lit. visible_px, whole_px, lamp_px: by
    object [O], pixels seen, pixels it would have if nothing stood before it, and pixels of its lit lamps.
    """

    image: RgbImage
    objects: Ints32
    shining: npt.NDArray[np.bool_]
    inverse_depth: npt.NDArray[np.float32]
    visible_px: npt.NDArray[np.int64]
    whole_px: npt.NDArray[np.int64]
    lamp_px: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Faces:
    """Faces in the ego frame: corners [F, C, 3], colour [F, 3], owner [F], shining [F]."""

    corners: Floats
    colour: Floats
    owner: npt.NDArray[np.int64]
    shining: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Polygons:
    """Projected faces: corners [F, C, 2] in pixels, planes of inverse depth [F, 3], colour [F, 3], owner [F], shining [F]."""

    corners: Floats
    planes: Floats
    colour: Floats
    owner: npt.NDArray[np.int64]
    shining: npt.NDArray[np.bool_]


def draw(scene: Scene, moment: Moment, camera: Camera, size_px: tuple[int, int] = FULL_SIZE_PX) -> Drawn:
    """Draws what `camera` sees at `moment` into an image of (width, height)."""
    weather = _WEATHER[scene.look]
    ground = _project(_ground(scene, moment, weather), camera, size_px)
    objects = _project(_objects(scene, moment, weather), camera, size_px)
    buffer = DepthBuffer(*size_px)
    first = len(ground.owner)
    buffer.draw(ground.corners, ground.planes, np.arange(first, dtype=np.int32), ground.owner.astype(np.int32), tested=False)
    numbers = np.arange(first, first + len(objects.owner), dtype=np.int32)
    covered = buffer.draw(objects.corners, objects.planes, numbers, objects.owner.astype(np.int32))
    faces, count = buffer.faces, len(moment.x)
    # The last entry of each is that of face -1, the sky.
    owner = np.concatenate([ground.owner, objects.owner, [SKY]]).astype(np.int32)
    colour = np.concatenate([ground.colour, objects.colour, np.zeros((1, 3))]).astype(np.float32)
    lamp = np.concatenate([ground.shining, objects.shining, [False]])
    ids, shining = owner[faces], lamp[faces]
    return Drawn(
        image=_paint(colour[faces], buffer.inverse, faces < 0, weather, camera, size_px),
        objects=ids,
        shining=shining,
        inverse_depth=buffer.inverse,
        visible_px=_count(ids[ids >= 0], count),
        whole_px=np.bincount(objects.owner, weights=covered, minlength=count).astype(np.int64),
        lamp_px=_count(ids[shining], count),
    )


def _count(ids: Ints32, length: int) -> npt.NDArray[np.int64]:
    return np.bincount(ids, minlength=length)


def _ground(scene: Scene, moment: Moment, weather: _Weather) -> _Faces:
    """Returns what lies on the ground near the ego vehicle, in quadrangles."""
    rectangles, colours, surfaces = scene.ground
    x = np.clip(rectangles[:, :2] - moment.ego_x, -_FAR_M, _FAR_M)
    near = np.flatnonzero(x[:, 1] > x[:, 0])
    (x0, x1), (y0, y1) = x[near].T, rectangles[near, 2:].T
    corners = np.stack([np.stack(c, -1) for c in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], 1)  # [F, 4, 2]
    flat = np.concatenate([corners, np.zeros((*corners.shape[:2], 1))], axis=-1)
    return _Faces(flat, colours[near] * weather.gain, GROUND - surfaces[near], np.zeros(len(near), np.bool_))


def _objects(scene: Scene, moment: Moment, weather: _Weather) -> _Faces:
    """Returns the faces of everything near, in their light."""
    faces = scene.faces
    near = np.abs(moment.x) < _FAR_M - 10
    shown = (faces.state == 0) | (faces.state == moment.state[faces.owner])
    chosen = np.flatnonzero(near[faces.owner] & shown)
    owner, local = faces.owner[chosen], faces.corners[chosen]
    cos, sin = np.cos(moment.yaw[owner])[:, None], np.sin(moment.yaw[owner])[:, None]
    x = local[..., 0] * cos - local[..., 1] * sin + moment.x[owner, None]
    y = local[..., 0] * sin + local[..., 1] * cos + moment.y[owner, None]
    corners = np.stack([x, y, local[..., 2]], axis=-1)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    light = 1 - weather.shade * (1 - np.clip(normal @ _SUN, -0.4, 1)) / 1.4
    colour, shining = faces.colour[chosen], faces.shining[chosen]
    lit = np.where(shining[:, None], colour, colour * light[:, None] * weather.gain)
    return _Faces(corners, lit, owner, shining)


def _project(faces: _Faces, camera: Camera, size_px: tuple[int, int]) -> _Polygons:
    """Projects faces; leaves out what shows its back, is behind, outside or far below a pixel."""
    rotation = camera.ego_from_camera()
    local = (faces.corners - np.array(camera.position_m)) @ rotation  # [F, C, 3]
    normal = np.cross(local[:, 1] - local[:, 0], local[:, 2] - local[:, 0])
    offset = (normal * local[:, 0]).sum(axis=1)
    facing = offset < 0
    ahead = local[..., 2].max(axis=1) > _NEAR_M
    kept = np.flatnonzero(facing & ahead)
    kept = kept[_in_view(local[kept], camera)]
    intrinsic = camera.intrinsic(size_px)
    planes = (normal[kept] / offset[kept, None]) @ np.linalg.inv(intrinsic)  # 1/z = n . K^-1 (u, v, 1) / d
    local = _clip_near(local[kept])
    pixels = local @ intrinsic.T
    pixels = pixels[..., :2] / pixels[..., 2:]
    large = np.flatnonzero(((pixels.max(axis=1) - pixels.min(axis=1)) > 0.35).all(axis=1))
    kept = kept[large]
    return _Polygons(pixels[large], planes[large], faces.colour[kept], faces.owner[kept], faces.shining[kept])


def _in_view(local: Floats, camera: Camera) -> npt.NDArray[np.bool_]:
    """Returns which faces [F, C, 3] are not wholly beyond one side of the image."""
    z = local[..., 2]
    seen = np.ones(len(local), np.bool_)
    for axis in range(2):
        low = -camera.centre_px[axis] / camera.focal_px
        high = (FULL_SIZE_PX[axis] - camera.centre_px[axis]) / camera.focal_px
        seen &= (local[..., axis] > low * z).any(axis=1) & (local[..., axis] < high * z).any(axis=1)
    return seen


def _clip_near(local: Floats) -> Floats:
    """Cuts faces [F, C, 3] at the near plane (Sutherland and Hodgman 1974); gives [F, C + 1, 3], corners repeated as needed."""
    padded: Floats = np.concatenate([local, local[:, -1:]], axis=1)
    for i in np.flatnonzero((local[..., 2] < _NEAR_M).any(axis=1)).tolist():
        ring: list[Floats] = []
        corners = local[i]
        for j in range(len(corners)):
            a, b = corners[j], corners[(j + 1) % len(corners)]
            if a[2] >= _NEAR_M:
                ring.append(a)
            if (a[2] < _NEAR_M) != (b[2] < _NEAR_M):
                ring.append(a + (b - a) * ((_NEAR_M - a[2]) / (b[2] - a[2])))
        padded[i] = ring + ring[-1:] * (padded.shape[1] - len(ring))
    return padded


def _paint(
    colour: npt.NDArray[np.float32],
    inverse: npt.NDArray[np.float32],
    sky: npt.NDArray[np.bool_],
    weather: _Weather,
    camera: Camera,
    size_px: tuple[int, int],
) -> RgbImage:
    """Adds mist by depth and the sky: colour [H, W, 3], which is overwritten, -> uint8."""
    haze, zenith = np.array(weather.haze, np.float32), np.array(weather.zenith, np.float32)
    clear = np.exp(np.float32(-weather.mist_per_m) / np.maximum(inverse, np.float32(1e-3)))
    colour -= haze
    colour *= clear[..., None]
    colour += haze + np.float32(0.5)
    horizon = camera.centre_px[1] * size_px[1] / FULL_SIZE_PX[1]
    up = np.clip(1 - np.arange(size_px[1], dtype=np.float32) / max(horizon, 1.0), 0, 1)[:, None]
    rows = haze + (zenith - haze) * up
    colour[sky] = np.broadcast_to(rows[:, None], colour.shape)[sky]
    return colour.astype(np.uint8)
