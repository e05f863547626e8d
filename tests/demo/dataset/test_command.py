"""`leo-edge demo world`: options, its one line, and wrong use."""

import argparse
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from leo_edge.commands import demo_world
from leo_edge.runtime.errors import DatasetError

QUICK = ("--seconds", "0.5", "--keyframes-only", "--processes", "1")


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    demo_world.add_arguments(parser)
    return demo_world.run(parser.parse_args([str(argument) for argument in arguments]))


def test_says_in_one_line_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "d", *QUICK, "--size", "64x36") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(
        rf"{tmp_path}/d: 1 scene, 1 keyframe, 6 images of 64x36, \d+ annotations, \d+ questions \(\d+ left out in doubt\), "
        r"\d+\.\d MB; \d+\.\d images/s with 1 process\n",
        out,
    )
    assert "Traceback" not in err


def test_json_is_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "d", *QUICK, "--size", "64x36", "--split", "dev", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["directory"] == str(tmp_path / "d")
    assert (report["num_scenes"], report["num_keyframes"], report["num_images"]) == (1, 1, 6)
    assert report["num_questions"]["dev"] > 0 == report["num_questions"]["train"]
    assert report["size_bytes"] == sum(path.stat().st_size for path in (tmp_path / "d").rglob("*") if path.is_file())


@pytest.mark.parametrize(("size", "expected"), [("small", (288, 288)), ("100x50", (100, 50))])
def test_size_and_png(size: str, expected: tuple[int, int], tmp_path: Path) -> None:
    assert run(tmp_path / "d", *QUICK, "--size", size, "--png") == 0
    (path,) = (tmp_path / "d" / "samples" / "CAM_BACK").iterdir()
    with Image.open(path) as image:
        assert (image.size, image.format) == (expected, "PNG")


@pytest.mark.parametrize("size", ["large", "100", "100x", "-1x50", "100x50x3", "10 x 5", "٣x٣", ""])
def test_a_size_that_is_none_is_refused(size: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^--size must be full, small or a width and height like 800x450, got "):
        run(tmp_path / "d", f"--size={size}")
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="exists already: remove it, or write to another directory"):
        run(tmp_path, *QUICK)
