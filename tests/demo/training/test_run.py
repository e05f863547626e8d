"""From nothing to a checkpoint: a run far too short to learn much, but its losses fall."""

import re
from pathlib import Path

import pytest

from leo_edge.cli import main
from leo_edge.demo.training.config import Recipe, Sizes
from leo_edge.demo.training.experts import Progress
from leo_edge.demo.training.run import Work, train
from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import parse_config
from leo_edge.export.stages import expected_tensors
from tests.conftest import CommandLine

MICRO = Recipe(
    scenes=3,
    dev_scenes=2,
    expert_keyframes=24,
    aux_questions=640,
    joint_questions=640,
    mmoe_questions=320,
    last_questions=320,
    expert_rate=3e-3,
)


@pytest.mark.slow
def test_trains_a_checkpoint_and_does_not_do_twice_what_is_there(tmp_path: Path) -> None:
    heard: list[Progress] = []
    work = Work(tmp_path / "work")
    train(work, tmp_path / "first", MICRO, Sizes(num_queries=2), heard.append, processes=2)
    checkpoint = Checkpoint.open(tmp_path / "first")
    checkpoint.require(expected_tensors(parse_config(checkpoint.config)))
    assert {"dev after joint", "dev after mmoe", "dev after last"} <= {progress.stage for progress in heard}
    stamps = {path: path.stat().st_mtime_ns for path in work.directory.rglob("*.npy")}
    train(work, tmp_path / "second", MICRO.shortened(0.1), Sizes(num_queries=2), heard.append, processes=2)
    assert {path: path.stat().st_mtime_ns for path in work.directory.rglob("*.npy")} == stamps


class TestBadInput:
    def test_directory_that_is_there(self, tmp_path: Path, error_line: CommandLine) -> None:
        assert "exists already" in error_line("demo", "train", tmp_path)

    def test_share_of_nothing(self, tmp_path: Path, error_line: CommandLine) -> None:
        assert "--share 0.0" in error_line("demo", "train", tmp_path / "new", "--share", "0")


@pytest.mark.slow
def test_smoke_run_improves_every_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "train", str(tmp_path / "made"), "--work", str(tmp_path / "work"), "--smoke", "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    for stage, loss in (("cotr", "aux"), ("joint", "answer"), ("mmoe", "answer"), ("last", "answer")):
        values = [float(v) for v in re.findall(rf"^{stage} .*\b{loss} ([\d.]+)", err, re.MULTILINE)]
        assert values, stage
    answers = [float(v) for v in re.findall(r"^(?:joint|mmoe|last) .*\banswer ([\d.]+)", err, re.MULTILINE)]
    assert answers[-1] < 0.7 * answers[0]
