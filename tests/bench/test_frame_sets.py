"""Frame sets: drawn, from a folder of images, from a drive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leo_edge.bench.frame_sets import MOST_SETS, noise_frame_sets, read_frame_sets
from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.replay.folders import write_drive


def _images(directory: Path, names: list[str]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (16, 9), (i, 0, 0)).save(directory / f"{name}.png")
    return directory


def _drive(directory: Path, num_frames: int) -> Path:
    for camera in ("A", "B"):
        _images(directory / camera, [f"{stamp:03d}" for stamp in range(num_frames)])
    cameras = {camera: {"images": f"{camera}/*.png", "hz": 10} for camera in ("A", "B")}
    return write_drive(directory, cameras)


def test_noise_is_the_same_from_one_seed_and_differs_from_set_to_set() -> None:
    first, again, other = (noise_frame_sets(2, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first[0].channels == NUSCENES_CAMERAS[:2]
    image = first[0].frames["CAM_FRONT"].image
    assert image.shape == (900, 1600, 3)
    np.testing.assert_array_equal(image, again[0].frames["CAM_FRONT"].image)
    assert (image != other[0].frames["CAM_FRONT"].image).any()
    assert (image != first[1].frames["CAM_FRONT"].image).any()


def test_noise_has_names_for_more_cameras_than_nuscenes() -> None:
    assert noise_frame_sets(8, np.random.default_rng(0))[0].channels[5:] == ("CAM_BACK_RIGHT", "CAM_6", "CAM_7")


def test_a_folder_of_images_is_one_set_in_prompt_order(tmp_path: Path) -> None:
    folder = _images(tmp_path, ["CAM_BACK", "roof", "CAM_FRONT", "bumper"])
    (folder / "notes.txt").write_text("no image")
    (frame_set,) = read_frame_sets(folder)
    assert frame_set.channels == ("CAM_FRONT", "CAM_BACK", "bumper", "roof")
    assert frame_set.frames["roof"].image[0, 0, 0] == 1
    assert read_frame_sets(folder, 2)[0].channels == ("CAM_FRONT", "CAM_BACK")


@pytest.mark.parametrize(("num_frames", "reds"), [(2, [0, 1]), (9, [0, 2, 4, 6])])
def test_sets_are_spread_over_a_drive(tmp_path: Path, num_frames: int, reds: list[int]) -> None:
    sets = read_frame_sets(_drive(tmp_path, num_frames))
    assert len(sets) <= MOST_SETS
    assert [int(each.frames["B"].image[0, 0, 0]) for each in sets] == reds
    assert all(each.channels == ("A", "B") for each in sets)


def test_what_has_no_images_or_too_few_cameras_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"no folder .*: expected images, a drive"):
        read_frame_sets(tmp_path / "absent")
    with pytest.raises(FrameError, match=r"no image in .*such as CAM_FRONT\.jpg"):
        read_frame_sets(tmp_path)
    with pytest.raises(FrameError, match=r"has 1 cameras \(CAM_FRONT\), expected 2: ask for fewer"):
        read_frame_sets(_images(tmp_path, ["CAM_FRONT"]), 2)
