"""replay/drive_file.py: what a drive.json may say, and one line for everything that it may not."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from leo_edge.replay.drive_file import ImageFiles, VideoFile, read_drive_file
from leo_edge.runtime.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("front/b_20.jpg", "front/a_10.jpg", "front/c_35.jpg", "back/0.png", "back/1.png", "v.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write(folder: Path, value: object) -> Path:
    (folder / "drive.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def one_camera(folder: Path, **keys: Any) -> ImageFiles | VideoFile:
    return read_drive_file(write(folder, {"cameras": {"A": keys}})).cameras[0]


def test_cameras_are_in_the_order_of_the_file_and_keyframes_by_token(folder: Path) -> None:
    cameras = {"B": {"images": "back/*", "hz": 2}, "A": {"video": "v.mp4", "start_ns": 7}}
    write(folder, {"cameras": cameras, "keyframes": {"k": 5}, "keyframe_tolerance_ms": 1.5})
    file = read_drive_file(folder)
    assert [camera.channel for camera in file.cameras] == ["B", "A"]
    assert file.cameras[1] == VideoFile("A", folder / "v.mp4", 7)
    assert (file.keyframes, file.tolerance_ns) == ({"k": 5}, 1_500_000)
    assert file.sha256 == hashlib.sha256((folder / "drive.json").read_bytes()).hexdigest()


def test_a_pattern_is_in_the_order_of_names_and_their_last_digits_are_stamps(folder: Path) -> None:
    names = tuple(folder / "front" / name for name in ("a_10.jpg", "b_20.jpg", "c_35.jpg"))
    assert one_camera(folder, images="front/*.jpg", stamps_us="names") == ImageFiles("A", names, (10_000, 20_000, 35_000))
    assert one_camera(folder, images="front/*.jpg", stamps_ns="names") == ImageFiles("A", names, (10, 20, 35))


def test_a_list_is_in_its_own_order_with_its_own_stamps(folder: Path) -> None:
    camera = one_camera(folder, images=["back/1.png", "back/0.png"], stamps_ns=[3, 9])
    assert camera == ImageFiles("A", (folder / "back/1.png", folder / "back/0.png"), (3, 9))


def test_a_rate_makes_stamps(folder: Path) -> None:
    camera = one_camera(folder, images="front/*", hz=12, start_ns=1_532_402_927_612_460_000)
    assert isinstance(camera, ImageFiles)
    assert [stamp - 1_532_402_927_612_460_000 for stamp in camera.stamps_ns] == [0, 83_333_333, 166_666_667]


FRONT = {"images": "front/*.jpg"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", r"cannot read .*drive\.json \(Expecting property name.*\): it must be JSON"),
        ([], r"drive\.json must be an object, got \[\]"),
        ({}, "cameras must be an object, got nothing"),
        ({"cameras": {}}, "cameras names no camera"),
        ({"cameras": {"A": FRONT | {"hz": 1}}, "camera": 1}, "unknown keys camera: take them out"),
        ({"cameras": {"A": "front"}}, 'A must be an object, got "front"'),
        ({"cameras": {"A": {"hz": 1}}}, "camera A must have one of images, video, got none"),
        ({"cameras": {"A": FRONT | {"video": "v.mp4"}}}, "one of images, video, got images and video"),
        ({"cameras": {"A": FRONT}}, "one of hz, stamps_ns, stamps_us, got none"),
        ({"cameras": {"A": FRONT | {"hz": 1, "stamps_us": "names"}}}, "got hz and stamps_us"),
        ({"cameras": {"A": FRONT | {"hz": 0}}}, "hz must be 0.001 to 10000 images a second, got 0"),
        ({"cameras": {"A": FRONT | {"hz": True}}}, "hz must be a whole number or a number, got true"),
        ({"cameras": {"A": FRONT | {"hz": 1, "start": 1}}}, "camera A has unknown keys start"),
        ({"cameras": {"A": FRONT | {"hz": 1, "start_ns": -1}}}, "start_ns must be at least 0, got -1"),
        ({"cameras": {"A": FRONT | {"hz": 1, "start_ns": 1.5}}}, "start_ns must be a whole number, got 1.5"),
        ({"cameras": {"A": FRONT | {"stamps_ns": [1, 2]}}}, "stamps_ns has 2 stamps for 3 images: give one for each"),
        ({"cameras": {"A": FRONT | {"stamps_ns": [1, 2, 2]}}}, "must rise, got 2 ns for b_20.jpg and then 2 ns for c_35.jpg"),
        ({"cameras": {"A": FRONT | {"stamps_ns": [1, 2.5, 3]}}}, 'whole numbers from 0 on, or "names", got'),
        ({"cameras": {"A": FRONT | {"stamps_ns": "name"}}}, 'or "names", got "name"'),
        ({"cameras": {"A": {"images": "side/*.jpg", "hz": 1}}}, r"no file .*/side/\*\.jpg: check the pattern"),
        ({"cameras": {"A": {"images": ["front/d.jpg"], "hz": 1}}}, r"no file .*/front/d\.jpg: check the name"),
        ({"cameras": {"A": {"images": [], "hz": 1}}}, r"images must be names of files, got \[\]"),
        ({"cameras": {"A": {"images": [1], "hz": 1}}}, r"images must be names of files, got \[1\]"),
        ({"cameras": {"A": {"images": "../*.jpg", "hz": 1}}}, r"must lie in the folder of the drive\.json, got '\.\./\*\.jpg'"),
        ({"cameras": {"A": {"images": ["/etc/hosts"], "hz": 1}}}, "must lie in the folder of the drive.json, got '/etc/hosts'"),
        ({"cameras": {"A": {"video": "w.mp4"}}}, r"no file .*/w\.mp4"),
        ({"cameras": {"A": {"video": ""}}}, "must lie in the folder"),
        ({"cameras": {"A": {"video": "v.mp4", "hz": 12}}}, "camera A has unknown keys hz"),
        ({"cameras": {"A": FRONT | {"hz": 1}}, "keyframes": {"k": "5"}}, 'keyframes: k must be a whole number, got "5"'),
        ({"cameras": {"A": FRONT | {"hz": 1}}, "keyframe_tolerance_ms": 0}, "keyframe_tolerance_ms must be above 0, got 0"),
    ],
)
def test_what_it_may_not_say(folder: Path, value: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_drive_file(write(folder, value))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no .*drive\.json: give a folder with a drive\.json that says whose images"):
        read_drive_file(tmp_path)


def test_names_without_digits(folder: Path) -> None:
    (folder / "front" / "last.jpg").touch()
    with pytest.raises(DatasetError, match=r'stamps are to be in the "names", last\.jpg has no digits: rename it, or give hz'):
        one_camera(folder, images="front/*.jpg", stamps_us="names")
