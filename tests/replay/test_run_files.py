"""replay/run_files.py: whole lines whatever happens, and going on where a run stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leo_edge.replay.run_files import FORMAT, Json, Outcome, read_run, writing
from leo_edge.runtime.errors import DatasetError

IDENTITY: Json = {"format": FORMAT, "bundle": "b", "questions": "somewhere", "play": {"rate": None}}


def outcomes(drives: int = 3, sets: int = 4) -> list[Outcome]:
    """Every drive's sets with 0 to 3 answers each, then its end. Texts hold what could be taken for the end of a line."""
    made = []
    for i in range(drives):
        for j in range(sets):
            answers = tuple({"id": f"{i}-{j}-{k}", "drive": f"d{i}", "answer": "a\n\u2028\r\u00e9"} for k in range((i + j) % 4))
            made.append(Outcome(answers, {"drive": f"d{i}", "set": j, "answers": [{"id": one["id"]} for one in answers]}))
        made.append(Outcome((), {"drive": f"d{i}", "wall_s": 1.0}))
    return made


def finish(directory: Path, *, whole_drives: bool = False) -> list[Outcome]:
    """Goes on with a run as `run_replay` does; returns what was left to do."""
    with writing(directory, IDENTITY, whole_drives=whole_drives) as files:
        done = files.done
        left = [one for one in outcomes() if one.timing["drive"] not in done.drives]
        first = left[0].timing["drive"] if left else ""
        left = [one for one in left if one.timing["drive"] != first or one.timing.get("set", 99) > done.last_set]
        files.add(left)
    return left


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    finish(tmp_path / "whole")
    return tmp_path / "whole"


def test_reads_what_was_written(whole: Path) -> None:
    run = read_run(whole)
    assert run.identity == IDENTITY
    assert list(run.answers) == [answer for one in outcomes() for answer in one.answers]
    assert list(run.timing) == [one.timing for one in outcomes()]
    assert (len(run.sets), len(run.ends)) == (12, 3)


@pytest.mark.parametrize("whole_drives", [False, True])
def test_a_run_cut_at_any_byte_goes_on_to_the_same_files(whole: Path, tmp_path: Path, whole_drives: bool) -> None:
    """A process that dies has written a start of each file; the answers of a set always before its times."""
    expected = [(whole / name).read_bytes() for name in ("answers.jsonl", "timing.jsonl")]
    states = [(0, 0)]
    answers = timing = 0
    for one in outcomes():
        size = sum(len(json.dumps(answer)) + 1 for answer in one.answers)
        states += [(answers + cut, timing) for cut in range(0, size + 1, 13)]
        answers += size
        size = len(json.dumps(one.timing)) + 1
        states += [(answers, timing + cut) for cut in range(0, size + 1, 7)]
        timing += size
    assert (answers, timing) == (len(expected[0]), len(expected[1]))
    redone = []
    for number, (answers, timing) in enumerate(states):
        directory = tmp_path / f"cut-{number}"
        directory.mkdir()
        shutil.copy(whole / "run.json", directory)
        (directory / "answers.jsonl").write_bytes(expected[0][:answers])
        (directory / "timing.jsonl").write_bytes(expected[1][:timing])
        redone.append(len(finish(directory, whole_drives=whole_drives)))
        assert [(directory / name).read_bytes() for name in ("answers.jsonl", "timing.jsonl")] == expected, (answers, timing)
    assert redone == sorted(redone, reverse=True)
    assert redone[0] == 15
    assert redone[-1] <= (5 if whole_drives else 1)


def test_a_finished_run_has_nothing_left(whole: Path) -> None:
    assert finish(whole) == []


def test_another_run_is_refused_and_nothing_of_it_is_lost(whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    message = r'is a run with bundle "b", now asked for with "c": choose another --out'
    with pytest.raises(DatasetError, match=message), writing(whole, IDENTITY | {"bundle": "c"}, whole_drives=False):
        pytest.fail("opened")
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_the_questions_may_lie_elsewhere(whole: Path) -> None:
    with writing(whole, IDENTITY | {"questions": "moved"}, whole_drives=False) as files:
        assert files.done.drives == ("d0", "d1", "d2")


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("long")
    message = "holds something else than a replay run"
    with pytest.raises(DatasetError, match=message), writing(tmp_path, IDENTITY, whole_drives=False):
        pytest.fail("opened")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with writing(tmp_path, IDENTITY, whole_drives=False):
        script = (
            "import sys, pathlib\nfrom leo_edge.replay.run_files import writing\n"
            f"with writing(pathlib.Path(sys.argv[1]), {IDENTITY!r}, whole_drives=False): print('opened')"
        )
        other = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "another replay is writing to" in other.stderr
    assert other.stdout == ""


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("run.json", "{", "cannot read .*run.json"),
        ("run.json", '{"format": 7}', "has format 7, expected 2"),
        ("run.json", "[]", "has format 'list', expected 2"),
        ("answers.jsonl", "{}\n", r"has 1 answers, timing.jsonl tells of \d+: the run was altered"),
        ("answers.jsonl", "x\n", "answers.jsonl, line 1, is no JSON object"),
        ("timing.jsonl", "[1]\n", r"timing.jsonl, line 1, is no JSON object \(list\)"),
    ],
)
def test_altered_files_are_named(whole: Path, name: str, content: str, expected: str) -> None:
    (whole / name).write_text(content)
    with pytest.raises(DatasetError, match=expected):
        finish(whole)


def test_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no .*run.json: give the directory of a replay run"):
        read_run(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DatasetError, match="cannot write the run"), writing(tmp_path / "run", IDENTITY, whole_drives=False):
        pytest.fail("opened")
