"""`leo-edge demo`: the shipped model from bundle to figures, and its bad input."""

import re
import shutil
from pathlib import Path

import pytest

from leo_edge.cli import main
from leo_edge.demo.answer_file import CARD_ANSWERS, SHIPPED, AnswerFile
from leo_edge.demo.questions.ask import QUESTION_TYPES
from tests.conftest import CommandLine

SCENES = 4


def shown(directory: Path) -> set[str]:
    """What `ls` shows."""
    return {path.name for path in directory.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def shipped_bundle(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """The shipped checkpoint, exported."""
    assert session_cache
    bundle = tmp_path_factory.mktemp("shipped") / "bundle"
    assert main(["export", str(SHIPPED), str(bundle)]) == 0
    return bundle


def test_from_the_shipped_checkpoint_to_figures(
    tmp_path: Path, shipped_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_bundle(_: Path, bundle: Path, *__: object) -> None:
        shutil.copytree(shipped_bundle, bundle)

    monkeypatch.setattr("leo_edge.export.exporter.export_bundle", copy_bundle)  # what takes the time is tested elsewhere
    for _ in range(2):  # the second run replaces what the first one wrote
        capsys.readouterr()
        assert main(["demo", "--out", str(tmp_path), "--scenes", str(SCENES), "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    answers = re.findall(r"^Q: .*\nA: (.*)   \((right|WRONG.*)\)$", out, re.MULTILINE)
    assert len(answers) >= 3
    for kind in QUESTION_TYPES:
        assert re.search(rf"^{kind} +\d+ +\d+\.\d \[", out, re.MULTILINE), kind
    assert re.search(r"^all +\d+ ", out, re.MULTILINE)
    for stage in ("tiles", "vision.semantics", "vision.geometry", "fuse", "router", "prefill", "decode"):
        assert re.search(rf"\b{re.escape(stage)} +\d+\.\d$", out, re.MULTILINE), stage
    assert shown(tmp_path) == {"bundle", "drive", "replay"}
    _, _, replayed = out.partition("A whole val drive from the disk")
    assert re.search(r"2 keyframes, \d+ questions", replayed)
    assert re.search(r"^all +\d+ ", replayed, re.MULTILINE)
    assert re.search(r"^prefill +\d+( +\d+\.\d){4}$", replayed, re.MULTILINE)
    report = tmp_path / "replay" / "report.html"
    assert out.rstrip().endswith(f"report: {report}")
    assert report.read_text().count("data:image/jpeg") == 12


@pytest.mark.slow
def test_bundle_answers_as_torch_does_twice_and_as_a_file_of_answers_holds(
    tmp_path: Path, shipped_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--scenes", str(SCENES), "--per-type", "8"]
    torch_answers = tmp_path / "torch.json"
    assert main(["demo", "score", str(SHIPPED), *options, "--answers", str(torch_answers)]) == 0
    for _ in range(2):
        capsys.readouterr()
        assert main(["demo", "score", str(shipped_bundle), *options, "--against", str(torch_answers)]) == 0
        total = len(AnswerFile.read(torch_answers).answers.own) * 2
        assert f"{total} of {total} answers equal" in capsys.readouterr().out
    few = ["--max-visual-tokens", "2"]  # of 12, the model is as good as blind
    assert main(["demo", "score", str(shipped_bundle), *options, *few, "--against", str(torch_answers)]) == 1
    altered = torch_answers.read_text().replace('"yes"', '"maybe"', 1)
    torch_answers.write_text(altered)
    assert main(["demo", "score", str(shipped_bundle), *options, "--against", str(torch_answers)]) == 1


def test_the_cards_answers_are_to_the_questions_that_score_asks_by_default() -> None:
    kept = AnswerFile.read(CARD_ANSWERS)
    assert (kept.options.split, kept.options.scenes, kept.options.per_type, kept.options.seed) == ("val", 150, 300, 0)
    assert len(kept.answers.own) == len(kept.answers.blind) > 2000
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 25e6


class TestBadInput:
    def test_leaves_a_bundle_alone_that_is_not_its_own(self, tmp_path: Path, error_line: CommandLine) -> None:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "mine.txt").write_text("mine")
        assert str(tmp_path / "bundle") in error_line("demo", "--out", tmp_path)
        assert shown(tmp_path / "bundle") == {"mine.txt"}

    def test_scores_neither_nothing_nor_something_else(self, tmp_path: Path, error_line: CommandLine) -> None:
        assert "neither bundle.json nor config.json" in error_line("demo", "score", tmp_path)
        assert "expected at least 2 scenes" in error_line("demo", "score", SHIPPED, "--scenes", 1)
        assert "give the same options" in error_line("demo", "score", SHIPPED, "--scenes", 2, "--against", "card")
        assert "is for bundles" in error_line("demo", "score", SHIPPED, "--max-visual-tokens", 3)

    def test_scores_with_no_fewer_than_one_visual_token(self, shipped_bundle: Path, error_line: CommandLine) -> None:
        line = error_line("demo", "score", shipped_bundle, "--max-visual-tokens", 0)
        assert line == "error: --max-visual-tokens must be at least 1, got 0"
