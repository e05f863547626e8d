"""`leo-edge run BUNDLE`: questions about one frame set, from image files or from nuScenes."""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.progress import open_with_progress, say
from leo_edge.commands.report import latency_table, printable
from leo_edge.runtime.engine_choice import BACKENDS
from leo_edge.runtime.errors import FrameError, LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, FrameSet, load_frame, load_frames
from leo_edge.runtime.spans import spans_to_json

if TYPE_CHECKING:
    from leo_edge.runtime.answer import Answer
    from leo_edge.runtime.pipeline import AskOptions
    from leo_edge.runtime.tokens import VisualTokens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", nargs="+", metavar="CAMERA=FILE", help="one image file per camera")
    source.add_argument("--nuscenes", type=Path, metavar="ROOT", help="a nuScenes dataset, with --scene")
    parser.add_argument("--version", metavar="V", help="of the dataset, such as v1.0-mini (default: the only one there)")
    parser.add_argument("--scene", metavar="NAME", help="name of a scene, such as scene-0061")
    parser.add_argument("--sample", type=int, metavar="N", help="keyframe of the scene, from 0 (default 0)")
    parser.add_argument(
        "--cameras", nargs="+", default=list(NUSCENES_CAMERAS), metavar="CAMERA", help="cameras to use, in prompt order"
    )
    parser.add_argument("--question", action="append", required=True, metavar="TEXT", help="may be given more than once")
    parser.add_argument(
        "--choice",
        action="append",
        default=[],
        metavar="TEXT",
        help="answer with the likeliest of these; may be given more than once",
    )
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer (default 32)")
    parser.add_argument("--deadline-ms", type=float, metavar="MS", help="stop decoding this long after the question")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest tokens of this much probability")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default 0)")
    parser.add_argument("--backend", default="auto", choices=BACKENDS)
    parser.add_argument("--threads", type=int, default=0, help="of the engine (default: its own choice)")
    parser.add_argument(
        "--standard-graphs", action="store_true", help="run on the CPU what TensorRT builds from, not the graphs' CPU forms"
    )
    parser.add_argument("--json", action="store_true", help="print the answers as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.runtime.engine_choice import check_backend
    from leo_edge.runtime.pipeline import open_pipeline

    check_backend(args.backend)
    options = _ask_options(args)
    frame_set = _frame_set(args)
    pipeline = open_pipeline(
        open_with_progress(args.bundle), args.backend, threads=args.threads, standard_graphs=args.standard_graphs
    )
    tokens = pipeline.encode(frame_set)
    answers = []
    for question in args.question:
        if not args.json:
            print(f"Q: {question}\nA: ", end="", flush=True)
        try:
            answers.append(pipeline.ask(tokens, question, options, on_text=_ignore if args.json else _print_piece))
        except LeoEdgeError:
            print(end="" if args.json else "\n", flush=True)  # the error's line begins on its own
            raise
        if not args.json:
            print(f"\n   ({_summary(answers[-1])})")
    if args.json:
        print(json.dumps(_report(frame_set, tokens, answers), indent=1, ensure_ascii=False))
    else:
        say(f"{pipeline.backend}, bundle {pipeline.bundle.id}")
        print(latency_table(tokens, answers))
    return 0


def _ask_options(args: argparse.Namespace) -> AskOptions:
    from leo_edge.runtime.pipeline import AskOptions
    from leo_edge.runtime.sampling import Sampling

    try:
        sampling = Sampling(args.temperature, args.top_p, args.seed)
        return AskOptions(args.max_new_tokens, args.deadline_ms, sampling, choices=tuple(args.choice))
    except ValueError as error:
        raise LeoEdgeError(str(error)) from None


def _frame_set(args: argparse.Namespace) -> FrameSet:
    """Reads the cameras' images; every camera that was asked for must be there."""
    if args.nuscenes is None:
        if any(value is not None for value in (args.scene, args.sample, args.version)):
            raise LeoEdgeError("--scene, --sample and --version go with --nuscenes, not with --images")
        frames = load_frames([partial(load_frame, *_split(entry)) for entry in args.images])
        frame_set = FrameSet.of(frames, expected_channels=args.cameras)
    else:
        from leo_edge.replay.nuscenes import NuScenesDrives

        if args.scene is None:
            raise LeoEdgeError("--nuscenes needs --scene NAME: say which drive")
        drives = NuScenesDrives(args.nuscenes, args.version)
        frame_set = drives.frame_set(drives.sample_at(args.scene, args.sample or 0), args.cameras)
    if frame_set.missing:
        given, missing = " ".join(frame_set.channels), ", ".join(frame_set.missing)
        raise FrameError(f"missing cameras {missing}: give their images, or name those you have with --cameras {given}")
    return frame_set


def _split(entry: str) -> tuple[str, Path]:
    channel, equals, path = entry.partition("=")
    if not (channel and equals and path):
        raise LeoEdgeError(f"--images got {entry!r}: expected CAMERA=FILE, such as CAM_FRONT=front.jpg")
    return channel, Path(path)


def _report(frame_set: FrameSet, tokens: VisualTokens, answers: list[Answer]) -> dict[str, object]:
    return {
        "cameras": list(frame_set.channels),
        "stamp_ns": frame_set.stamp_ns,
        "encode_spans": spans_to_json(tokens.spans),
        "answers": [answer.to_json() for answer in answers],
    }


def _summary(answer: Answer) -> str:
    parts = [f"{len(answer.token_ids)} tokens, {answer.finish.value}", f"first after {answer.first_token_ms:.1f} ms"]
    if answer.per_token_ms is not None:
        parts.append(f"then {answer.per_token_ms:.2f} ms each")
    if answer.num_reused_tokens:
        parts.append(f"{answer.num_reused_tokens} of {answer.num_prompt_tokens} prompt tokens reused")
    if answer.num_drafted_tokens:
        parts.append(f"{answer.num_accepted_tokens} of {answer.num_drafted_tokens} drafted tokens right")
    parts += [f"{score.text}: {'' if score.exact else 'at most '}{math.exp(score.log_prob):.1%}" for score in answer.choices]
    if answer.deadline_met is not None:
        parts.append("deadline met" if answer.deadline_met else "deadline missed")
    return ", ".join(parts)


def _print_piece(piece: str) -> None:
    """Prints text as it appears."""
    sys.stdout.write(printable(piece))
    sys.stdout.flush()


def _ignore(_: str) -> None:
    return
