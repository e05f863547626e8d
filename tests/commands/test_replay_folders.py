"""`leo-edge replay --folders`: a scene as folders of images and as videos is answered as the dataset that it is from."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import Replay
from tests.conftest import CommandLine
from tests.replay.folders import scene_as_images, scene_as_videos, write_drive

SCENE = "scene-0000"


def what_was_said(out: Path) -> list[tuple[str, str, str]]:
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    return [(line["id"], line["sample"], line["answer"]) for line in lines]


@pytest.fixture
def of_the_dataset(replay: Replay, tmp_path: Path) -> list[tuple[str, str, str]]:
    replay(tmp_path / "dataset", "--scenes", SCENE)
    return what_was_said(tmp_path / "dataset")


def test_images(replay: Replay, world: Path, tmp_path: Path, of_the_dataset: list[tuple[str, str, str]]) -> None:
    folder = scene_as_images(world, SCENE, tmp_path / SCENE)
    summary = replay(tmp_path / "run", "--folders", folder)
    assert what_was_said(tmp_path / "run") == of_the_dataset
    assert summary["sets"] == {"there": 4, "taken": 3, "dropped": 0}
    everything = replay(tmp_path / "all", "--folders", folder, "--all-frames")
    assert everything["sets"]["there"] == 3 * 6 + 1
    assert what_was_said(tmp_path / "all") == of_the_dataset


def test_videos(replay: Replay, world: Path, tmp_path: Path, of_the_dataset: list[tuple[str, str, str]]) -> None:
    folder = scene_as_videos(world, SCENE, tmp_path / SCENE)
    replay(tmp_path / "run", "--folders", folder)
    assert what_was_said(tmp_path / "run") == of_the_dataset
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    spread = replay(tmp_path / "rate", "--folders", folder, "--all-frames", "--rate", "4", "--questions", "builtin:driving")
    assert spread["sets"]["there"] == 3 * 6 + 1


def test_a_folder_without_keyframes_plays_all_frames(replay: Replay, world: Path, tmp_path: Path) -> None:
    folder = scene_as_images(world, SCENE, tmp_path / SCENE)
    drive = json.loads((folder / "drive.json").read_text())
    write_drive(folder, drive["cameras"])
    summary = replay(tmp_path / "run", "--folders", folder, "--questions", "builtin:driving", "--cameras", "CAM_FRONT")
    assert summary["answers"]["answered"] == 5 * (3 * 6 + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --nuscenes --folders --bags is required"),
        (["--folders", "d", "--nuscenes", "n"], "not allowed with argument"),
        (
            ["--folders", "d", "--scenes", "a"],
            "--scenes chooses from a --nuscenes dataset: leave it out and name the --folders",
        ),
        (["--folders", "d", "--version", "v1.0-mini"], "--version chooses from a --nuscenes dataset"),
        (["--folders", "d"], "no d/drive.json: give a folder with a drive.json"),
    ],
)
def test_bad_input(bundle: Path, tmp_path: Path, error_line: CommandLine, arguments: list[str], message: str) -> None:
    given = ["--out", tmp_path / "run", "--questions", "builtin:driving", *arguments]
    assert message in error_line("replay", bundle, *given)
    assert not (tmp_path / "run").exists()


def test_a_broken_video_is_one_line(bundle: Path, tmp_path: Path) -> None:
    """In a process of its own: OpenCV's FFmpeg writes to stderr what it thinks of a file."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "v.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\0" * 500)
    write_drive(tmp_path / "d", {"A": {"video": "v.mp4"}})
    given = ["--out", str(tmp_path / "run"), "--questions", "builtin:driving", "--folders", str(tmp_path / "d")]
    ran = subprocess.run(
        [sys.executable, "-m", "leo_edge", "replay", bundle, *given], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.findall(r"^.*(?:v\.mp4|FFMPEG).*$", ran.stderr, re.MULTILINE) == ran.stderr.splitlines()[-1:]
    assert ran.stderr.splitlines()[-1].startswith("error: cannot open video")
