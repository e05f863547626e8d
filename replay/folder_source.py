"""Folders of images and videos as drives to be replayed; each has a drive.json (see `drive_file`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.replay.drive_file import DriveFile, ImageFiles, VideoFile, read_drive_file
from leo_edge.replay.source import Drive, FrameRef
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import CameraFrame, load_frame

if TYPE_CHECKING:
    from leo_edge.replay.video_frames import VideoFrames


@dataclass(frozen=True)
class FolderOptions:
    """Which folders, each of them a drive; which frames: all, or those of the keyframes where there are any; which cameras."""

    directories: tuple[Path, ...]
    all_frames: bool = False
    channels: tuple[str, ...] | None = None
    """In prompt order; None: all, in the order of each drive.json."""

    def open(self) -> FolderSource:
        """Opens the folders; see `FolderSource`."""
        return FolderSource(self)


class FolderSource:
    """Drives by the names of their folders."""

    def __init__(self, options: FolderOptions) -> None:
        """Reads every drive.json; images and videos are read when a drive is asked for.

        Raises:
            DatasetError: no such folder, a broken drive.json, or two folders of one name.
        """
        self._options = options
        self._directories = {path.resolve().name: path for path in options.directories}
        if len(self._directories) < len(options.directories):
            raise DatasetError(f"two folders have one name, which names the drive: {', '.join(map(str, options.directories))}")
        self._files = {name: self._read(path) for name, path in self._directories.items()}
        self._drives: dict[str, Drive] = {}

    def describe(self) -> dict[str, str]:
        """Returns frames, cameras and what each drive.json is. Not the folders: they may have been moved."""
        return {
            "kind": "folders",
            "frames": "all camera frames" if self._options.all_frames else "keyframes",
            "cameras": " ".join(self._options.channels or ["all"]),
            "drive_files_sha256": " ".join(file.sha256 for file in self._files.values()),
        }

    def drive_names(self) -> tuple[str, ...]:
        """Names of the folders, as they were given."""
        return tuple(self._files)

    def drive(self, name: str) -> Drive:
        """Returns a folder's drive. Videos are read through for their stamps the first time.

        Raises:
            DatasetError: no such drive, or a keyframe has no image.
        """
        if name not in self._files:
            raise DatasetError(f"no drive {name!r}: there is {', '.join(self._files)}")
        if name not in self._drives:
            self._drives[name] = self._make(name, self._files[name])
        return self._drives[name]

    def _read(self, directory: Path) -> DriveFile:
        file = read_drive_file(directory)
        there = [camera.channel for camera in file.cameras]
        if unknown := [channel for channel in self._options.channels or () if channel not in there]:
            raise DatasetError(f"no camera {', '.join(unknown)} in {directory}: its cameras are {', '.join(there)}")
        return file

    def _make(self, name: str, file: DriveFile) -> Drive:
        cameras = {camera.channel: camera for camera in file.cameras}
        channels = self._options.channels or tuple(cameras)
        refs = {channel: _frames(cameras[channel]) for channel in channels}
        for token, stamp_ns in file.keyframes.items():
            _mark(name, refs, token, stamp_ns, file.tolerance_ns)
        frames = [ref for of_camera in refs.values() for ref in of_camera]
        if file.keyframes and not self._options.all_frames:
            frames = [ref for ref in frames if ref.sample is not None]
        return Drive(name, channels, tuple(sorted(frames, key=lambda ref: ref.stamp_ns)), dict(file.keyframes))


def _frames(camera: ImageFiles | VideoFile) -> list[FrameRef]:
    """Returns a camera's frames, oldest first and unread."""
    if isinstance(camera, ImageFiles):
        pairs = list(zip(camera.paths, camera.stamps_ns, strict=True))
        return [FrameRef(camera.channel, stamp, partial(load_frame, camera.channel, path, stamp)) for path, stamp in pairs]
    from leo_edge.replay.video_frames import VideoFrames  # folders of images need no OpenCV

    video = VideoFrames(camera.path)
    stamps = [camera.start_ns + stamp_ns for stamp_ns in video.stamps_ns]
    return [
        FrameRef(camera.channel, stamp, partial(_video_frame, camera.channel, video, i, stamp))
        for i, stamp in enumerate(stamps)
    ]


def _video_frame(channel: str, video: VideoFrames, number: int, stamp_ns: int) -> CameraFrame:
    return CameraFrame(channel, video.frame(number), stamp_ns)


def _mark(drive: str, refs: dict[str, list[FrameRef]], token: str, stamp_ns: int, tolerance_ns: int) -> None:
    """Makes the nearest frame of each camera a keyframe's; a camera whose nearest is too far from it is missing in it."""
    found = False
    for channel, frames in refs.items():
        nearest = min(range(len(frames)), key=lambda i: abs(frames[i].stamp_ns - stamp_ns))
        if abs(frames[nearest].stamp_ns - stamp_ns) > tolerance_ns:
            continue
        if (other := frames[nearest].sample) is not None:
            raise DatasetError(
                f"drive {drive}: keyframes {other} and {token} have the same image of {channel}: take one of them out, "
                f"or set keyframe_tolerance_ms, now {tolerance_ns / 1e6:g}, to less than half of the time between images"
            )
        frames[nearest], found = replace(frames[nearest], sample=token), True
    if not found:
        raise DatasetError(
            f"drive {drive}: keyframe {token} at {stamp_ns} ns has no image within {tolerance_ns / 1e6:g} ms: mend its stamp, "
            f"or set keyframe_tolerance_ms"
        )
