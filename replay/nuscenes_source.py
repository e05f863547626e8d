"""nuScenes scenes as drives to be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leo_edge.replay.nuscenes import NuScenesDrives
from leo_edge.replay.source import Drive
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import NUSCENES_CAMERAS


@dataclass(frozen=True)
class NuScenesOptions:
    """Which drives of a dataset: `scenes` by name, or a `split` of nuScenes' own, or all; which frames; which cameras."""

    root: Path
    version: str | None = None
    scenes: tuple[str, ...] = ()
    split: str | None = None
    all_frames: bool = False
    channels: tuple[str, ...] = NUSCENES_CAMERAS

    def open(self) -> NuScenesSource:
        """Opens the dataset; see `NuScenesSource`."""
        return NuScenesSource(self)


class NuScenesSource:
    """The chosen scenes, in the order in which they were named, else in that of the table."""

    def __init__(self, options: NuScenesOptions) -> None:
        """Opens the dataset.

        Raises:
            DatasetError: no such version, scene or split, or a broken table.
        """
        self._options = options
        self._drives = NuScenesDrives(options.root, options.version)
        self._names = self._choose(options.scenes, options.split)

    def describe(self) -> dict[str, str]:
        """Returns version, frames and cameras. Not the folder: it may have been moved."""
        frames = "all camera frames" if self._options.all_frames else "keyframes"
        return {
            "kind": "nuscenes",
            "version": self._drives.version,
            "frames": frames,
            "cameras": " ".join(self._options.channels),
        }

    def drive_names(self) -> tuple[str, ...]:
        """Names of the chosen scenes."""
        return self._names

    def drive(self, name: str) -> Drive:
        """Returns a scene."""
        return self._drives.drive(name, self._options.channels, all_frames=self._options.all_frames)

    def _choose(self, scenes: Sequence[str], split: str | None) -> tuple[str, ...]:
        if not scenes:
            return self._drives.scenes_of_split(split) if split else self._drives.scene_names()
        if len(set(scenes)) != len(scenes):
            raise DatasetError(f"--scenes names a scene twice: {', '.join(scenes)}")
        for name in scenes:
            self._drives.samples(name)
        return tuple(scenes)
