"""Frame sets for a benchmark: drawn from noise, read from a folder of images, or spread over a recorded drive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from leo_edge.replay.source import FrameSource, PlannedSet, plan_sets
from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, NUSCENES_PX, CameraFrame, FrameSet, load_frame

# A frame set of six cameras takes 26 MB.
MOST_SETS = 4
_NOISE_SETS = 2
_IMAGES = frozenset({".jpg", ".jpeg", ".png"})
_DRIVE_FILE = "drive.json"


def noise_frame_sets(num_cameras: int, random: np.random.Generator) -> tuple[FrameSet, ...]:
    """Draws frame sets of cameras of nuScenes' size, every pixel at random: images differ, the work on them does not."""
    channels = [*NUSCENES_CAMERAS, *(f"CAM_{i}" for i in range(len(NUSCENES_CAMERAS), num_cameras))][:num_cameras]
    width, height = NUSCENES_PX
    return tuple(
        FrameSet.of(
            [CameraFrame(name, random.integers(256, size=(height, width, 3), dtype=np.uint8)) for name in channels],
            expected_channels=channels,
        )
        for _ in range(_NOISE_SETS)
    )


def read_frame_sets(path: Path, num_cameras: int | None = None) -> tuple[FrameSet, ...]:
    """Reads frame sets from a nuScenes dataset, a folder with a drive.json, or a folder with one image per camera.

    Of the first drive that has any, `MOST_SETS` with all cameras, evenly spread. `num_cameras` takes the first so
    many cameras; None: all.

    Raises:
        LeoEdgeError: there is nothing of that kind, too few cameras, or an image cannot be read.
        ModuleNotFoundError: nuScenes needs the devkit.
    """
    if not path.is_dir():
        raise FrameError(f"no folder {path}: expected images, a drive with its {_DRIVE_FILE}, or a nuScenes dataset")
    source = _source(path)
    if source is None:
        return (_first_cameras(_image_set(path), num_cameras, path),)
    for name in source.drive_names():
        complete = [one for one in plan_sets(source.drive(name)) if len(one.frames) == len(one.channels)]
        if complete:
            return tuple(_first_cameras(one.load(), num_cameras, path) for one in _spread(complete))
    raise FrameError(f"no frame set in {path} has all cameras: give another drive")


def _source(path: Path) -> FrameSource | None:
    """Opens what holds drives; None: it holds none."""
    if (path / _DRIVE_FILE).is_file():
        from leo_edge.replay.folder_source import FolderOptions

        return FolderOptions((path,)).open()
    if any(entry.is_dir() for entry in path.glob("v1.0-*")):
        from leo_edge.replay.nuscenes_source import NuScenesOptions

        return NuScenesOptions(path, None, (), None, False, NUSCENES_CAMERAS).open()
    return None


def _image_set(path: Path) -> FrameSet:
    """Reads one image per camera, which names the file; nuScenes' cameras come in prompt order, others by name after them."""
    order = {name: place for place, name in enumerate(NUSCENES_CAMERAS)}
    files = {file.stem: file for file in path.iterdir() if file.suffix.lower() in _IMAGES}
    if not files:
        raise FrameError(f"no image in {path}: expected one per camera, such as CAM_FRONT.jpg, a {_DRIVE_FILE}, or nuScenes")
    channels = sorted(files, key=lambda name: (order.get(name, len(order)), name))
    return FrameSet.of([load_frame(name, files[name]) for name in channels], expected_channels=channels)


def _first_cameras(frame_set: FrameSet, num_cameras: int | None, path: Path) -> FrameSet:
    channels = frame_set.channels
    if num_cameras is not None and num_cameras > len(channels):
        raise FrameError(f"{path} has {len(channels)} cameras ({', '.join(channels)}), expected {num_cameras}: ask for fewer")
    channels = channels[:num_cameras]
    frames = [frame_set.frames[channel] for channel in channels]
    return FrameSet.of(frames, expected_channels=channels, stamp_ns=frame_set.stamp_ns)


def _spread(sets: Sequence[PlannedSet]) -> Iterator[PlannedSet]:
    count = min(MOST_SETS, len(sets))
    return (sets[i * len(sets) // count] for i in range(count))
