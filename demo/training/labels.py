"""Dense labels of a camera's patches, drawn with the image: what the vision experts learn before there is any language.

Shape letters: R rows and K columns of patches, P pixels of the small image on a patch's side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from leo_edge.demo.world.draw import GROUND, Drawn
from leo_edge.demo.world.kinds import COLOUR_NAMES, KINDS
from leo_edge.demo.world.observe import SMALL_SIZE_PX, Keyframe
from leo_edge.demo.world.road import SURFACES
from leo_edge.demo.world.shapes import GREEN, RED

Bytes = npt.NDArray[np.uint8]

TILE_PX, PATCH_PX = 144, 8
GRID = (TILE_PX // PATCH_PX, TILE_PX // PATCH_PX)
"""Rows and columns of patches in a camera's image, which is one tile."""
_SIDE_PX = PATCH_PX * SMALL_SIZE_PX[0] // TILE_PX  # in the small image, which is drawn larger than the tile

STATUSES = ("moving", "stopped", "parked", "with rider", "without rider")
_LAMP = len(KINDS)  # then the states of a lit traffic light
_SURFACE = _LAMP + RED
_PROP = _SURFACE + len(SURFACES) + 1
NUM_CLASSES = _PROP + 2  # and the sky

# Channels of a label, in this order.
CHANNELS = {
    "class": NUM_CLASSES,
    "colour": len(COLOUR_NAMES),
    "status": len(STATUSES),
    "centre": len(KINDS),
    "unsure": 1,
    "depth": 1,
    "nearest": 1,
    "edge": 1,
}
NUM_CHANNELS = sum(CHANNELS.values())
LAMPS = slice(_LAMP, _SURFACE)
"""Where the lit traffic lights are among the classes, which come first."""
_NEAREST_M, _FARTHEST_M = 2.0, 80.0


def channels_of(name: str) -> slice:
    """Returns where a label's channels are; those of "lamp" are among the classes."""
    if name == "lamp":
        return LAMPS
    start = 0
    for other, count in CHANNELS.items():
        if other == name:
            return slice(start, start + count)
        start += count
    raise KeyError(name)


def label(keyframe: Keyframe, channel: str) -> Bytes:
    """Returns the labels of one camera, [R, K, NUM_CHANNELS] uint8.

    Fractions of the patch (times 255) by class, by colour of cars and by status; centres of clearly shown objects by kind
    (times 64), and whether one in doubt has its centre here; depth, mean and nearest, on a log scale (times 255); share of
    pixels at an object's edge.
    """
    drawn, scene = keyframe.drawn[channel], keyframe.scene
    shown = {one.actor: one for one in keyframe.shown[channel]}
    actors = range(len(scene.actors))
    colour_of = [COLOUR_NAMES.index(c) if (c := scene.actors[i].colour) else -1 for i in actors]
    status_of = [STATUSES.index(s) if i in shown and (s := shown[i].status) else -1 for i in actors]
    made = np.zeros((*GRID, NUM_CHANNELS), np.uint8)
    made[..., channels_of("class")] = _fractions(_classes(keyframe, drawn), NUM_CLASSES)
    made[..., channels_of("colour")] = _fractions(_of_actors(drawn, colour_of), len(COLOUR_NAMES))
    made[..., channels_of("status")] = _fractions(_of_actors(drawn, status_of), len(STATUSES))
    centres = _centres(drawn)
    for one in shown.values():
        row, column = centres[one.actor].tolist()
        if one.sure:
            cell = made[row, column, channels_of("centre")]
            cell[one.kind] = min(255, int(cell[one.kind]) + 64)
        else:
            made[row, column, channels_of("unsure")] = 1
    depth = _log_depth(drawn)
    made[..., channels_of("depth")] = 255 * depth.mean(axis=(1, 3))[..., None]
    made[..., channels_of("nearest")] = 255 * depth.min(axis=(1, 3))[..., None]
    made[..., channels_of("edge")] = 255 * _patches(_edges(drawn)).mean(axis=(1, 3))[..., None]
    return made


def _classes(keyframe: Keyframe, drawn: Drawn) -> npt.NDArray[np.int64]:
    """Returns the class at every pixel of the small image."""
    scene = keyframe.scene
    of_object = [actor.look.kind for actor in scene.actors] + [_PROP] * len(scene.props)
    lit = [_PROP] * len(scene.actors)
    lit += [_PROP if p.crossing is None else _LAMP + keyframe.moment.lights[p.crossing] - GREEN for p in scene.props]
    ids = drawn.objects
    classes = np.where(ids >= 0, np.array(of_object)[np.maximum(ids, 0)], _SURFACE + GROUND - ids)
    classes[ids == -1] = NUM_CLASSES - 1
    lamp = drawn.shining & (ids >= len(scene.actors))
    classes[lamp] = np.array(lit)[ids[lamp]]
    return classes


def _of_actors(drawn: Drawn, values: list[int]) -> npt.NDArray[np.int64]:
    """Returns a value of the actor at every pixel, -1 elsewhere."""
    inside = (drawn.objects >= 0) & (drawn.objects < len(values))
    return np.where(inside, np.array([*values, -1])[np.where(inside, drawn.objects, len(values))], -1)


def _patches(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """[R * P, K * P] -> [R, P, K, P]."""
    return pixels.reshape(GRID[0], _SIDE_PX, GRID[1], _SIDE_PX)


def _fractions(values: npt.NDArray[np.int64], count: int) -> Bytes:
    """Returns each patch's share of every value, times 255; -1 is no value."""
    rows = np.arange(values.shape[0]) // _SIDE_PX
    columns = np.arange(values.shape[1]) // _SIDE_PX
    patch = rows[:, None] * GRID[1] + columns
    known = values >= 0
    flat = np.bincount(patch[known] * count + values[known], minlength=GRID[0] * GRID[1] * count)
    return (flat.reshape(*GRID, count) * 255 // _SIDE_PX**2).astype(np.uint8)


def _centres(drawn: Drawn) -> npt.NDArray[np.int64]:
    """Returns by object the row and column of the patch in which the middle of its visible pixels lies, [O, 2]."""
    rows, columns = np.nonzero(drawn.objects >= 0)
    ids, count = drawn.objects[rows, columns], len(drawn.visible_px)
    sums = [np.bincount(ids, weights=where, minlength=count) for where in (rows, columns)]
    return (np.stack(sums, axis=1) / np.maximum(drawn.visible_px, 1)[:, None]).astype(np.int64) // _SIDE_PX


def _log_depth(drawn: Drawn) -> npt.NDArray[np.float32]:
    """Returns log depth, 0 at 2 m to 1 at 80 m and in the sky, by patch [R, P, K, P]."""
    depth = 1 / np.maximum(drawn.inverse_depth, 1 / _FARTHEST_M)
    scaled = np.log(np.maximum(depth, _NEAREST_M) / _NEAREST_M) / np.log(_FARTHEST_M / _NEAREST_M)
    patches: npt.NDArray[np.float32] = _patches(scaled.astype(np.float32))  # type: ignore[assignment]
    return patches


def _edges(drawn: Drawn) -> npt.NDArray[np.float32]:
    """Returns 1 where the object right of or below a pixel is another one."""
    ids = np.maximum(drawn.objects, -1)
    edge = np.zeros(ids.shape, np.float32)
    edge[:, :-1] += ids[:, 1:] != ids[:, :-1]
    edge[:-1] += ids[1:] != ids[:-1]
    return np.minimum(edge, 1)
