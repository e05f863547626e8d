"""`leo-edge lint`: every bundle that we write passes for every target that reads its opset; others fail, line by line."""

import copy
import json
from typing import Any

import pytest

from leo_edge.cli import main
from leo_edge.export.presets import PRESETS
from tests.conftest import CommandLine, MadeOnce


@pytest.mark.parametrize("preset", ["leo-tiny", "leo-mini-tiny"])
def test_plain_bundles_pass_for_every_target(preset: str, tiny_bundles: MadeOnce, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = {"leo-tiny": 5, "leo-mini-tiny": 6}[preset]
    assert main(["lint", str(tiny_bundles[preset])]) == 0
    assert capsys.readouterr().out == f"no findings in {graphs} graphs for jetpack6.2, jetpack7.2, trt11\n"


def test_fused_bundles_pass_where_their_opset_is_read_and_not_elsewhere(
    micro_bundles: MadeOnce, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", str(micro_bundles["fused"])]) == 0
    assert capsys.readouterr().out.endswith("graphs for jetpack7.2, trt11\n")
    assert main(["lint", str(micro_bundles["fused"]), "--target", "jetpack6.2", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert {"opset", "operator"} == {finding["rule"] for finding in findings}
    assert {finding["target"] for finding in findings} == {"jetpack6.2"}


def test_export_says_what_the_linter_found(
    micro_checkpoint: object, tmp_path: object, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(micro_checkpoint), f"{tmp_path}/bundle"]) == 0
    assert "lint: nothing to find for jetpack6.2, jetpack7.2, trt11" in capfd.readouterr().err


def test_bad_input(tiny_bundles: MadeOnce, tmp_path: object, error_line: CommandLine) -> None:
    bundle = tiny_bundles["leo-tiny"]
    assert "no target 'orin': expected one of jetpack6.2" in error_line("lint", bundle, "--target", "orin")
    assert "no bundle.json in" in error_line("lint", tmp_path)


def shallow(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a preset with one layer of each kind: its widths, heads and windows are what they were."""
    config = copy.deepcopy(config)
    parts = [config["llm_config"], *config.get("vision_configs", [])]
    parts += [config[name] for name in ("vision_config_1", "vision_config_2") if name in config]
    for part in parts:
        part["num_hidden_layers"] = 2 if "global_attn_indexes" in part else 1
        if "global_attn_indexes" in part:
            part["global_attn_indexes"] = [1]
        if "select_layer" in part:
            part["select_layer"] = -1
    return config


def test_full_size_presets_have_nothing_to_find(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for preset in ("leo-7b", "leo-mini-8b"):
        monkeypatch.setitem(PRESETS, preset, shallow(PRESETS[preset]))
    assert main(["lint", "leo-mini-8b", "--target", "jetpack6.2"]) == 0
    assert main(["lint", "leo-7b", "--target", "jetpack6.2", "jetpack7.2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no findings in 7 graphs of leo-mini-8b, opset 20, float16, for jetpack6.2",
        "no findings in 5 graphs of leo-7b, opset 20, float16, for jetpack6.2, jetpack7.2",
        "no findings in 5 graphs of leo-7b, opset 24, float16, for jetpack7.2",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["leo-7b", "leo-mini-8b"])
def test_a_full_size_preset_has_nothing_to_find_at_its_full_depth(preset: str) -> None:
    assert main(["lint", preset]) == 0


def test_what_is_neither_bundle_nor_preset(error_line: CommandLine) -> None:
    assert "no bundle.json in leo-13b" in error_line("lint", "leo-13b")
