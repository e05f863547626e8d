"""drive.json: which files of a folder are which camera's images, and when each was taken.

    {
      "cameras": {
        "CAM_FRONT": {"images": "front/*.jpg", "stamps_us": "names"},
        "CAM_LEFT": {"images": ["a.jpg", "b.jpg"], "stamps_ns": [1000000000, 1083000000]},
        "CAM_RIGHT": {"images": "right/*.png", "hz": 12, "start_ns": 1000000000},
        "CAM_BACK": {"video": "back.mp4", "start_ns": 1000000000}
      },
      "keyframes": {"token": 1000000000},
      "keyframe_tolerance_ms": 50
    }

A pattern's images are in the order of their names. Stamps are whole numbers in nanoseconds or microseconds, or "names": the
last digits of each image's name, as in nuScenes. `hz` and `start_ns` (0 if left out) make stamps where there are none. A
video has stamps of its own, from `start_ns` on. `keyframes`, which may be left out, gives the moments that questions are about.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leo_edge.runtime.errors import DatasetError

DRIVE_FILE = "drive.json"
_TOLERANCE_MS = 50.0
_STAMPS = {"stamps_ns": 1, "stamps_us": 1_000}  # with the nanoseconds of each
_DIGITS = re.compile(r"(\d+)\D*$")


@dataclass(frozen=True)
class ImageFiles:
    """A camera's images and their stamps, oldest first."""

    channel: str
    paths: tuple[Path, ...]
    stamps_ns: tuple[int, ...]


@dataclass(frozen=True)
class VideoFile:
    """A camera's video, and the stamp of its first frame."""

    channel: str
    path: Path
    start_ns: int


@dataclass(frozen=True)
class DriveFile:
    """What a folder's drive.json says: cameras in its order, keyframes as stamps by token, and its SHA-256."""

    cameras: tuple[ImageFiles | VideoFile, ...]
    keyframes: dict[str, int]
    tolerance_ns: int
    sha256: str


def read_drive_file(directory: Path) -> DriveFile:
    """Reads a folder's drive.json; every file that it names is there.

    Raises:
        DatasetError: there is none, a key is missing, unknown or of another type, or a file that it names is absent.
    """
    path = directory / DRIVE_FILE
    try:
        raw = path.read_bytes()
        value = json.loads(raw)
    except FileNotFoundError:
        raise DatasetError(f"no {path}: give a folder with a {DRIVE_FILE} that says whose images are in it") from None
    except (ValueError, OSError) as error:
        raise DatasetError(f"cannot read {path} ({error}): it must be JSON in UTF-8") from error
    whole = _Keys(str(path), value)
    cameras = _Keys(f"{path}: cameras", whole.take("cameras", dict))
    keyframes = _Keys(f"{path}: keyframes", whole.take("keyframes", dict, {}))
    tolerance_ms = whole.take("keyframe_tolerance_ms", (int, float), _TOLERANCE_MS)
    whole.end()
    if not cameras.left:
        raise DatasetError(f"{path}: cameras names no camera")
    if not 0 < tolerance_ms < 1e6:
        raise DatasetError(f"{path}: keyframe_tolerance_ms must be above 0, got {tolerance_ms:g}")
    return DriveFile(
        cameras=tuple(_camera(directory, path, name, cameras.take(name, dict)) for name in list(cameras.left)),
        keyframes={token: keyframes.stamp(token) for token in list(keyframes.left)},
        tolerance_ns=round(tolerance_ms * 1e6),
        sha256=hashlib.sha256(raw).hexdigest(),
    )


class _Keys:
    """The keys of a JSON object, taken one by one; what nobody took is unknown."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise DatasetError(f"{where} must be an object, got {_shown(value)}")
        self.where, self.left = where, value

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """Returns and forgets a key's value; without `default` it must be there."""
        value = self.left.pop(key, default)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if isinstance(value, bool) or not isinstance(value, kinds):
            expected = " or ".join(_JSON_NAMES[one] for one in kinds)
            raise DatasetError(f"{self.where}: {key} must be {expected}, got {_shown(value)}")
        return value

    def stamp(self, key: str, default: int | None = None) -> int:
        """Takes a stamp in nanoseconds."""
        stamp_ns: int = self.take(key, int, default)
        if stamp_ns < 0:
            raise DatasetError(f"{self.where}: {key} must be at least 0, got {stamp_ns}")
        return stamp_ns

    def one_of(self, *keys: str) -> str:
        """Returns which one of several keys is there."""
        there = [key for key in keys if key in self.left]
        if len(there) != 1:
            raise DatasetError(f"{self.where} must have one of {', '.join(keys)}, got {' and '.join(there) or 'none'}")
        return there[0]

    def end(self) -> None:
        """Refuses what is left."""
        if self.left:
            raise DatasetError(f"{self.where} has unknown keys {', '.join(self.left)}: take them out or mend their names")


_JSON_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}


def _camera(directory: Path, drive_file: Path, channel: str, value: dict[str, Any]) -> ImageFiles | VideoFile:
    keys = _Keys(f"{drive_file}: camera {channel}", value)
    if keys.one_of("images", "video") == "video":
        video = VideoFile(channel, _inside(directory, keys.where, keys.take("video", str)), keys.stamp("start_ns", 0))
        keys.end()
        return video
    paths = _images(directory, keys)
    stamps_ns = _stamps(keys, paths)
    keys.end()
    for i in range(1, len(paths)):
        if stamps_ns[i] <= stamps_ns[i - 1]:
            raise DatasetError(
                f"{keys.where}: stamps must rise, got {stamps_ns[i - 1]} ns for {paths[i - 1].name} and then "
                f"{stamps_ns[i]} ns for {paths[i].name}"
            )
    return ImageFiles(channel, paths, stamps_ns)


def _images(directory: Path, keys: _Keys) -> tuple[Path, ...]:
    images = keys.take("images", (str, list))
    if isinstance(images, list):
        if not images or not all(isinstance(name, str) for name in images):
            raise DatasetError(f"{keys.where}: images must be names of files, got {_shown(images)}")
        return tuple(_inside(directory, keys.where, name) for name in images)
    _check_inside(keys.where, images)
    found = tuple(sorted(path for path in directory.glob(images) if path.is_file()))
    if not found:
        raise DatasetError(f"{keys.where}: no file {directory / images}: check the pattern, which counts from the folder")
    return found


def _stamps(keys: _Keys, paths: Collection[Path]) -> tuple[int, ...]:
    kind = keys.one_of("hz", *_STAMPS)
    if kind == "hz":
        hz, start_ns = keys.take("hz", (int, float)), keys.stamp("start_ns", 0)
        if not 1e-3 <= hz <= 1e4:
            raise DatasetError(f"{keys.where}: hz must be 0.001 to 10000 images a second, got {hz:g}")
        return tuple(start_ns + round(i * 1e9 / hz) for i in range(len(paths)))
    stamps = keys.take(kind, (str, list))
    if stamps == "names":
        stamps = [_stamp_in_name(keys.where, path) for path in paths]
    if isinstance(stamps, str) or not all(type(stamp) is int and stamp >= 0 for stamp in stamps):
        raise DatasetError(f'{keys.where}: {kind} must be whole numbers from 0 on, or "names", got {_shown(stamps)}')
    if len(stamps) != len(paths):
        raise DatasetError(f"{keys.where}: {kind} has {len(stamps)} stamps for {len(paths)} images: give one for each")
    return tuple(stamp * _STAMPS[kind] for stamp in stamps)


def _stamp_in_name(where: str, path: Path) -> int:
    if (found := _DIGITS.search(path.stem)) is None:
        raise DatasetError(f'{where}: stamps are to be in the "names", {path.name} has no digits: rename it, or give hz')
    return int(found.group(1))


def _inside(directory: Path, where: str, name: str) -> Path:
    _check_inside(where, name)
    if not (path := directory / name).is_file():
        raise DatasetError(f"{where}: no file {path}: check the name, which counts from the folder")
    return path


def _check_inside(where: str, name: str) -> None:
    path = Path(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: files must lie in the folder of the {DRIVE_FILE}, got {name!r}: name them from there")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
