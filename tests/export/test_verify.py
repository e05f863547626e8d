"""export/verify.py: a bundle passes against its own checkpoint, and against no other, however little differs."""

import dataclasses
import functools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from leo_edge.cli import main
from leo_edge.export.checkpoint import SINGLE_NAME, Checkpoint
from leo_edge.export.random_checkpoint import write_random_checkpoint
from leo_edge.export.verify import LIMITS, NUM_STEPS, Comparison, Report, verify
from leo_edge.runtime.bundle import open_bundle
from tests.conftest import CommandLine, MadeOnce

Json = dict[str, Any]

LLM_STAGES = ["llm prefill", f"llm {NUM_STEPS} steps"]
STAGES = {
    "leo-tiny": ["vision.internvit", "vision.sam", "fuse", *LLM_STAGES, "tiles"],
    "leo-mini-tiny": ["vision.clip", "vision.sam", "fuse", "router", *LLM_STAGES, "tiles"],
}
MINI_LAYER = "language_model.model.layers.1."
# One tensor, and the stages that it must fail: a later stage gets the bundle's own output of the earlier ones.
PERTURBED = [
    ("leo-tiny", "vision_model_1.encoder.layers.2.mlp.fc2.weight", ["vision.internvit"]),
    ("leo-tiny", "vision_model_2.layers.0.attn.rel_pos_h", ["vision.sam"]),
    ("leo-tiny", "mlp2.1.weight", ["fuse"]),
    ("leo-tiny", "language_model.model.layers.1.attention.wqkv.weight", LLM_STAGES),
    ("leo-mini-tiny", "cotr.token_proj.1.weight", ["fuse"]),
    ("leo-mini-tiny", f"{MINI_LAYER}mlp.mmoe.router.0.bias", ["router"]),
    ("leo-mini-tiny", f"{MINI_LAYER}mlp.mmoe.general.lora_B.weight", LLM_STAGES),
]


def check(bundle: Path, checkpoint: Path, *, seed: int = 0) -> Report:
    return verify(open_bundle(bundle), Checkpoint.open(checkpoint), seed=seed, say=lambda _: None)


def failed(report: Report) -> list[str]:
    return [stage.name for stage in report.stages if not stage.passed]


def scale(checkpoint: Path, key: str, factor: float) -> None:
    tensors: dict[str, Tensor] = load_file(checkpoint / SINGLE_NAME)
    tensors[key] *= factor
    save_file(tensors, checkpoint / SINGLE_NAME)


@pytest.fixture(scope="module")
def own_report(tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce) -> Callable[[str], Report]:
    """The report of a preset's bundle against its own checkpoint."""
    return functools.cache(lambda preset: check(tiny_bundles[preset], tiny_checkpoints[preset]))


@pytest.fixture(params=["leo-tiny", "leo-mini-tiny"])
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestOwnCheckpoint:
    def test_every_stage_passes_and_other_weights_do_not(self, preset: str, own_report: Callable[[str], Report]) -> None:
        report = own_report(preset)
        assert [stage.name for stage in report.stages] == STAGES[preset]
        assert failed(report) == []
        assert report.passed
        assert report.num_steps == report.tokens_equal + report.tokens_tied == NUM_STEPS + 1

    def test_so_do_the_cpu_forms(
        self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, own_report: Callable[[str], Report]
    ) -> None:
        bundle, checkpoint = open_bundle(tiny_bundles["leo-mini-tiny"]), Checkpoint.open(tiny_checkpoints["leo-mini-tiny"])
        report = verify(bundle, checkpoint, seed=0, say=lambda _: None, cpu_forms=True)
        assert report.passed
        assert report != own_report("leo-mini-tiny")  # other operators round otherwise
        for stage in report.stages:
            assert (stage.max_relative_error, stage.min_cosine) == LIMITS["float32"]
            assert abs(stage.control_cosine) < (0.5 if stage.name != "tiles" else 0.999), stage.name
        assert report.stages[-1].max_abs_error == 0  # tiles, to the last bit

    def test_another_seed_compares_other_inputs(
        self, own_report: Callable[[str], Report], tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce
    ) -> None:
        other = check(tiny_bundles["leo-tiny"], tiny_checkpoints["leo-tiny"], seed=7)
        assert other.passed
        assert other.stages[0].max_abs_error != own_report("leo-tiny").stages[0].max_abs_error

    def test_opset_24_in_float16_of_a_checkpoint_of_another_seed(self, micro_bundles: MadeOnce, micro_checkpoint: Path) -> None:
        """Its random weights, of seed 1, must not be those that the negative control draws."""
        report = check(micro_bundles["fused"], micro_checkpoint)
        assert failed(report) == []
        assert report.passed
        *typed, tiles = report.stages
        assert {(stage.max_relative_error, stage.min_cosine) for stage in typed} == {LIMITS["float16"]}
        assert (tiles.max_relative_error, tiles.min_cosine) == LIMITS["float32"]


class TestOtherCheckpoint:
    @pytest.mark.parametrize(("preset", "key", "stages"), PERTURBED, ids=[key for _, key, _ in PERTURBED])
    def test_one_weight_that_is_five_percent_off(
        self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, tmp_path: Path, preset: str, key: str, stages: list[str]
    ) -> None:
        checkpoint = shutil.copytree(tiny_checkpoints[preset], tmp_path / "checkpoint")
        scale(checkpoint, key, 1.05)
        report = check(tiny_bundles[preset], checkpoint)
        assert failed(report) == stages
        assert not report.passed

    def test_the_embedding_table(self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, tmp_path: Path) -> None:
        """It is in no graph, and a difference of one number is one too many."""
        checkpoint = shutil.copytree(tiny_checkpoints["leo-tiny"], tmp_path / "checkpoint")
        tensors = load_file(checkpoint / SINGLE_NAME)
        tensors["language_model.model.tok_embeddings.weight"][7, 3] += 1e-3
        save_file(tensors, checkpoint / SINGLE_NAME)
        assert main(["verify", str(tiny_bundles["leo-tiny"]), str(checkpoint)]) == 1

    def test_random_weights_of_another_seed(
        self, preset: str, tiny_bundles: MadeOnce, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_random_checkpoint(preset, tmp_path / "c", seed=5)
        assert main(["verify", str(tiny_bundles[preset]), str(tmp_path / "c"), "--json"]) == 1
        report = json.loads(capsys.readouterr().out)
        assert report["passed"] is False
        assert [stage["name"] for stage in report["stages"]] == STAGES[preset]
        assert all(stage["cosine"] < 0.5 for stage in report["stages"] if stage["name"] != "tiles")

    def test_another_config_is_bad_input(
        self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, error_line: CommandLine
    ) -> None:
        bundle, checkpoint = tiny_bundles["leo-tiny"], tiny_checkpoints["leo-mini-tiny"]
        line = error_line("verify", bundle, checkpoint)
        assert line.startswith(f"error: {bundle} was exported from another config.json than that of {checkpoint}: give the ")

    def test_impossible_seed_is_bad_input(
        self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, error_line: CommandLine
    ) -> None:
        assert "seed" in error_line("verify", tiny_bundles["leo-tiny"], tiny_checkpoints["leo-tiny"], "--seed", "-1")


class TestCommand:
    def test_prints_a_table_and_passes(
        self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["verify", str(tiny_bundles["leo-tiny"]), str(tiny_checkpoints["leo-tiny"])]) == 0
        printed = capsys.readouterr().out
        assert re.findall(r"^(\S.*?) +\d\.\d\de[-+]\d\d .* ok$", printed, re.MULTILINE) == STAGES["leo-tiny"]
        assert re.search(r"^greedy tokens: \d+ of 33 equal, \d+ tied within the error$", printed, re.MULTILINE)
        assert printed.splitlines()[-1] == "passed"

    def test_names_the_stage_that_fails(
        self, tiny_bundles: MadeOnce, tiny_checkpoints: MadeOnce, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        checkpoint = shutil.copytree(tiny_checkpoints["leo-tiny"], tmp_path / "checkpoint")
        scale(checkpoint, "mlp1.3.weight", 1.05)
        assert main(["verify", str(tiny_bundles["leo-tiny"]), str(checkpoint)]) == 1
        printed = capsys.readouterr().out
        assert re.findall(r"^(\S+) .* MISS$", printed, re.MULTILINE) == ["fuse"]
        assert printed.splitlines()[-1] == "FAILED"

    def test_json_holds_what_the_report_does(
        self,
        own_report: Callable[[str], Report],
        tiny_bundles: MadeOnce,
        tiny_checkpoints: MadeOnce,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["verify", str(tiny_bundles["leo-tiny"]), str(tiny_checkpoints["leo-tiny"]), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        report = own_report("leo-tiny")
        assert printed["passed"] is True
        assert [stage["name"] for stage in printed["stages"]] == [stage.name for stage in report.stages]
        assert printed["tokens_equal"] == report.tokens_equal


class TestComparison:
    GOOD = Comparison("fuse", 1e-5, 1e-5, 0.999999, 0.1, max_relative_error=2e-4, min_cosine=0.99999)

    @pytest.mark.parametrize(
        ("changes", "passes"),
        [
            ({}, True),
            ({"relative_error": 2e-4}, True),
            ({"relative_error": 2.1e-4}, False),
            ({"relative_error": math.inf}, False),
            ({"relative_error": math.nan}, False),
            ({"cosine": 0.9999}, False),
            ({"cosine": math.nan}, False),
            ({"control_cosine": 0.99999}, False),
            ({"control_cosine": -1.0}, True),
        ],
    )
    def test_passes_within_the_limits_if_the_control_does_not(self, changes: Json, passes: bool) -> None:
        assert dataclasses.replace(self.GOOD, **changes).passed is passes

    def test_a_token_that_is_neither_equal_nor_tied_fails_the_report(self) -> None:
        assert Report(True, (self.GOOD,), num_steps=33, tokens_equal=30, tokens_tied=3).passed
        assert not Report(True, (self.GOOD,), num_steps=33, tokens_equal=30, tokens_tied=2).passed


@pytest.mark.slow
@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("opset", ["20", "24"])
def test_every_kind_of_bundle_verifies_and_answers(
    preset: str, opset: str, float_type: str, tiny_checkpoints: MadeOnce, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    checkpoint, bundle = str(tiny_checkpoints[preset]), str(tmp_path / "bundle")
    assert main(["export", checkpoint, bundle, "--opset", opset, "--float", float_type]) == 0
    assert main(["verify", bundle, checkpoint]) == 0
    Image.new("RGB", (160, 90), "olive").save(tmp_path / "front.png")
    image = ["--cameras", "CAM_FRONT", "--images", f"CAM_FRONT={tmp_path / 'front.png'}"]
    capsys.readouterr()
    assert main(["run", bundle, "--json", "--question", "What is ahead?", *image]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["token_ids"]
