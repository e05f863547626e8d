"""What the tests of `replay` share: two drawn drives, questions about them, and the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leo_edge.cli import main
from tests.conftest import MadeOnce
from tests.doubles.fixtures import edge_machine, machine_environment  # noqa: F401 - fixtures

Replay = Callable[..., dict[str, Any]]


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scenes of 2 s with all camera frames, and their questions."""
    from leo_edge.demo.dataset.plan import DatasetOptions
    from leo_edge.demo.dataset.writer import write_dataset

    root = tmp_path_factory.mktemp("world") / "drawn"
    write_dataset(root, DatasetOptions(num_scenes=2, split="train", seconds=2.0, size_px=(160, 90)), processes=1)
    return root


@pytest.fixture(scope="package")
def few_questions(world: Path) -> Path:
    """Some questions about each keyframe but the second, whose answers a random model takes long enough to write."""
    raw = json.loads((world / "questions" / "train.json").read_text())
    by_sample: dict[str, list[Any]] = {}
    for question in raw["questions"]:
        by_sample.setdefault(question["sample_token"], []).append(question)
    samples = [sample for i, sample in enumerate(by_sample) if i != 1]
    path = world / "questions" / "few.json"
    path.write_text(json.dumps({"questions": [q for sample in samples for q in by_sample[sample][::12]]}))
    return path


@pytest.fixture
def bundle(tiny_bundles: MadeOnce) -> Path:
    return tiny_bundles["leo-mini-tiny"]


@pytest.fixture
def replay(bundle: Path, world: Path, few_questions: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    """Replays the drawn world, or what the arguments say; returns the summary that is printed."""

    def run(out: Path, *arguments: object) -> dict[str, Any]:
        given = [str(argument) for argument in arguments]
        given += [] if {"--nuscenes", "--folders", "--bags"} & set(given) else ["--nuscenes", str(world)]
        given += [] if "--questions" in given else ["--questions", str(few_questions)]
        capsys.readouterr()
        assert main(["replay", str(bundle), "--out", str(out), "--max-new-tokens", "3", "--json", *given]) == 0
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert json.loads((out / "summary.json").read_text()) == summary
        return summary

    return run
