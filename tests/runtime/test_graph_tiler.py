"""runtime/graph_tiler.py: the tiles of TileBatch, camera by camera, from the exported graph; nothing is uploaded twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from leo_edge.runtime.backend import Tensor
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet, load_frame
from leo_edge.runtime.graph_tiler import GraphTiler
from leo_edge.runtime.ort import OrtSession
from leo_edge.runtime.tiles import TileBatch, TilingConfig
from tests.conftest import MadeOnce
from tests.export.tiles_graph import difference, hard_picture, open_tiles_graph
from tests.real_data import NUSCENES_REAL, needs_real_frames

PX = 28
# 2 x 1, 1 x 1, 1 x 3 and 3 x 2 tiles of 28 pixels; all but the second with a thumbnail.
SIZES = {"CAM_FRONT": (160, 90), "CAM_FRONT_LEFT": (30, 33), "CAM_FRONT_RIGHT": (40, 100), "CAM_BACK": (150, 99)}
CONFIG = TilingConfig(PX)


@dataclass(frozen=True)
class OnDevice:
    """What an engine keeps: no array, so that nothing may be done with it."""

    array: Any


@dataclass
class DeviceSession:
    """A session that takes and gives nothing but what is on the device, and keeps what it was given."""

    session: OrtSession
    uploads: list[Any] = field(default_factory=list)
    given: list[dict[str, OnDevice]] = field(default_factory=list)

    def upload(self, array: Any) -> OnDevice:
        self.uploads.append(array)
        return OnDevice(array)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.given.append(dict(inputs))
        assert all(isinstance(value, OnDevice) for value in inputs.values())
        outputs = self.session.run({name: value.array for name, value in inputs.items()})
        return {name: OnDevice(array) for name, array in outputs.items()}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> OrtSession:
    return open_tiles_graph(tmp_path_factory.mktemp("tiles"), PX, 20)


def frame_set(sizes: Mapping[str, tuple[int, int]], stamp_ns: int = 5) -> FrameSet:
    frames = [CameraFrame(channel, hard_picture(*size), stamp_ns + i) for i, (channel, size) in enumerate(sizes.items())]
    return FrameSet.of(frames)


def check(session: OrtSession, frames: FrameSet, config: TilingConfig) -> None:
    """Holds all that `cut` returns against TileBatch."""
    batch = TileBatch.from_frames(frames, config)
    cut = GraphTiler(session).cut(frames, config)
    assert tuple(camera.channel for camera in cut) == batch.channels
    assert tuple(camera.count for camera in cut) == batch.counts
    assert tuple(camera.stamp_ns for camera in cut) == batch.stamps_ns
    for camera in cut:
        assert len(camera.parts) == (1 if camera.count == 1 or not config.use_thumbnail else 2)
        np.testing.assert_array_equal(np.concatenate(camera.parts), batch.of_channel(camera.channel))


@pytest.mark.parametrize("most", [1, 2, 6])
@pytest.mark.parametrize("use_thumbnail", [True, False])
def test_tiles_are_those_of_the_cpu_path_in_its_order(session: OrtSession, most: int, use_thumbnail: bool) -> None:
    """Sizes for which PIL takes columns first in every version."""
    sizes = {"CAM_FRONT": (160, 90), "CAM_FRONT_LEFT": (30, 28), "CAM_BACK": (150, 99)}
    check(session, frame_set(sizes), TilingConfig(PX, max_tiles=most, use_thumbnail=use_thumbnail))


def test_missing_cameras_give_no_tiles(session: OrtSession) -> None:
    cut = GraphTiler(session).cut(frame_set({"CAM_BACK": (160, 90)}), CONFIG)
    assert [camera.channel for camera in cut] == ["CAM_BACK"]


def test_grids_are_those_of_the_rule_also_with_fewer_tiles(session: OrtSession) -> None:
    tiler, frames = GraphTiler(session), frame_set(SIZES)
    for most in (1, 2, 3, 6):
        config = CONFIG.at_most(most)
        counts = TileBatch.from_frames(frames, config).counts
        cut = tiler.cut(frames, config)
        assert tuple(camera.count for camera in cut) == counts
        assert tuple(sum(len(part) for part in camera.parts) for camera in cut) == counts


def test_every_frame_and_every_matrix_goes_up_once(session: OrtSession) -> None:
    device = DeviceSession(session)
    tiler = GraphTiler(device, device.upload)
    first, second = frame_set(SIZES), frame_set(SIZES, 9)
    tiler.cut(first, CONFIG)
    images = [frame.image for frame in first.frames.values()]
    matrices = [array for array in device.uploads if array.dtype == np.float32]
    assert [id(array) for array in device.uploads if array.dtype == np.uint8] == [id(image) for image in images]
    assert len(device.given) == len(SIZES) + 3  # three of four grids have a thumbnail
    uploaded = len(device.uploads)
    tiler.cut(second, CONFIG)
    assert [array.dtype for array in device.uploads[uploaded:]] == [np.dtype(np.uint8)] * len(SIZES)
    assert len({array.shape for array in matrices}) * 2 == len(matrices)  # an upper and a lower of each, none twice


def test_the_session_gets_the_same_objects_again(session: OrtSession) -> None:
    device = DeviceSession(session)
    tiler = GraphTiler(device, device.upload)
    for _ in range(2):
        tiler.cut(frame_set(SIZES), CONFIG)
    half = len(device.given) // 2
    for before, after in zip(device.given[:half], device.given[half:], strict=True):
        assert before["image"] is not after["image"]
        assert all(before[name] is after[name] for name in before if name != "image")


def test_a_grid_of_one_row_shares_its_rows_with_the_thumbnail(session: OrtSession) -> None:
    device = DeviceSession(session)
    GraphTiler(device, device.upload).cut(frame_set({"CAM_FRONT": (160, 90)}), CONFIG)
    grid, thumbnail = device.given
    assert grid["image"] is thumbnail["image"]
    assert grid["rows_upper"] is thumbnail["rows_upper"]
    assert grid["columns_upper"] is not thumbnail["columns_upper"]


def test_matrices_of_sizes_long_gone_are_let_go(session: OrtSession) -> None:
    """A folder of images of a thousand sizes must not fill the memory."""
    device = DeviceSession(session)
    tiler = GraphTiler(device, device.upload)

    def num_uploaded(width: int, height: int) -> int:
        before = len(device.uploads)
        tiler.cut(frame_set({"CAM_FRONT": (width, height)}), CONFIG)
        return len(device.uploads) - before

    first = num_uploaded(160, 90)
    assert first == 1 + 6  # the frame; columns of grid and thumbnail, and their rows, each in two parts
    assert num_uploaded(160, 90) == 1
    for i in range(20):
        num_uploaded(162 + 2 * i, 91 + i)
    assert num_uploaded(160, 90) == first


def test_the_bundle_has_the_graph_for_its_own_tiles(tiny_bundles: MadeOnce) -> None:
    bundle = open_bundle(tiny_bundles["leo-mini-tiny"])
    spec = bundle.manifest.graphs["tiles"]
    check(OrtSession(bundle.path(spec.file), spec), frame_set({"CAM_FRONT": (1600, 900)}), bundle.manifest.tiling)


@needs_real_frames
def test_real_frames_of_six_cameras(tmp_path_factory: pytest.TempPathFactory) -> None:
    paths = [sorted((NUSCENES_REAL / "samples" / channel).glob("*.jpg"))[0] for channel in NUSCENES_CAMERAS]
    frames = FrameSet.of([load_frame(channel, path) for channel, path in zip(NUSCENES_CAMERAS, paths, strict=True)])
    config = TilingConfig(448)
    session = open_tiles_graph(tmp_path_factory.mktemp("tiles"), config.tile_px, 24)
    check(session, frames, config)
    other = TileBatch.from_frames(frames, config)
    off = difference(other.of_channel("CAM_FRONT"), other.of_channel("CAM_BACK"))
    assert (off > 1).mean() > 0.5  # the control: another camera's tiles are others
