"""`leo-edge lint`: every bundle that we write passes for every target that reads its opset; others fail, line by line."""

import json

import pytest

from leo_edge.cli import main
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
