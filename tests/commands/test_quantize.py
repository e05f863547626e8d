"""`leo-edge calibrate` and `quantize` as a user runs them: on a drawn world, interrupted, and with bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from leo_edge.calib.table import read_table, write_table
from leo_edge.cli import main
from leo_edge.runtime.bundle import open_bundle
from tests.commands.conftest import Replay
from tests.conftest import CommandLine, MadeOnce


@pytest.fixture(scope="package")
def questions(few_questions: Path) -> list[str]:
    return ["--questions", str(few_questions)]


@pytest.fixture
def calibrate(bundle: Path, world: Path, questions: list[str]) -> list[str]:
    """The command but for its output."""
    return ["calibrate", str(bundle), "--nuscenes", str(world), *questions, "--frames", "4", "--per-frame", "2"]


@pytest.fixture
def table(calibrate: list[str], tmp_path: Path) -> Path:
    assert main([*calibrate, "--out", str(tmp_path / "table")]) == 0
    return tmp_path / "table"


def test_a_bundle_is_calibrated_quantized_linted_and_answers(
    calibrate: list[str], table: Path, bundle: Path, replay: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = read_table(table).provenance
    assert provenance["bundle"] == open_bundle(bundle).id
    assert len(provenance["frames"]) == len(set(provenance["frames"])) == 4
    assert all(len(ids) == 2 for ids in provenance["question_ids"])
    out = tmp_path / "int8"
    assert main(["quantize", str(bundle), str(table), str(out), "--method", "mbq"]) == 0
    printed = capsys.readouterr()
    assert "layers quantized" in printed.out
    assert "layers kept float: router" in printed.out
    assert "lint: nothing to find for jetpack6.2, jetpack7.2, trt11" in printed.err
    assert main(["lint", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    summary = replay(tmp_path / "float")
    capsys.readouterr()
    given = ["--nuscenes", calibrate[3], *calibrate[4:6], "--max-new-tokens", "3", "--json"]
    assert main(["replay", str(out), "--out", str(tmp_path / "run"), *given]) == 0
    quantized = json.loads(capsys.readouterr().out)
    assert quantized["answers"]["answered"] == summary["answers"]["answered"]
    assert main(["replay-diff", str(tmp_path / "float"), str(tmp_path / "run"), "--json"]) in (0, 1)
    capsys.readouterr()
    frames = ["--nuscenes", calibrate[3], *calibrate[4:6], "--frames", "3", "--per-frame", "2"]
    code = main(["verify", str(out), str(bundle), *frames, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["passed"] else 1)
    assert report["num_questions"] == 6
    assert all(0.98 < stage["cosine"] < 1 for stage in report["stages"])
    # Random weights: every token is as likely as the other, and small errors grow from stage to stage.
    assert 0 < report["llm"]["kl"] < 0.05
    assert 0 < report["together"]["kl"] < 0.5


def test_verify_fails_where_a_scale_is_wrong(
    calibrate: list[str], table: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table with ranges twenty times too small clips everything."""
    read = read_table(table)
    for one in read.statistics.values():
        one.histogram.largest, one.histogram.width = one.histogram.largest / 20, one.histogram.width / 20
    write_table(table, read)
    assert main(["quantize", str(bundle), str(table), str(tmp_path / "bad"), "--method", "minmax"]) == 0
    frames = ["--nuscenes", calibrate[3], *calibrate[4:6], "--frames", "2", "--per-frame", "1"]
    assert main(["verify", str(tmp_path / "bad"), str(bundle), *frames]) == 1
    assert "MISS" in capsys.readouterr().out


def test_the_same_frames_give_the_same_table(calibrate: list[str], table: Path, tmp_path: Path) -> None:
    assert main([*calibrate, "--out", str(tmp_path / "again")]) == 0
    assert read_table(tmp_path / "again").provenance == read_table(table).provenance
    for key, one in read_table(table).statistics.items():
        again = read_table(tmp_path / "again").of(*key)
        np.testing.assert_array_equal(one.histogram.counts, again.histogram.counts)
        np.testing.assert_array_equal(one.visual.rows, again.visual.rows)


def test_a_calibration_that_was_killed_goes_on(
    calibrate: list[str], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "killed"
    code = (
        "import leo_edge.commands.calibrate as c, sys; c._SAVE_EVERY_S = 0; from leo_edge.cli import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *calibrate, "--out", str(out)], stderr=subprocess.DEVNULL)
    partial = out.with_name("killed.partial")
    while not partial.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert not out.exists()
    monkeypatch.setattr("leo_edge.commands.calibrate._SAVE_EVERY_S", 0.0)
    assert main([*calibrate, "--out", str(out)]) == 0
    assert "going on with" in capsys.readouterr().err
    assert not partial.exists()
    for key, one in read_table(table).statistics.items():
        again = read_table(out).of(*key)
        np.testing.assert_array_equal(one.histogram.counts, again.histogram.counts)
        np.testing.assert_array_equal(one.text.rows, again.text.rows)


class TestBadInput:
    def test_fewer_frames_than_asked_for(self, calibrate: list[str], tmp_path: Path, error_line: CommandLine) -> None:
        message = error_line(*calibrate, "--out", tmp_path / "t", "--frames", "100")
        assert "100 frames were asked for, there are 7 with questions: give more drives or fewer --frames" in message
        assert not (tmp_path / "t").exists()

    def test_an_unreadable_frame(self, calibrate: list[str], world: Path, tmp_path: Path, error_line: CommandLine) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(world, broken)
        for path in (broken / "samples" / "CAM_BACK").iterdir():
            path.write_bytes(path.read_bytes()[:50])
        given = [str(broken) if one == str(world) else one for one in calibrate]
        assert "cannot decode image" in error_line(*given, "--out", tmp_path / "t")
        assert not (tmp_path / "t").exists()

    def test_activations_that_are_no_numbers(
        self, calibrate: list[str], bundle: Path, tmp_path: Path, error_line: CommandLine
    ) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(bundle, broken)
        data = np.fromfile(broken / "vision.clip.onnx.data", np.float32)
        data[np.isfinite(data) & (data != 0)] *= np.float32(1e30)
        data.tofile(broken / "vision.clip.onnx.data")
        manifest = json.loads((broken / "bundle.json").read_text())
        manifest["files"]["vision.clip.onnx.data"]["sha256"] = hashlib.sha256(
            (broken / "vision.clip.onnx.data").read_bytes()
        ).hexdigest()
        (broken / "bundle.json").write_text(json.dumps(manifest))
        given = [str(broken) if one == str(bundle) else one for one in calibrate]
        message = error_line(*given, "--out", tmp_path / "t")
        assert "of graph vision.clip has values that are not finite: the bundle computes no numbers here, verify it" in message

    def test_a_table_that_is_there_or_cannot_be(self, calibrate: list[str], table: Path, error_line: CommandLine) -> None:
        assert f"{table} exists: choose another --out, or remove it" in error_line(*calibrate, "--out", table)
        assert "for the table: make it, or give another --out" in error_line(*calibrate, "--out", table / "no" / "t")

    def test_verify(self, bundle: Path, world: Path, questions: list[str], tmp_path: Path, error_line: CommandLine) -> None:
        out, frames = tmp_path / "w8", ["--nuscenes", world, *questions]
        assert main(["quantize", str(bundle), "none", str(out), "--method", "minmax", "--activations", "none"]) == 0
        assert "is quantized: give the float bundle" in error_line("verify", out, tmp_path)
        assert "a quantized bundle is verified on real frames: give --nuscenes" in error_line("verify", out, bundle)
        assert "at least 2 are needed" in error_line("verify", out, bundle, *frames, "--frames", "1")
        assert "was made from bundle None" in error_line("verify", bundle, bundle, *frames, "--frames", "2")

    def test_quantize(self, bundle: Path, table: Path, tmp_path: Path, error_line: CommandLine) -> None:
        out = tmp_path / "out"
        assert "no calibration table" in error_line("quantize", bundle, tmp_path / "none-here", out)
        assert "a calibration table is needed for this" in error_line("quantize", bundle, "none", out)
        table.write_bytes(table.read_bytes()[:5000])
        assert "cannot read calibration table" in error_line("quantize", bundle, table, out)
        assert not out.exists()


def test_sensitivity_chooses_what_stays_float(
    micro_bundles: MadeOnce, calibrate: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, table = str(micro_bundles["plain"]), str(tmp_path / "table")
    frames = ["--nuscenes", calibrate[3], *calibrate[4:6], "--cameras", "CAM_FRONT", "--frames", "2", "--per-frame", "2"]
    assert main(["calibrate", bundle, *frames, "--modality-prompts", "0", "--out", table]) == 0
    picture = tmp_path / "layers.png"
    assert main(["sensitivity", bundle, table, *frames, "--plot", str(picture)]) == 0
    assert "llm.layers.0.mlp.down.down" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    layers = read_table(Path(table)).provenance["layers"]
    assert [one["kl"] for one in layers] == sorted((one["kl"] for one in layers), reverse=True)
    out = tmp_path / "auto"
    assert main(["quantize", bundle, table, str(out), "--keep-float", "auto", "--max-drop", "0"]) == 0
    losing = {one["layer"] for one in layers if (one["drop"] or 0) > 0}
    kept = open_bundle(out).manifest.provenance["quantized"]["options"]["keep_float"]
    assert set(kept) == losing
