"""`leo-edge demo`: the trained tiny model becomes a bundle and answers about a drawn world. `demo JOB` does one job alone."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands import demo_ros, demo_score, demo_train, demo_world
from leo_edge.commands.demo_parts import draw_drive, export_shipped
from leo_edge.commands.report import latency_table
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.demo.scoring import SplitSet
    from leo_edge.replay.question_set import Question
    from leo_edge.runtime.pipeline import Pipeline

# Says that what is beside it is the demo's own.
_MARKER = ".leo-edge-demo"
_WRITTEN = ("bundle", "drive", "replay")
_JOBS = {
    "world": (demo_world, "draw a world and write it as a dataset in nuScenes format"),
    "train": (demo_train, "train the tiny LEO-MINI on the drawn world"),
    "ros": (demo_ros, "answer over ROS: player and node in two processes"),
    "score": (demo_score, "score a bundle or a checkpoint on the drawn world's questions"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments, and those of its jobs."""
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="where to write (default out/demo)")
    parser.add_argument(
        "--scenes", type=int, default=150, metavar="N", help="score on the first N val scenes (default 150: the model card's)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="of the drive that is replayed (default 20)")
    jobs = parser.add_subparsers(
        dest="job", metavar="JOB", title="jobs", description="without one: export, answer, score, replay"
    )
    for name, (command, summary) in _JOBS.items():
        command.add_arguments(jobs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."))


def run(args: argparse.Namespace) -> int:
    """Runs a job, or the whole demo; 1 if the demo's answers are not those of the model card."""
    return _JOBS[args.job][0].run(args) if args.job else _demo(args.out, args.scenes, args.seconds)


def _demo(out: Path, scenes: int, seconds: float) -> int:
    from leo_edge.demo.answer_file import CARD_ANSWERS, AnswerFile
    from leo_edge.demo.answering import BundleAnswerer
    from leo_edge.demo.scoring import SplitOptions
    from leo_edge.runtime.pipeline import open_pipeline

    options, card = SplitOptions(scenes=scenes), AnswerFile.read(CARD_ANSWERS)
    bundle = out / "bundle"
    _clear(out)
    export_shipped(bundle)
    split = demo_score.draw(options)
    pipeline = open_pipeline(bundle)
    print("\n" + _show(pipeline, split))
    started = time.monotonic()
    answers = demo_score.answer(BundleAnswerer(pipeline), split)
    print(f"\nExact match on {len(split.questions)} questions of {scenes} val scenes, which training never saw:\n")
    print(demo_score.table(split, answers))
    rate = 2 * len(split.questions) / (time.monotonic() - started)
    print(f"\n{rate:.0f} answers a second, encoding included; bundle in {bundle}")
    agreed = demo_score.agreement_with(card.answers, answers) if options == card.options else None
    if agreed is not None:
        print(f"{agreed.equal} of {agreed.total} answers equal those of the model card")
    print("\n" + _replay_drive(out, bundle, seconds))
    return 1 if agreed is not None and agreed.differing else 0


def _replay_drive(out: Path, bundle: Path, seconds: float) -> str:
    """Draws a val drive and replays it with all questions about it; returns accuracy, latencies and the report's path."""
    from leo_edge.commands.replay import replay_to
    from leo_edge.replay.nuscenes_source import NuScenesOptions
    from leo_edge.replay.replayer import PlayOptions
    from leo_edge.replay.session import ReplayJob, play_here

    drive = out / "drive"
    draw_drive(drive, seconds)
    job = ReplayJob(bundle, NuScenesOptions(drive), str(drive / "questions" / "val.json"), PlayOptions())
    summary, text = replay_to(out / "replay", job, play_here)
    (name,) = summary["run"]["drives"]
    asked = f"{summary['sets']['taken']} keyframes, {summary['answers']['answered']} questions"
    return f"A whole val drive from the disk ({name}, {asked}):\n\n{text}"


def _show(pipeline: Pipeline, split: SplitSet) -> str:
    """Answers a question of each type about the keyframe that is asked about most types; shows where the time goes."""
    by_keyframe: dict[int, dict[str, Question]] = {}
    for item, question in zip(split.items, split.questions, strict=True):
        by_keyframe.setdefault(item.keyframe, {})[question.template_type] = question
    keyframe = max(by_keyframe, key=lambda number: len(by_keyframe[number]))
    shown, frames = list(by_keyframe[keyframe].values()), split.frames[keyframe]
    pipeline.ask(pipeline.encode(frames), shown[0].question)  # warm-up
    tokens = pipeline.encode(frames)
    answers = [pipeline.ask(tokens, question.question) for question in shown]
    lines = [f"A drawn val scene ({split.scenes[keyframe]}), six cameras, {pipeline.backend}.", ""]
    for question, answer in zip(shown, answers, strict=True):
        verdict = "right" if answer.text == question.answer else f"WRONG, the truth is: {question.answer}"
        lines += [f"Q: {question.question}", f"A: {answer.text}   ({verdict})"]
    return "\n".join([*lines, "", latency_table(tokens, answers)])


def _clear(out: Path) -> None:
    """Removes what the demo's last run wrote to `out`, and nothing else."""
    marker, written = out / _MARKER, [out / name for name in _WRITTEN]
    if not marker.exists() and (there := [path for path in written if path.exists()]):
        raise LeoEdgeError(f"{there[0]} is there already and not of the demo: choose another --out")
    for path in written:
        shutil.rmtree(path, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
