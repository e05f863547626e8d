"""What a dataset holds, before anything is drawn: which scenes, which keyframes, which camera images, and all their stamps.

Stamps are integer microseconds. In nuScenes a sample's stamp is that of its LiDAR, and each image has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from leo_edge.demo.training.drawing import keyframe_numbers
from leo_edge.demo.world.observe import FIRST_KEYFRAME_S, KEYFRAME_S, keyframe_time
from leo_edge.demo.world.rig import FULL_SIZE_PX, RIG
from leo_edge.demo.world.scene import SCENE_SECONDS, SPLITS, scene_indices
from leo_edge.runtime.errors import DatasetError

CAMERA_HZ = 12
_FRAMES_PER_KEYFRAME = round(CAMERA_HZ * KEYFRAME_S)
# Scene 0 starts on 2023-11-14, and every further one so much later: no two images of a dataset have the same stamp.
_FIRST_SCENE_US, _SCENE_EVERY_US = 1_700_000_000_000_000, 60_000_000
_SMALLEST_PX, _LARGEST_PX = 16, 8192


@dataclass(frozen=True)
class DatasetOptions:
    """What is drawn of a world.

    num_scenes: of `split`, or of the world where it is None, counted from its first scene. seconds: only keyframes before
    this time of a scene. scored_only: only the four keyframes of a scene that figures are given for. size_px: width and height
    of the images. lossless: PNG instead of JPEG.
    """

    num_scenes: int
    seed: int = 0
    split: str | None = None
    seconds: float = SCENE_SECONDS
    keyframes_only: bool = False
    scored_only: bool = False
    size_px: tuple[int, int] = FULL_SIZE_PX
    lossless: bool = False

    def __post_init__(self) -> None:
        if self.num_scenes < 1:
            raise DatasetError(f"--scenes must be at least 1, got {self.num_scenes}")
        if self.seed < 0:
            raise DatasetError(f"--seed must not be negative, got {self.seed}")
        if self.split not in (None, *SPLITS):
            raise DatasetError(f"--split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if not FIRST_KEYFRAME_S < self.seconds <= SCENE_SECONDS:
            raise DatasetError(
                f"--seconds must be more than {FIRST_KEYFRAME_S}, where the first keyframe is, and at most {SCENE_SECONDS:g}, "
                f"got {self.seconds:g}"
            )
        if self.scored_only and (self.seconds != SCENE_SECONDS or not self.keyframes_only or self.split is None):
            raise DatasetError("--scored-only takes a --split, keyframes alone and whole scenes: leave out --seconds")
        if not all(_SMALLEST_PX <= side <= _LARGEST_PX for side in self.size_px):
            width, height = self.size_px
            raise DatasetError(f"--size must have sides of {_SMALLEST_PX} to {_LARGEST_PX} pixels, got {width}x{height}")

    @property
    def scenes(self) -> list[int]:
        """Indices of the scenes."""
        return list(range(self.num_scenes)) if self.split is None else scene_indices(self.split, self.num_scenes)

    def keyframes(self, scene: int) -> list[int]:
        """Returns the numbers of a scene's keyframes, ascending."""
        if self.scored_only:
            return keyframe_numbers(self.seed, scene)
        return list(range(math.ceil(round((self.seconds - FIRST_KEYFRAME_S) / KEYFRAME_S, 6))))

    @property
    def image_format(self) -> str:
        """nuScenes' `fileformat` of the images, which is also how their names end."""
        return "png" if self.lossless else "jpg"

    def shots(self, keyframe: int) -> Iterator[Shot]:
        """Yields the images of a keyframe and of the sweeps that lead to it, oldest first for each camera."""
        sweeps = 0 if self.keyframes_only or keyframe == 0 else _FRAMES_PER_KEYFRAME - 1
        for channel in RIG:
            for frames_before in range(sweeps, -1, -1):
                yield Shot(channel, keyframe, frames_before)

    @property
    def num_images(self) -> int:
        """Of the whole dataset."""
        return sum(len(list(self.shots(keyframe))) for scene in self.scenes for keyframe in self.keyframes(scene))


@dataclass(frozen=True)
class Shot:
    """One image of a camera: a keyframe's, or a sweep's, which lies `frames_before` camera frames before the keyframe."""

    channel: str
    keyframe: int
    frames_before: int

    @property
    def is_key_frame(self) -> bool:
        """Whether it belongs to the keyframe itself."""
        return self.frames_before == 0

    @property
    def frame_time_s(self) -> float:
        """Time of the keyframe or sweep, from the scene's start; the camera fires before it."""
        return keyframe_time(self.keyframe) - self._before_us * 1e-6

    @property
    def fired_s(self) -> float:
        """Time at which the camera fires, from the scene's start."""
        return self.frame_time_s + RIG[self.channel].delay_us * 1e-6

    def stamp_us(self, scene_index: int) -> int:
        """Returns the image's stamp."""
        return keyframe_stamp_us(scene_index, self.keyframe) - self._before_us + RIG[self.channel].delay_us

    @property
    def _before_us(self) -> int:
        return round(self.frames_before * 1e6 / CAMERA_HZ)


def scene_start_us(scene_index: int) -> int:
    """Returns the stamp of a scene's time 0."""
    return _FIRST_SCENE_US + scene_index * _SCENE_EVERY_US


def keyframe_stamp_us(scene_index: int, keyframe: int) -> int:
    """Returns the stamp of a keyframe, which is that of its LiDAR."""
    return scene_start_us(scene_index) + round(keyframe_time(keyframe) * 1e6)
