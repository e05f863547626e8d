"""`leo-edge plan`: counts of a real bundle, what is printed, and what is refused."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from leo_edge.bench.devices import device_of
from leo_edge.bench.plan import Predictor
from leo_edge.bench.plan_fit import setting_of
from leo_edge.bench.plan_work import Setting, WorkCounter
from leo_edge.bench.result import BenchResult, Load, StageSamples
from leo_edge.cli import main
from leo_edge.commands.plan_costs import bundle_counter
from leo_edge.export.cost import Workload, bundle_costs
from leo_edge.runtime.bundle import open_bundle
from tests.bench.made_results import LOAD, MACHINE, made_result
from tests.conftest import CommandLine, MadeOnce

THIS = replace(MACHINE, device="a desk", read_gb_s=20.0, gemm_fp32_gops=100.0, gemm_int8_gops=400.0)
LOADS = [
    replace(LOAD, cameras=cameras, tiles_per_camera=tiles, visual_tokens=16 * cameras, answer_tokens=tokens)
    for cameras, tiles, tokens in ((6, 3, 8), (2, 1, 4), (4, 3, 16))
]


@pytest.fixture(scope="module")
def bundle(micro_bundles: MadeOnce) -> Path:
    return micro_bundles["plain"]


def result_of(bundle: Path, load: Load, *, spoil: float = 1.0) -> BenchResult:
    """A result of a machine that takes a millisecond and twice the roofline."""
    opened = open_bundle(bundle)
    counter = bundle_counter(opened)
    predictor = Predictor(device_of(made_result({"answer": [1]}, machine=THIS)))
    times = {work.stage: (1 + 2 * predictor.roofline_ms(work)) * spoil for work in counter.stages(setting_of(load))}
    stages = {work.stage: StageSamples(work.per, (times[work.stage],)) for work in counter.stages(setting_of(load))}
    whole = sum(times.values()) + (load.answer_tokens - 2) * times["decode"]
    stages["answer"] = StageSamples("frame set", (whole,))
    return made_result(dict(stages), machine=THIS, load=load, bundle_id=opened.id)


@pytest.fixture
def results(bundle: Path, tmp_path: Path) -> list[Path]:
    """Three results, the last one held out; and one of a machine that has become slower."""
    paths = []
    for number, (load, spoil) in enumerate([*((load, 1.0) for load in LOADS), (LOADS[2], 1.5)]):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(result_of(bundle, load, spoil=spoil).to_json())
    return paths


@pytest.mark.parametrize("name", ["plain", "fused"])
def test_what_is_counted_is_what_inspect_counts(micro_bundles: MadeOnce, name: str) -> None:
    opened = open_bundle(micro_bundles[name])
    counter: WorkCounter = bundle_counter(opened)
    setting = Setting(4, 4, 3, 64, 80, 12, 1)
    wanted = {stage.stage: stage.cost for stage in bundle_costs(opened, Workload(4, 3, 80, 12))}
    found = {work.stage: work for work in counter.stages(setting)}
    assert set(found) - set(wanted) == {"tiles", "prompt"}
    assert set(wanted) <= set(found)
    for stage, cost in wanted.items():
        assert found[stage].flops == cost.flops, stage
        assert found[stage].moved_bytes == cost.weight_bytes + cost.input_bytes + cost.output_bytes, stage


def test_a_bundle_is_planned_and_the_parameters_can_be_pasted(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--power", "30w", "--deadline-ms", "60"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Jetson AGX Orin 64GB, 30w: 20 TOPS INT8")
    assert "PREDICTED: settings within 60 ms for 6 cameras" in out
    assert out.endswith("/**:\n  ros__parameters:\n    deadline_ms: 60.0\n    max_new_tokens: 32\n")
    assert main(["plan", str(bundle), "--deadline-ms", "1", "--json"]) == 1
    planned = json.loads(capsys.readouterr().out)["predicted"]
    assert planned["best"] is None
    assert planned["fastest"]["prediction"]["answer_ms"] > 1


def test_calibrated_it_predicts_what_it_has_not_seen(
    bundle: Path, results: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated = ["plan", str(bundle), "--device", "this", "--calibrate", str(results[0]), str(results[1])]
    assert main([*calibrated, "--check", str(results[2])]) == 0
    assert "the whole is within 20% off" in capsys.readouterr().out
    assert main([*calibrated, "--check", str(results[2]), str(results[3]), "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["passed"], bad["passed"]) == (True, False)
    assert good["whole"]["error"] == pytest.approx(0, abs=0.01)
    assert bad["whole"]["error"] == pytest.approx(1 / 1.5 - 1, abs=0.01)
    assert statistics.median(abs(stage["error"]) for stage in good["stages"]) < 0.01
    assert main([*calibrated, "--deadline-ms", "5000"]) == 0
    assert "calibrated by 2 measured results" in capsys.readouterr().out


def test_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--published"]) == 0
    assert "held out" in capsys.readouterr().out
    assert main(["plan", "--published", "--json"]) == 0
    assert {row["unit"] for row in json.loads(capsys.readouterr().out)} == {"ms", "tokens/s", "GB"}


def test_what_is_refused(bundle: Path, results: list[Path], tmp_path: Path, error_line: CommandLine) -> None:
    assert "unknown device 'orin': take one of jetson-agx-orin-64" in error_line("plan", bundle, "--device", "orin")
    assert "plan needs a bundle or a preset" in error_line("plan")
    assert "--device this needs --calibrate RESULT" in error_line("plan", bundle, "--device", "this")
    assert "--check needs --calibrate" in error_line("plan", bundle, "--check", results[0])
    assert "--cameras must be above 0, got 0" in error_line("plan", bundle, "--cameras", 0)
    assert "--precision is for presets" in error_line("plan", bundle, "--precision", "int8")
    other = tmp_path / "other.json"
    other.write_text(results[0].read_text().replace(open_bundle(bundle).id, "feedbeef"))
    assert "the result is of bundle feedbeef" in error_line("plan", bundle, "--calibrate", other)
