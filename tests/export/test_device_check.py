"""export/device_check.py on the double: a device that computes the same passes, one that does not fails, stage by stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leo_edge.cli import main
from leo_edge.export.device_check import _judge, check_device
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.pipeline import Pipeline, open_pipeline
from tests.conftest import CommandLine, MadeOnce
from tests.doubles.fixtures import InstallMachine


class Wrong:
    """A session whose outputs are a little off."""

    def __init__(self, session: Any, change: Callable[[Any], Any]) -> None:
        self._session, self._change = session, change

    def run(self, inputs: Any) -> dict[str, Any]:
        return {name: self._change(np.asarray(array)) for name, array in self._session.run(inputs).items()}


@pytest.fixture
def reference(micro_bundles: MadeOnce) -> Pipeline:
    return open_pipeline(micro_bundles["plain"], "ort")


def test_the_same_engine_passes_everywhere(reference: Pipeline) -> None:
    report = check_device(open_pipeline(reference.bundle, "ort"), reference, max_new_tokens=4)
    assert report.passed
    assert [stage.name for stage in report.stages] == ["vision.vit", "fuse", "router", "llm prefill", "llm step"]
    assert (report.num_tokens, report.tokens_equal) == (8, 8)
    assert all(wanted == got for wanted, got in report.answers)


@pytest.mark.parametrize("name", ["vision.vit", "fuse", "router"])
def test_a_stage_that_is_off_is_named(reference: Pipeline, name: str) -> None:
    sessions = {**reference.sessions, name: Wrong(reference.sessions[name], lambda array: array * 1.01)}
    report = check_device(replace(reference, sessions=sessions), reference, max_new_tokens=2)
    assert not report.passed
    assert [stage.name for stage in report.stages if not stage.passed] == [name]


def test_a_language_model_that_is_off_is_named(reference: Pipeline, micro_bundles: MadeOnce) -> None:
    other = open_pipeline(micro_bundles["plain"], "ort")
    rows: Any = other.table
    rows._rows = rows._rows[::-1]  # another embedding for each token
    report = check_device(replace(reference, decoder=other.decoder), reference, max_new_tokens=4)
    assert [stage.name for stage in report.stages if not stage.passed] == ["llm step"]
    assert not report.passed


@pytest.mark.parametrize("first", [True, False])
def test_what_is_not_a_number_does_not_pass(first: bool) -> None:
    fine, broken = np.ones(3, np.float32), np.array([1, np.nan, 1], np.float32)
    pairs = [(broken, fine), (fine, fine)] if first else [(fine, fine), (broken, fine)]
    assert not _judge("stage", pairs, (1.0, 1.0), (1e-3, 0.999)).passed
    assert _judge("stage", [(fine, fine)], (1.0, 1.0), (1e-3, 0.999)).passed


class TestCommand:
    def test_builds_what_is_missing_and_prints_a_table(
        self, edge_machine: InstallMachine, micro_bundles: MadeOnce, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = copied(micro_bundles["plain"], tmp_path)
        edge_machine()
        assert main(["device-check", str(bundle), "--max-new-tokens", "3"]) == 0
        out, err = capsys.readouterr()
        assert "llm: built in" in err
        assert "- device: TensorRT 10.3.0 Orin" in out
        assert out.count("| ok |") == 5
        assert out.splitlines()[-1] == "passed"
        assert main(["device-check", str(bundle), "--max-new-tokens", "3", "--json"]) == 0
        out, err = capsys.readouterr()
        assert "built" not in err
        report = json.loads(out)
        assert report["passed"]
        assert report["bundle"].startswith(open_bundle(bundle).id)

    def test_without_a_device(self, edge_machine: InstallMachine, micro_bundles: MadeOnce, error_line: CommandLine) -> None:
        edge_machine(faults=("no-device",))
        assert "no CUDA device here" in error_line("device-check", micro_bundles["plain"])

    def test_without_tensorrt(self, edge_machine: InstallMachine, micro_bundles: MadeOnce, error_line: CommandLine) -> None:
        edge_machine(faults=("no-tensorrt",))
        assert "TensorRT's Python package is not installed" in error_line("device-check", micro_bundles["plain"])

    def test_of_a_provider_that_is_not_here(self, micro_bundles: MadeOnce, error_line: CommandLine) -> None:
        line = error_line("device-check", micro_bundles["plain"], "--backend", "ort-cuda")
        assert "has no CUDAExecutionProvider" in line


def copied(bundle: Path, to: Path) -> Path:
    return Path(shutil.copytree(bundle, to / "bundle"))
