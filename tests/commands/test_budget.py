"""`leo-edge budget`: passes, breaks, writes a first budget; one error line for what cannot be judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leo_edge.cli import main
from tests.bench.made_results import MadeUpSubject, made_result, noisy_rounds
from tests.conftest import CommandLine, MadeOnce


def write_results(directory: Path, *, slip: float = 0.0, rounds: int = 100, run_id: str = "a1") -> tuple[Path, Path]:
    """Writes a result whose answer takes `slip` longer than its baseline's, and the baseline."""
    old, new = noisy_rounds(np.random.default_rng(0), rounds, slip=slip, noise=0.01, drift=0.005)
    paths = directory / "new.json", directory / "new.vs.json"
    for path, samples, run in zip(paths, (new, old), (run_id, "a1"), strict=True):
        path.write_text(made_result({"answer": samples}, run_id=run).to_json())
    return paths


def budget_of(directory: Path, result: Path, *arguments: str) -> Path:
    path = directory / "budget.json"
    assert main(["budget", str(result), str(path), "--init", *arguments]) == 0
    return path


def test_a_budget_is_started_from_a_result_and_then_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old = write_results(tmp_path)
    budget = budget_of(tmp_path, new, "--headroom", "10")
    assert capsys.readouterr().out == f"{budget}: limits on 1 stages and memory, 10 % above the result\n"
    assert main(["budget", str(new), str(budget), "--baseline", str(old)]) == 0
    limits, regression = capsys.readouterr().out.split("\n\n")
    assert [line.split()[-1] for line in limits.splitlines()[1:]] == ["ok", "ok", "ok"]
    assert regression.splitlines()[1].split()[-1] == "same"


def test_a_broken_limit_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, _ = write_results(tmp_path)
    budget = budget_of(tmp_path, new)
    raw = json.loads(budget.read_text())
    raw["stages"]["answer"]["p50_ms"] = 1
    budget.write_text(json.dumps(raw))
    capsys.readouterr()
    assert main(["budget", str(new), str(budget)]) == 1
    assert capsys.readouterr().out.splitlines()[1].endswith("BROKEN")


def test_a_slip_of_5_percent_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old = write_results(tmp_path, slip=0.05)
    budget = budget_of(tmp_path, new)
    capsys.readouterr()
    assert main(["budget", str(new), str(budget), "--baseline", str(old), "--json"]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    assert all(limit["passed"] for limit in found["limits"])
    (stage,) = found["regression"]["stages"]
    assert (stage["stage"], stage["verdict"]) == ("answer", "slower")
    assert 1.03 < stage["interval"]["low"] < 1.05 < stage["interval"]["high"] < 1.07
    assert main(["budget", str(new), str(budget), "--baseline", str(old), "--tolerance", "8"]) == 0


def test_bad_input(tmp_path: Path, error_line: CommandLine) -> None:
    new, old = write_results(tmp_path)
    budget = budget_of(tmp_path, new)
    assert "is there already: choose a new name" in error_line("budget", new, budget, "--init")
    assert "cannot read budget" in error_line("budget", new, tmp_path / "none.json")
    assert "cannot read result" in error_line("budget", tmp_path / "none.json", budget)
    assert "new.json: budget has missing fields ['device', 'note']" in error_line("budget", new, new)
    assert "--headroom goes with --init" in error_line("budget", new, budget, "--headroom", "5")
    assert "--tolerance goes with --baseline" in error_line("budget", new, budget, "--tolerance", "5")
    assert "leave out --baseline and --json" in error_line("budget", new, budget, "--init", "--json")
    bad = ("budget", new, budget, "--baseline", old, "--tolerance", "-1")
    assert "--tolerance must be a percentage from 0 to 1000, got -1" in error_line(*bad)
    few, few_old = write_results(tmp_path, rounds=12)
    assert "cannot be told from 12 samples, expected at least 100" in error_line("budget", few, budget)
    unlimited = tmp_path / "few.json"
    assert main(["budget", str(few), str(unlimited), "--init"]) == 0
    assert "a regression cannot be told from 12 rounds" in error_line("budget", few, unlimited, "--baseline", few_old)


@pytest.mark.parametrize(("noise", "code"), [(0.01, 0), (0.5, 1)])
def test_the_self_test_tells_a_quiet_machine_from_a_noisy_one(
    noise: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("leo_edge.commands.budget_self_test.open_with_progress", Path)
    monkeypatch.setattr("leo_edge.runtime.pipeline.open_pipeline", lambda *_, **__: None)
    monkeypatch.setattr("leo_edge.bench.measure.PipelineSubject", lambda *_, **__: MadeUpSubject(noise, whole_ms=1.0))
    assert main(["budget-self-test", "bundle", "--trials", "4", "--rounds", "30"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["slowdown", "none", "5%", "10%"]
    assert (lines[3].split()[1] == "4") is (code == 0)


@pytest.mark.slow
def test_the_self_test_runs_on_a_bundle(micro_bundles: MadeOnce, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = micro_bundles["plain"]
    capsys.readouterr()
    assert main(["budget-self-test", str(bundle), "--trials", "1", "--rounds", "30", "--threads", "1", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert [(rate["slowdown"], rate["trials"]) for rate in found["rates"]] == [(0.0, 1), (0.05, 1), (0.1, 1)]
    assert found["rounds"] == 30


def test_bad_input_to_the_self_test(tmp_path: Path, error_line: CommandLine) -> None:
    assert "--rounds must be at least 30, got 5" in error_line("budget-self-test", tmp_path, "--rounds", "5")
    assert "--trials must be at least 1, got 0" in error_line("budget-self-test", tmp_path, "--trials", "0")
    assert "no bundle.json in" in error_line("budget-self-test", tmp_path)
