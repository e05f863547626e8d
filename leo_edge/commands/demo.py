"""`leo-edge demo`: a random checkpoint becomes a bundle, and six camera frames become answers."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from leo_edge.commands.progress import say
from leo_edge.commands.report import latency_table
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import FrameSet

PRESET = "leo-mini-tiny"
# Says that the checkpoint and the bundle beside it are the demo's own.
_MARKER = ".leo-edge-demo"
QUESTIONS = ("What is ahead of the vehicle?", "Is it safe to change to the left lane?", "What should the vehicle do next?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--nuscenes", type=Path, metavar="ROOT", help="take real frames from this dataset (default: drawn ones)"
    )
    parser.add_argument("--scene", default="scene-0061", metavar="NAME", help="of the dataset (default scene-0061)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="where to write (default out/demo)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.export.exporter import ExportOptions, export_bundle
    from leo_edge.export.random_checkpoint import write_random_checkpoint
    from leo_edge.runtime.pipeline import open_pipeline

    frame_set, source = _frames(args)
    checkpoint, bundle = args.out / "checkpoint", args.out / "bundle"
    _clear(args.out, (checkpoint, bundle))
    say(f"writing a random-weight {PRESET} checkpoint to {checkpoint}")
    write_random_checkpoint(PRESET, checkpoint)
    say(f"exporting it to {bundle}")
    export_bundle(checkpoint, bundle, ExportOptions(), say)
    pipeline = open_pipeline(bundle)
    pipeline.ask(pipeline.encode(frame_set), QUESTIONS[0])  # warm-up
    tokens = pipeline.encode(frame_set)
    print(f"\nSix cameras ({source}), {pipeline.backend}.")
    print("The weights are random, so the words mean nothing: what you see is that everything runs, and how long it takes.\n")
    answers = [pipeline.ask(tokens, question) for question in QUESTIONS]
    for answer in answers:
        print(f"Q: {answer.question}\nA: {answer.text!r}\n   ({len(answer.token_ids)} tokens, {answer.finish.value})")
    print("\n" + latency_table(tokens, answers))
    prompt, context = answers[0].num_prompt_tokens, pipeline.decoder.context_len
    print(f"\nprompt {prompt} of {context} tokens, {answers[0].num_visual_tokens} of them visual; bundle in {bundle}")
    return 0


def _clear(out: Path, directories: tuple[Path, ...]) -> None:
    """Removes what the demo's last run wrote to `out`, and nothing else."""
    marker = out / _MARKER
    foreign = [directory for directory in directories if directory.exists() and not marker.exists()]
    if foreign:
        raise LeoEdgeError(f"{foreign[0]} is there already and not of the demo: choose another --out")
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _frames(args: argparse.Namespace) -> tuple[FrameSet, str]:
    """Returns real frames where a dataset was given, else drawn ones, and says which."""
    if args.nuscenes is None:
        from leo_edge.demo.pattern import pattern_frames

        return pattern_frames(), "drawn frames"
    from leo_edge.replay.nuscenes import NuScenesDrives

    drives = NuScenesDrives(args.nuscenes)
    frame_set = drives.frame_set(drives.sample_at(args.scene, 0))
    frame_set.require_complete()
    return frame_set, f"{args.scene} of {args.nuscenes}"
