"""Drives in nuScenes format, read through nuscenes-devkit. Nothing else of leo_edge imports the devkit.

The vocabulary is nuScenes' own (https://www.nuscenes.org/nuscenes#data-format): a scene is a drive of about 20 s, a
sample is one of its keyframes, a channel is a sensor's name, a token names a record.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from leo_edge.replay.source import Box, Drive, FrameRef
from leo_edge.runtime.errors import DatasetError, FrameError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet, Matrix, load_frames, read_image

Record = dict[str, Any]  # one row of a table, as the devkit gives it

_NS_PER_US = 1_000
_NUM_LISTED_NAMES = 5
_BOXES_OF = "LIDAR_TOP"  # the sensor by which nuScenes was annotated

# In the order in which the devkit loads them.
_TABLES = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)

# What the devkit lets through when the tables are not as it expects: it checks little and asserts on the rest.
_TABLE_ERRORS = (AssertionError, LookupError, TypeError, AttributeError, ValueError, OSError)


class _Devkit(Protocol):
    """What is used of `nuscenes.nuscenes.NuScenes`, which carries no types."""

    scene: list[Record]
    sensor: list[Record]

    def get(self, table_name: str, token: str) -> Record: ...

    def get_boxes(self, sample_data_token: str) -> list[Any]: ...

    def get_sample_data_path(self, sample_data_token: str) -> str: ...


class NuScenesDrives:
    """The drives under one nuScenes root. Opening reads the tables; images are read when a frame set is asked for."""

    def __init__(self, root: str | PathLike[str], version: str | None = None) -> None:
        """Opens `version`, such as "v1.0-mini", under `root`, the folder that holds it and `samples/`.

        Without `version` it takes the only one that is there.

        Raises:
            DatasetError: no such version, several to choose from, or a table or map that is missing or broken.
        """
        self.root = Path(root)
        self.version = _choose_version(self.root, version)
        _check_files(self.root, self.version)
        self._devkit = _open_devkit(self.root, self.version)
        self._scenes: dict[str, Record] = {scene["name"]: scene for scene in self._devkit.scene}

    def scene_names(self) -> tuple[str, ...]:
        """Names of all scenes, in table order."""
        return tuple(self._scenes)

    def samples(self, scene_name: str) -> tuple[str, ...]:
        """Tokens of the keyframes of one scene, oldest first.

        Raises:
            DatasetError: no such scene, or its chain of samples is broken.
        """
        scene = self._scenes.get(scene_name)
        if scene is None:
            raise DatasetError(
                f"no scene {scene_name!r} in {self.version}, which has {len(self._scenes)}: {_some(self.scene_names())}"
            )
        tokens: list[str] = []
        with _table_errors(f"scene {scene_name}"):
            token = scene["first_sample_token"]
            while token and len(tokens) < scene["nbr_samples"]:
                tokens.append(token)
                token = self._devkit.get("sample", token)["next"]
        if token or len(tokens) != scene["nbr_samples"]:
            got = "more" if token else str(len(tokens))
            raise DatasetError(
                f"scene {scene_name} should have {scene['nbr_samples']} samples (nbr_samples), its chain has {got}: "
                f"sample.json and scene.json of {self.version} do not belong together, get both again"
            )
        return tuple(tokens)

    def sample_at(self, scene_name: str, index: int) -> str:
        """Token of the keyframe `index`, counted from 0, of one scene.

        Raises:
            DatasetError: no such scene, or it has no such keyframe.
        """
        tokens = self.samples(scene_name)
        if not 0 <= index < len(tokens):
            raise DatasetError(f"no sample {index} in scene {scene_name}: it has {len(tokens)}, counted from 0")
        return tokens[index]

    def frame_set(self, sample_token: str, channels: Sequence[str] = NUSCENES_CAMERAS) -> FrameSet:
        """Reads the images of one keyframe. The set's stamp is the sample's, each frame has its camera's own.

        A camera of the dataset that has no image in this keyframe is among the set's `missing`.

        Raises:
            DatasetError: no such sample, a channel that is no camera here, or an image that is absent or unreadable.
        """
        self._check_cameras(channels)
        sample = self._record("sample", sample_token)
        with _table_errors(f"sample {sample_token}"):
            tokens = {channel: sample["data"][channel] for channel in channels if channel in sample["data"]}
            frames = load_frames([partial(self._frame, channel, token) for channel, token in tokens.items()])
            stamp_ns = sample["timestamp"] * _NS_PER_US
        if not frames:
            raise DatasetError(f"sample {sample_token} has no image of {', '.join(channels)}: ask for other channels")
        return FrameSet.of(frames, expected_channels=channels, stamp_ns=stamp_ns)

    def scenes_of_split(self, split: str) -> tuple[str, ...]:
        """Names of the scenes that belong to one of nuScenes' own splits, such as "val" or "mini_val".

        Raises:
            DatasetError: no such split, or no scene of it is here.
        """
        from nuscenes.utils.splits import create_splits_scenes  # with the devkit, see `_open_devkit`

        splits: dict[str, list[str]] = create_splits_scenes()
        if split not in splits:
            raise DatasetError(f"no split {split!r} in nuScenes, which has {', '.join(splits)}")
        if not (found := tuple(name for name in self.scene_names() if name in splits[split])):
            raise DatasetError(f"no scene of split {split} in {self.version}, which has {_some(self.scene_names())}")
        return found

    def drive(self, scene_name: str, channels: Sequence[str] = NUSCENES_CAMERAS, *, all_frames: bool = False) -> Drive:
        """Returns one scene as a drive, its images unread: its keyframes, or all frames from the first keyframe on.

        Raises:
            DatasetError: no such scene, a channel that is no camera here, or tables that do not fit together.
        """
        self._check_cameras(channels)
        samples = {token: self._record("sample", token) for token in self.samples(scene_name)}
        frames: list[FrameRef] = []
        with _table_errors(f"scene {scene_name}"):
            stamps = {token: sample["timestamp"] * _NS_PER_US for token, sample in samples.items()}
            for channel in channels:
                keys = [sample["data"][channel] for sample in samples.values() if channel in sample["data"]]
                tokens = self._chain(keys[0]) if all_frames and keys else keys
                frames += [self._ref(channel, token) for token in tokens]
        frames.sort(key=lambda ref: ref.stamp_ns)
        return Drive(scene_name, tuple(channels), tuple(frames), stamps, self.boxes, self._scenes[scene_name]["description"])

    def boxes(self, sample_token: str) -> tuple[Box, ...]:
        """Returns what is annotated in a keyframe, in the vehicle's coordinates of the moment of its lidar sweep.

        Raises:
            DatasetError: no such sample, or tables that do not fit together.
        """
        sample = self._record("sample", sample_token)
        with _table_errors(f"sample {sample_token}"):
            sensor = _BOXES_OF if _BOXES_OF in sample["data"] else next(iter(sample["data"]))
            pose = self._record("ego_pose", self._record("sample_data", sample["data"][sensor])["ego_pose_token"])
            return tuple(_box(box, pose) for box in self._devkit.get_boxes(sample["data"][sensor]))

    def _chain(self, sample_data_token: str) -> list[str]:
        """Returns the tokens of a camera's frames in a scene, from one on."""
        tokens: dict[str, None] = {}
        while sample_data_token:
            if sample_data_token in tokens:
                raise ValueError(f"sample_data {sample_data_token} follows itself")
            tokens[sample_data_token] = None
            sample_data_token = self._record("sample_data", sample_data_token)["next"]
        return list(tokens)

    def _ref(self, channel: str, sample_data_token: str) -> FrameRef:
        record = self._record("sample_data", sample_data_token)
        sample = record["sample_token"] if record["is_key_frame"] else None
        load = partial(self._frame, channel, sample_data_token)
        return FrameRef(channel, record["timestamp"] * _NS_PER_US, load, sample)

    def _frame(self, channel: str, sample_data_token: str) -> CameraFrame:
        sample_data = self._record("sample_data", sample_data_token)
        calibrated = self._record("calibrated_sensor", sample_data["calibrated_sensor_token"])
        try:
            image = read_image(self._devkit.get_sample_data_path(sample_data_token))
            expected = (sample_data["height"], sample_data["width"], 3)
            if image.shape != expected:
                raise DatasetError(
                    f"{channel} of sample {sample_data['sample_token']}: image {sample_data['filename']} is "
                    f"{image.shape[1]} x {image.shape[0]}, sample_data.json says {expected[1]} x {expected[0]}: "
                    f"its intrinsic would be wrong; use the original image or mend the table"
                )
            return CameraFrame(
                channel,
                image,
                stamp_ns=sample_data["timestamp"] * _NS_PER_US,
                intrinsic=np.array(calibrated["camera_intrinsic"], np.float64),
                sensor_from_ego=_sensor_from_ego(calibrated),
            )
        except FrameError as error:
            raise DatasetError(f"{channel} of sample {sample_data['sample_token']}: {error}") from error

    def _check_cameras(self, channels: Sequence[str]) -> None:
        cameras = [sensor["channel"] for sensor in self._devkit.sensor if sensor["modality"] == "camera"]
        if unknown := [channel for channel in channels if channel not in cameras]:
            raise DatasetError(f"no camera {', '.join(unknown)} in {self.version}: its cameras are {', '.join(cameras)}")

    def _record(self, table: str, token: str) -> Record:
        try:
            return self._devkit.get(table, token)
        except KeyError as error:
            raise DatasetError(
                f"no {table} {token!r} in {self.version} under {self.root}: is the token from another version?"
            ) from error


def _choose_version(root: Path, version: str | None) -> str:
    """The version folder to open: the one asked for, else the only one that holds tables."""
    if not root.is_dir():
        raise DatasetError(f"no folder {root}: give the nuScenes root, the folder that holds v1.0-mini or another version")
    found = sorted(path.name for path in root.glob("v1.0-*") if any(path.glob("*.json")))
    if version is not None:
        if not (root / version).is_dir():
            raise DatasetError(f"no version {version!r} under {root}: there is {_some(found)}")
        return version
    if not found:
        here = ", ".join(sorted(path.name for path in root.iterdir())[:_NUM_LISTED_NAMES]) or "nothing"
        raise DatasetError(
            f"no nuScenes tables under {root}, expected a folder such as v1.0-mini with scene.json; there is {here}: "
            f"give the folder that holds the version folder"
        )
    if len(found) > 1:
        raise DatasetError(f"{root} holds several versions, {', '.join(found)}: name the one to open")
    return found[0]


def _check_files(root: Path, version: str) -> None:
    """Names what is missing before the devkit stumbles over it. The tables may be large and are not read here."""
    tables = root / version
    if absent := [f"{table}.json" for table in _TABLES if not (tables / f"{table}.json").is_file()]:
        raise DatasetError(f"{tables} lacks {', '.join(absent)}: nuScenes needs all {len(_TABLES)} tables, get them again")
    maps = _read_table(tables, "map")
    if not maps or any("log_tokens" not in record for record in maps):
        raise DatasetError(f"{tables}/map.json has no log_tokens: the teaser's tables are not supported, get v1.0 or newer")
    for record in maps:
        if not (root / record.get("filename", "")).is_file():
            raise DatasetError(f"no map file {root / record.get('filename', '')}, which map.json names: get maps/ again")


def _open_devkit(root: Path, version: str) -> _Devkit:
    try:
        from nuscenes.nuscenes import NuScenes  # here, so that the commands which read no drive do without the devkit
    except ImportError as error:
        raise DatasetError(f"nuScenes drives need nuscenes-devkit ({error}): pip install 'leo_edge[replay]'") from error
    try:
        with _table_errors(f"nuScenes {version} under {root}"):
            devkit: _Devkit = NuScenes(version=version, dataroot=str(root), verbose=False)
    except DatasetError:
        for table in _TABLES:  # the devkit does not say which table it could not parse
            _read_table(root / version, table)
        raise
    return devkit


def _read_table(tables: Path, name: str) -> list[Record]:
    path = tables / f"{name}.json"
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DatasetError(f"cannot read table {path} ({error}): it is truncated or altered, get it again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DatasetError(f"table {path} must be a list of records, got another JSON value: get it again")
    return records


@contextmanager
def _table_errors(what: str) -> Iterator[None]:
    """Says in one line which record the devkit could not follow, in place of its bare KeyError or AssertionError."""
    try:
        yield
    except _TABLE_ERRORS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{what}: the tables do not fit together ({reason}): get the version folder again") from error


def _sensor_from_ego(calibrated: Record) -> Matrix:
    """[4, 4], the inverse of a calibrated_sensor's pose: translation in metres and rotation (wxyz) of the sensor."""
    from nuscenes.utils.geometry_utils import transform_matrix  # with the devkit, see `_open_devkit`
    from pyquaternion import Quaternion

    matrix: Matrix = transform_matrix(calibrated["translation"], Quaternion(calibrated["rotation"]), inverse=True)
    return matrix


def _box(box: Any, ego_pose: Record) -> Box:
    """Turns a box of the devkit from global coordinates into the vehicle's."""
    from pyquaternion import Quaternion  # with the devkit, see `_open_devkit`

    box.translate(-np.array(ego_pose["translation"]))
    box.rotate(Quaternion(ego_pose["rotation"]).inverse)
    width, length, height = box.wlh.tolist()
    return Box(box.name, tuple(box.center.tolist()), (length, width, height), tuple(box.orientation.elements.tolist()))


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_NUM_LISTED_NAMES]) or "none"
    return listed + (f" and {len(names) - _NUM_LISTED_NAMES} more" if len(names) > _NUM_LISTED_NAMES else "")
