"""Tokens and file names. Both follow from a world's seed and a scene's index alone: no image size or option changes them."""

from __future__ import annotations

import hashlib

from leo_edge.demo.dataset.plan import Shot, keyframe_stamp_us

VERSION = "v1.0-drawn"
LIDAR = "LIDAR_TOP"


def token(*path: object) -> str:
    """Returns 32 hexadecimal digits that stand for a readable path."""
    return hashlib.md5("/".join(map(str, path)).encode(), usedforsecurity=False).hexdigest()


def scene_name(index: int) -> str:
    """Returns a scene's name, as nuScenes has them."""
    return f"scene-{index:04}"


def log_name(seed: int, index: int) -> str:
    """Returns the name of a scene's log; it is also the log's location, for each scene has a map of its own."""
    return f"drawn-{seed}-{index:04}"


def scene_token(seed: int, index: int) -> str:
    """Returns a scene's token."""
    return token("scene", seed, index)


def sample_token(seed: int, index: int, keyframe: int) -> str:
    """Returns a keyframe's token."""
    return token("sample", seed, index, keyframe)


def image_file(seed: int, index: int, shot: Shot, image_format: str) -> str:
    """Returns where an image lies under the dataset's root: nuScenes' LOG__CHANNEL__STAMP."""
    folder = "samples" if shot.is_key_frame else "sweeps"
    name = f"{log_name(seed, index)}__{shot.channel}__{shot.stamp_us(index)}.{image_format}"
    return f"{folder}/{shot.channel}/{name}"


def lidar_file(seed: int, index: int, keyframe: int) -> str:
    """Returns where a keyframe's LiDAR placeholder lies under the dataset's root."""
    return f"samples/{LIDAR}/{log_name(seed, index)}__{LIDAR}__{keyframe_stamp_us(index, keyframe)}.pcd.bin"


def map_file(seed: int, index: int) -> str:
    """Returns where a scene's map lies under the dataset's root."""
    return f"maps/{token('map', seed, index)}.png"
