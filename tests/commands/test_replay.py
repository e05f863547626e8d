"""`leo-edge replay` and `replay-diff` as a user runs them: on a drawn drive, on real frames, killed, and with bad input."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leo_edge.cli import main
from tests.commands.conftest import Replay
from tests.conftest import CommandLine
from tests.real_data import NUSCENES_REAL, needs_real_frames

DRIVELM = NUSCENES_REAL / "drivelm"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answered(out: Path) -> bytes:
    return (out / "answers.jsonl").read_bytes()


class TestDrawnDrives:
    def test_answers_scores_and_reports(self, replay: Replay, few_questions: Path, tmp_path: Path) -> None:
        summary = replay(tmp_path / "run")
        asked = json.loads(few_questions.read_text())["questions"]
        answers = {line["id"]: line for line in lines_of(tmp_path / "run" / "answers.jsonl")}
        assert len(answers) == len(asked) == summary["answers"]["answered"]
        for i, question in enumerate(asked):
            line = answers[str(i)]
            assert (line["sample"], line["question"]) == (question["sample_token"], question["question"])
            assert (line["truth"], line["kind"]) == (str(question["answer"]), question["template_type"])
        assert summary["scores"]["nuscenes_qa"]["overall"]["n"] == len(asked)
        assert summary["sets"] == {"there": 8, "taken": 7, "dropped": 0}
        assert (tmp_path / "run" / "report.html").stat().st_size < 15e6

    def test_the_same_run_twice_gives_the_same_answers(self, replay: Replay, tmp_path: Path) -> None:
        first, second = replay(tmp_path / "a"), replay(tmp_path / "b")
        assert answered(tmp_path / "a") == answered(tmp_path / "b")
        assert first["scores"] == second["scores"]
        assert main(["replay-diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0

    def test_answers_are_those_of_the_run_command(
        self, replay: Replay, bundle: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        replay(tmp_path / "run")
        line = lines_of(tmp_path / "run" / "answers.jsonl")[0]
        one = ["--nuscenes", str(world), "--scene", line["drive"], "--question", line["question"]]
        assert main(["run", str(bundle), *one, "--max-new-tokens", "3", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["answers"][0]["text"] == line["answer"]

    def test_all_frames_give_twelve_sets_a_second_and_the_same_answers(self, replay: Replay, tmp_path: Path) -> None:
        keyframes = replay(tmp_path / "keyframes")
        everything = replay(tmp_path / "all", "--all-frames")
        assert everything["sets"]["there"] == 2 * (3 * 6 + 1)
        assert answered(tmp_path / "all") == answered(tmp_path / "keyframes")
        assert everything["scores"] == keyframes["scores"]

    def test_the_built_in_questions_are_asked_of_every_set(self, replay: Replay, tmp_path: Path) -> None:
        summary = replay(tmp_path / "run", "--questions", "builtin:driving", "--all-frames", "--scenes", "scene-0000")
        assert summary["answers"]["answered"] == 5 * 19
        assert summary["scores"] == {}

    def test_in_real_time_sets_come_at_their_stamps(self, replay: Replay, tmp_path: Path) -> None:
        summary = replay(tmp_path / "run", "--rate", "4", "--scenes", "scene-0000")
        assert 0 < summary["rate"]["achieved"] <= 4.0 * 1.01
        sets = [line for line in lines_of(tmp_path / "run" / "timing.jsonl") if "set" in line]
        assert [line["ready_ms"] for line in sets] == pytest.approx([0, 125, 250, 375], abs=1)
        assert summary["sets"]["taken"] + summary["sets"]["dropped"] == 4

    def test_a_deadline_that_nothing_can_meet_cuts_every_answer_short(self, replay: Replay, tmp_path: Path) -> None:
        summary = replay(tmp_path / "run", "--deadline-ms", "0.001")
        assert summary["answers"]["late"] == summary["answers"]["answered"]
        assert set(summary["answers"]["finish"]) == {"deadline"}


class TestGoingOn:
    def command(self, bundle: Path, world: Path, questions: Path, out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "leo_edge", "replay", str(bundle), "--nuscenes", str(world), "--questions", str(questions)),
            *("--out", str(out), "--max-new-tokens", "3"),
        ]

    def test_a_killed_run_gives_the_same_answers(
        self, replay: Replay, bundle: Path, world: Path, few_questions: Path, tmp_path: Path
    ) -> None:
        """Three times here, twenty times in the slow tests."""
        self.kill(replay, self.command(bundle, world, few_questions, tmp_path / "killed"), tmp_path, times=3)

    @pytest.mark.slow
    def test_a_run_killed_twenty_times_gives_the_same_answers(
        self, replay: Replay, bundle: Path, world: Path, few_questions: Path, tmp_path: Path
    ) -> None:
        self.kill(replay, self.command(bundle, world, few_questions, tmp_path / "killed"), tmp_path, times=20)

    def kill(self, replay: Replay, command: list[str], tmp_path: Path, *, times: int) -> None:
        """Kills a run when its answers have some random length, so often, then lets it finish."""
        replay(tmp_path / "whole")
        expected, out = answered(tmp_path / "whole"), tmp_path / "killed"
        chance = random.Random(times)
        for goal in sorted(chance.randrange(len(expected)) for _ in range(times)):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            path = out / "answers.jsonl"
            while process.poll() is None and (not path.exists() or path.stat().st_size < goal):
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert expected.startswith(path.read_bytes())
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        assert answered(out) == expected
        assert json.loads((out / "summary.json").read_text())["answers"]["answered"] == expected.count(b"\n")

    def test_a_finished_run_is_only_summed_up_again(self, replay: Replay, tmp_path: Path) -> None:
        first = replay(tmp_path / "run")
        before = answered(tmp_path / "run"), (tmp_path / "run" / "timing.jsonl").read_bytes()
        assert replay(tmp_path / "run")["scores"] == first["scores"]
        assert (answered(tmp_path / "run"), (tmp_path / "run" / "timing.jsonl").read_bytes()) == before


@needs_real_frames
class TestRealFrames:
    def test_drivelm_runs_through_and_is_scored(self, replay: Replay, tmp_path: Path) -> None:
        for name, count in (("drivelm_train_sample.json", 395), ("drivelm_test_eval_sample.json", 28)):
            where = ["--nuscenes", NUSCENES_REAL, "--questions", f"drivelm:{DRIVELM / name}"]
            summary = replay(tmp_path / name, *where)
            assert summary["answers"]["answered"] == count
            assert 0 <= summary["scores"]["drivelm"]["final_without_judge"] <= 0.6
            assert (summary["sets"]["there"], summary["sets"]["taken"]) == (7, 4)

    def test_the_built_in_questions_run_through(self, replay: Replay, tmp_path: Path) -> None:
        summary = replay(tmp_path / "run", "--nuscenes", NUSCENES_REAL, "--questions", "builtin:driving")
        assert summary["answers"]["answered"] == 5 * 7


class TestRecording:
    def test_it_is_made_from_a_run_also_when_nothing_is_left_to_play(self, replay: Replay, tmp_path: Path) -> None:
        replay(tmp_path / "run", "--scenes", "scene-0000")
        before = answered(tmp_path / "run")
        replay(tmp_path / "run", "--scenes", "scene-0000", "--rerun", tmp_path / "run.rrd")
        assert (tmp_path / "run.rrd").stat().st_size > 10_000
        assert answered(tmp_path / "run") == before

    def test_a_folder_that_is_not_there_is_told_before_the_work(
        self, bundle: Path, world: Path, few_questions: Path, tmp_path: Path, error_line: CommandLine
    ) -> None:
        given = [
            "--nuscenes",
            world,
            "--questions",
            few_questions,
            "--out",
            tmp_path / "run",
            "--rerun",
            tmp_path / "no" / "a.rrd",
        ]
        assert "for the recording a.rrd: make it, or give another --rerun" in error_line("replay", bundle, *given)
        assert not (tmp_path / "run").exists()


class TestBadInput:
    @pytest.fixture
    def fails(self, error_line: CommandLine, bundle: Path, world: Path, few_questions: Path, tmp_path: Path) -> CommandLine:
        def run(*arguments: object) -> str:
            given = [str(argument) for argument in arguments]
            given += [] if "--nuscenes" in given else ["--nuscenes", str(world)]
            given += [] if "--questions" in given else ["--questions", str(few_questions)]
            given += [] if "--out" in given else ["--out", str(tmp_path / "run")]
            return error_line("replay", bundle, *given)

        return run

    def test_no_such_scene_version_or_split(self, fails: CommandLine) -> None:
        assert "no scene 'scene-9999' in v1.0-drawn, which has 2: scene-0000" in fails("--scenes", "scene-9999")
        assert "no version 'v1.0-mini'" in fails("--version", "v1.0-mini")
        assert "no split 'test-drive' in nuScenes, which has train, val" in fails("--split", "test-drive")
        assert "no scene of split mini_val in v1.0-drawn" in fails("--split", "mini_val")
        assert "--scenes names a scene twice" in fails("--scenes", "scene-0000,scene-0000")

    def test_a_missing_image_is_named_and_what_was_answered_is_kept(
        self, fails: CommandLine, world: Path, few_questions: Path, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(world, broken)
        last = sorted((broken / "samples" / "CAM_BACK").iterdir())[-1]
        last.unlink()
        message = fails("--nuscenes", broken)
        assert f"no image file {last}" in message
        kept = lines_of(tmp_path / "run" / "answers.jsonl")
        assert 0 < len(kept) < len(json.loads(few_questions.read_text())["questions"])

    def test_a_truncated_table_is_named(self, fails: CommandLine, world: Path, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(world, broken)
        table = broken / "v1.0-drawn" / "sample_data.json"
        table.write_text(table.read_text()[:-100])
        assert "sample_data.json" in fails("--nuscenes", broken)

    def test_question_files_of_another_schema_or_other_drives(
        self, fails: CommandLine, few_questions: Path, tmp_path: Path
    ) -> None:
        assert "has no key_frames, expected an object as in DriveLM" in fails("--questions", f"drivelm:{few_questions}")
        (tmp_path / "list.json").write_text("[]")
        assert 'expected {"questions": [...]} as in NuScenes-QA' in fails("--questions", tmp_path / "list.json")
        assert "no question file nowhere.json: give FILE" in fails("--questions", "nowhere.json")
        assert "no built-in questions 'parking': there is builtin:driving" in fails("--questions", "builtin:parking")
        other = json.loads(few_questions.read_text())["questions"][:1]
        (tmp_path / "other.json").write_text(json.dumps({"questions": [other[0] | {"sample_token": "elsewhere"}]}))
        assert "none of the 1 keyframes that" in fails("--questions", tmp_path / "other.json")

    def test_an_out_of_another_run_or_of_something_else(self, fails: CommandLine, replay: Replay, tmp_path: Path) -> None:
        replay(tmp_path / "run")
        before = answered(tmp_path / "run")
        assert "is a run with play" in fails("--max-new-tokens", "4")
        assert "choose another --out" in fails("--max-new-tokens", "3", "--scenes", "scene-0000")
        assert answered(tmp_path / "run") == before
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").touch()
        assert "holds something else than a replay run" in fails("--out", tmp_path / "mine")

    def test_numbers_that_mean_nothing(self, fails: CommandLine) -> None:
        assert "--rate must be 0.01 to 1000, got 0: 1 is real time" in fails("--rate", "0")
        assert "--deadline-ms must be above 0, got -1" in fails("--deadline-ms", "-1")
        assert "--max-new-tokens must be at least 1, got 0" in fails("--max-new-tokens", "0")

    def test_a_diff_of_no_run_or_of_an_unfinished_one(self, error_line: CommandLine, replay: Replay, tmp_path: Path) -> None:
        replay(tmp_path / "run")
        assert "run.json: give the directory of a replay run" in error_line("replay-diff", tmp_path / "run", tmp_path)
        (tmp_path / "run" / "summary.json").unlink()
        assert "the run is not finished, go on with it" in error_line("replay-diff", tmp_path / "run", tmp_path / "run")
