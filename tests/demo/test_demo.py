"""`leo-edge demo` and its drawn frames: everything runs from nothing, and says what its words are worth."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from leo_edge.cli import main
from leo_edge.commands.demo import PRESET, QUESTIONS
from leo_edge.demo.pattern import pattern_frames
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.conftest import CommandLine, MadeOnce
from tests.real_data import NUSCENES_REAL, needs_real_frames

STAGES = ["tiles", "vision.clip", "vision.sam", "prompt", "fuse", "router", "prefill", "decode", "answer"]


def shown(directory: Path) -> set[str]:
    """What `ls` shows."""
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def quick(tiny_bundles: MadeOnce, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes a bundle that is there already: exporting is what takes the demo's time."""

    def copy_bundle(checkpoint: Path, bundle: Path, *_: object) -> None:
        assert (checkpoint / "config.json").is_file()
        shutil.copytree(tiny_bundles[PRESET], bundle)

    monkeypatch.setattr("leo_edge.export.exporter.export_bundle", copy_bundle)


def test_from_nothing_to_answers_and_latencies(
    tmp_path: Path,
    session_cache: Path,  # noqa: ARG001 - wanted for what it does
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "Six cameras (drawn frames), onnxruntime " in out
    assert "The weights are random, so the words mean nothing" in out
    assert re.findall(r"^Q: (.*)$", out, re.MULTILINE) == list(QUESTIONS)
    assert len(re.findall(r"^A: .*\n   \(\d+ tokens, (?:length|stop_token)\)$", out, re.MULTILINE)) == len(QUESTIONS)
    assert re.findall(r"(\S+) +\d+\.\d$", out, re.MULTILINE) == STAGES
    prompt, context, visual = map(int, re.findall(r"prompt (\d+) of (\d+) tokens, (\d+) of them visual", out)[0])
    assert visual < prompt < context
    assert f"exporting it to {tmp_path / 'out' / 'bundle'}" in err
    assert shown(tmp_path / "out") == {"checkpoint", "bundle"}
    assert open_bundle(tmp_path / "out" / "bundle").manifest.family == "leo_mini"


@pytest.mark.usefixtures("quick")
class TestAgain:
    def test_replaces_what_its_last_run_wrote_and_nothing_else(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        answers = []
        for _ in range(2):
            assert main(["demo", "--out", str(tmp_path)]) == 0
            answers.append(re.findall(r"^A: .*$", capsys.readouterr().out, re.MULTILINE))
        assert answers[0] == answers[1]
        assert shown(tmp_path) == {"checkpoint", "bundle", "mine.txt"}
        assert (tmp_path / "mine.txt").read_text() == "mine"

    def test_leaves_a_checkpoint_alone_that_is_not_its_own(self, tmp_path: Path, error_line: CommandLine) -> None:
        (tmp_path / "checkpoint").mkdir()
        (tmp_path / "checkpoint" / "trained.safetensors").write_text("mine")
        assert str(tmp_path / "checkpoint") in error_line("demo", "--out", tmp_path)
        assert (tmp_path / "checkpoint" / "trained.safetensors").read_text() == "mine"

    def test_dataset_that_is_not_there_is_noticed_before_anything_is_written(
        self, tmp_path: Path, error_line: CommandLine
    ) -> None:
        assert "no folder" in error_line("demo", "--out", tmp_path / "out", "--nuscenes", tmp_path / "absent")
        assert not list(tmp_path.iterdir())

    @needs_real_frames
    def test_takes_real_frames_where_they_are(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--out", str(tmp_path / "drawn")]) == 0
        assert main(["demo", "--out", str(tmp_path / "real"), "--nuscenes", str(NUSCENES_REAL)]) == 0
        drawn, real = capsys.readouterr().out.split("Six cameras ")[1:]
        assert f"(scene-0061 of {NUSCENES_REAL})" in real
        assert re.findall(r"^A: .*$", drawn, re.MULTILINE) != re.findall(r"^A: .*$", real, re.MULTILINE)


class TestPattern:
    def test_draws_a_whole_frame_set(self) -> None:
        frame_set = pattern_frames()
        frame_set.require_complete()
        assert frame_set.channels == NUSCENES_CAMERAS
        assert {frame.image.shape for frame in frame_set.frames.values()} == {(900, 1600, 3)}

    def test_a_seed_gives_the_same_frames_and_another_seed_others(self) -> None:
        first, again, other = (pattern_frames(seed).frames for seed in (3, 3, 4))
        for channel in NUSCENES_CAMERAS:
            assert np.array_equal(first[channel].image, again[channel].image)
            assert not np.array_equal(first[channel].image, other[channel].image)

    def test_every_camera_sees_something_else(self) -> None:
        images = [frame.image.tobytes() for frame in pattern_frames().frames.values()]
        assert len(set(images)) == len(images)
