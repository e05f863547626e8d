"""leo_edge/commands/inspect.py: what it says of an exported bundle, as text and as JSON."""

import argparse
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leo_edge.commands import inspect_bundle as inspect
from leo_edge.export.cost import Workload, bundle_costs
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.errors import BundleError, LeoEdgeError
from tests.conftest import MadeOnce


@pytest.fixture
def bundle_dir(tiny_bundles: MadeOnce) -> Path:
    return tiny_bundles["leo-mini-tiny"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    return inspect.run(parser.parse_args(arguments))


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_text_tells_what_is_in_the_bundle(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(bundle_dir)) == 0
    text = capsys.readouterr().out
    bundle = open_bundle(bundle_dir)
    for said in (
        f"leo_mini, id {bundle.id}, float32, opset 20",
        "clip 64 x 64, sam 256 x 32 (tokens x width per tile)",
        "1 to 6 tiles of 112 px and a thumbnail",
        "an image of 1600x900 gives 2 x 1, 3 tiles in all",
        "16 visual tokens per image, led by the question",
        "context     1,120 tokens",
        "6 cameras of 1600x900 take 96 visual tokens, 9% of the context",
        "tiles uint8 [T, 112, 112, 3] -> tokens float32 [T, 64, 64]",
        "past_value.0..2 float32 [P, 2, 16]",
        "checkpoint     leo-mini-tiny\n",
    ):
        assert said in text
    for name, graph in bundle.manifest.graphs.items():
        parameters = r"[\d.]+ [kM]" if graph.num_parameters else "0"
        assert re.search(rf"^{re.escape(name)} +{re.escape(name)}\.onnx +{parameters} +[\d.]+ [kM]B$", text, re.MULTILINE)
    assert "image uint8 [H, W, 3], columns_upper float32 [W, X], " in text


def test_text_fits_a_terminal_and_sets_numbers_right(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(bundle_dir))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(bundle_dir) not in line) <= 100
    first = next(i for i, line in enumerate(lines) if line.startswith("stage "))
    ends = {re.match(r".*?\dB?.*?FLOP", line).end() for line in lines[first + 1 : first + 7]}  # type: ignore[union-attr]
    assert len(ends) == 1


def test_text_holds_the_counted_cost(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(bundle_dir))
    text = capsys.readouterr().out
    assert re.search(r"^vision\.clip +frame set +279 MFLOP +436 kB +T=18$", text, re.MULTILINE)
    assert re.search(r"^decode +token +1\.\d\d MFLOP +2\.01 MB +S=1 Q=1 P=\d+$", text, re.MULTILINE)
    assert "A decoded token reads 2.01 MB of weights" in " ".join(text.split())


def test_json_is_one_object_with_the_counts_of_cost(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, str(bundle_dir))
    bundle = open_bundle(bundle_dir)
    load = found["workload"]
    workload = Workload(6, 3, load["text_tokens"], load["question_tokens"])
    assert [cost["flops"] for cost in found["costs"]] == [stage.cost.flops for stage in bundle_costs(bundle, workload)]
    assert load["prompt_tokens"] == load["visual_tokens"] + load["text_tokens"] == 96 + load["text_tokens"]
    assert found["size_bytes"] == bundle.size_bytes()
    assert found["id"] == bundle.id
    assert {name: graph["num_parameters"] for name, graph in found["graphs"].items()} == {
        name: graph.num_parameters for name, graph in bundle.manifest.graphs.items()
    }
    assert found["provenance"] == bundle.manifest.provenance


def test_number_of_cameras_changes_the_cost(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, six = report(capsys, str(bundle_dir), "--cameras", "1"), report(capsys, str(bundle_dir))
    assert six["costs"][0]["flops"] == 6 * one["costs"][0]["flops"]
    assert one["workload"]["visual_tokens"] == 16
    assert one["workload"]["text_tokens"] < six["workload"]["text_tokens"], "every camera has its line of text"


def test_prompt_without_room_is_said(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(bundle_dir), "--cameras", "60") == 0
    assert "NO ROOM for an answer" in capsys.readouterr().out


def test_no_camera_is_refused(bundle_dir: Path) -> None:
    with pytest.raises(LeoEdgeError, match="--cameras must be at least 1, got 0"):
        run(str(bundle_dir), "--cameras", "0")


def test_altered_bundle_is_refused(bundle_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle_dir, tmp_path / "copy")
    weights = copy / "llm.onnx.data"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(BundleError, match="it was altered"):
        run(str(copy))


def test_control_characters_do_not_reach_the_terminal(bundle_dir: Path) -> None:
    bundle = open_bundle(bundle_dir)
    hostile = replace(bundle, manifest=replace(bundle.manifest, provenance={"checkpoint": "\x1b[2Jgone"}))
    text = inspect._text(inspect.inspect_bundle(hostile, 1))
    assert "\x1b" not in text
    assert "\ufffd[2Jgone" in text


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (1000, "B", "1.00 kB"),
        (999_499, "B", "999 kB"),
        (999_500, "B", "1.00 MB"),
        (1.234e9, "FLOP", "1.23 GFLOP"),
        (12.34e9, "FLOP", "12.3 GFLOP"),
        (9.999e9, "FLOP", "10.0 GFLOP"),
        (2.5e18, "FLOP", "2,500 PFLOP"),
        (7_362_000_000, "", "7.36 G"),
    ],
)
def test_si_units(value: float, unit: str, expected: str) -> None:
    assert inspect._si(value, unit).replace("\u00a0", " ") == expected
