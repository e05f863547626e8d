"""`leo-edge bench`: a result that can be read again, alone, in turns with a bundle, in turns with a command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leo_edge.bench.result import BenchResult, read_result
from leo_edge.cli import main
from leo_edge.export.cost import Workload, bundle_costs
from leo_edge.runtime.bundle import open_bundle
from tests.conftest import CommandLine, MadeOnce

Bench = Callable[..., str]
_SMALL = "--cameras 1 --max-tiles 1 --max-new-tokens 3 --repeat 3 --threads 1 --backend ort"
_PEER = 'import sys\nfor _ in sys.stdin: print(\'{"ms": {"prefill": 9999.0, "think": 1.0}}\', flush=True)'


@pytest.fixture
def bench(micro_bundles: MadeOnce, capsys: pytest.CaptureFixture[str]) -> Bench:
    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["bench", str(micro_bundles["plain"]), *_SMALL.split(), *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


def _counted(result: BenchResult) -> dict[str, int | None]:
    return {name: stage.flops for name, stage in result.stages.items() if stage.flops is not None}


def test_a_result_holds_samples_costs_and_the_machine(bench: Bench, micro_bundles: MadeOnce, tmp_path: Path) -> None:
    out = bench("--no-limits", "--json", tmp_path / "r.json")
    result, bundle = read_result(tmp_path / "r.json"), open_bundle(micro_bundles["plain"])
    assert list(result.stages)[-2:] == ["first_token", "answer"]
    assert {len(stage.samples_ms) for stage in result.stages.values()} == {3}
    assert (result.bundle_id, result.precision, result.machine.threads) == (bundle.id, "float32", 1)
    load = result.load
    assert (load.cameras, load.tiles_per_camera, load.answer_tokens) == (1, 1, 3)
    costs = bundle_costs(bundle, Workload(1, 1, load.text_tokens, load.question_tokens))
    assert _counted(result) == {stage.stage: stage.cost.flops for stage in costs}
    assert {stage.precision for stage in result.stages.values()} == {"float32", None}
    assert 20e6 < result.peak_memory_bytes < result.machine.memory_bytes
    assert f"id {bundle.id}, float32" in out
    assert "limits here    not measured" in out


def test_limits_are_measured_unless_they_are_left_out(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leo_edge.commands.bench_sides.LIMIT_SECONDS", 0.01)
    out = bench("--json", tmp_path / "r.json")
    machine = read_result(tmp_path / "r.json").machine
    assert min(machine.read_gb_s or 0, machine.gemm_fp32_gops or 0, machine.gemm_int8_gops or 0) > 0
    assert "% float32" in out


def test_two_bundles_are_measured_in_turns_and_each_has_its_file(bench: Bench, micro_bundles: MadeOnce, tmp_path: Path) -> None:
    out = bench("--no-limits", "--vs", micro_bundles["fused"], "--json", tmp_path / "r.json")
    ours, theirs = read_result(tmp_path / "r.json"), read_result(tmp_path / "r.vs.json")
    assert ours.run_id == theirs.run_id
    assert ours.bundle_id != theirs.bundle_id
    assert theirs.precision == "float16"
    assert list(ours.stages) == list(theirs.stages)
    table = out[out.index("B / A") :]
    assert all(name in table for name in ours.stages)


def test_a_command_is_measured_in_turns(bench: Bench, tmp_path: Path) -> None:
    out = bench("--no-limits", "--vs", shlex.join([sys.executable, "-c", _PEER]), "--json", tmp_path / "r.json")
    theirs = read_result(tmp_path / "r.vs.json")
    assert theirs.stages["prefill"].samples_ms == (9999.0,) * 3
    assert theirs.stages["answer"].samples_ms == (10000.0,) * 3
    assert theirs.stages["think"].per == "question"
    prefill = next(line for line in out.splitlines() if line.startswith("prefill") and "B is" in line)
    assert prefill.endswith("B is slower")
    assert "only B has: think" in out


def test_images_of_a_folder_are_what_is_asked_about(bench: Bench, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (320, 180)).save(tmp_path / "CAM_FRONT.png")
    bench("--no-limits", "--frames", tmp_path, "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["load"]["image_px"] == [320, 180]


@pytest.mark.parametrize(
    ("arguments", "stated"),
    [
        ("--repeat 1", "--repeat must be at least 2, got 1"),
        ("--max-new-tokens 1", "--max-new-tokens must be at least 2, got 1"),
        ("--cameras 0", "--cameras must be at least 1, got 0"),
        ("--frames no/such", "no folder no/such"),
        ("--json no/such/r.json", "make it first"),
        ("--cameras 1 --max-tiles 1 --vs no-such-command", "cannot start --vs 'no-such-command'"),
        ("--cameras 1 --max-tiles 1 --vs true", "--vs 'true' ended with exit code 0"),
        ("--cameras 1 --max-tiles 1 --vs tests", "no bundle.json in tests"),
        ("--max-new-tokens 100000", "ask for fewer"),
    ],
)
def test_what_cannot_be_measured_is_one_error(
    error_line: CommandLine, micro_bundles: MadeOnce, arguments: str, stated: str
) -> None:
    assert stated in error_line("bench", micro_bundles["plain"], *arguments.split())
