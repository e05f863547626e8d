"""`leo-edge replay BUNDLE`: recorded drives through the pipeline that drives, answered, scored and reported."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.drives import QUESTIONS_HELP, add_drive_arguments, source_options
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.engine_choice import BACKENDS
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.replay.replayer import PlayOptions
    from leo_edge.replay.run_files import Json, Outcome, Run
    from leo_edge.replay.session import OpenReplay, PlayParts, ReplayJob
    from leo_edge.replay.source import FrameSource

    WriteRecording = Callable[[Run, FrameSource], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--questions", required=True, metavar="FILE", help=QUESTIONS_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="where to write; an interrupted run goes on")
    _add_drives(parser.add_argument_group("drives"))
    _add_playing(parser.add_argument_group("playing"))
    parser.add_argument("--rerun", type=Path, metavar="FILE.rrd", help="write a recording for the Rerun viewer too")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_drives(group: argparse._ArgumentGroup) -> None:
    add_drive_arguments(group)
    frames = group.add_mutually_exclusive_group()
    frames.add_argument("--keyframes", action="store_true", help="2 frame sets a second (default)")
    frames.add_argument("--all-frames", action="store_true", help="all camera frames, 12 sets a second")


def _add_playing(group: argparse._ArgumentGroup) -> None:
    speed = group.add_mutually_exclusive_group()
    speed.add_argument("--rate", type=float, metavar="R", help="play R seconds a second: 1 is real time, and late sets drop")
    speed.add_argument("--as-fast-as-possible", action="store_true", help="wait for nothing, drop nothing (default)")
    group.add_argument("--deadline-ms", type=float, metavar="MS", help="answer this long after a frame set is there, or stop")
    group.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer (default 32)")
    group.add_argument("--backend", default="auto", choices=BACKENDS)
    group.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: its own choice)")
    group.add_argument("--ray", metavar="ADDRESS", help="spread the drives over a Ray cluster, or `local`: over this machine")
    group.add_argument("--ray-workers", type=int, metavar="N", help="drives at once (default: one per CPU and engine thread)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.replay.session import ReplayJob

    play_parts = _play_parts(args)
    source = source_options(args, all_frames=args.all_frames)
    job = ReplayJob(args.bundle, source, args.questions, _play_options(args), args.backend, args.threads)
    summary, text = replay_to(args.out, job, play_parts, _recording_writer(args.rerun))
    if args.rerun is not None:
        text += f"\nrecording: {args.rerun}"
    print(json.dumps(summary, indent=1) if args.json else text)
    return 0


def replay_to(
    out: Path, job: ReplayJob, play_parts: PlayParts, write_recording: WriteRecording = lambda *_: None
) -> tuple[Json, str]:
    """Replays to `out`, sums up, writes the report and, last, a recording; returns the summary, and as text with its path.

    Raises:
        LeoEdgeError: something is missing or broken.
    """
    from leo_edge.replay.report import write_report
    from leo_edge.replay.run_files import read_run
    from leo_edge.replay.session import OpenReplay
    from leo_edge.replay.summary import answers_by_id, summarize, summary_lines
    from leo_edge.runtime.whole_file import write_whole

    replay = OpenReplay(job, open_with_progress(job.bundle))
    _play(replay, out, play_parts)
    recorded = read_run(out)
    summary = summarize(recorded, replay.queries)
    write_whole(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_report(out / "report.html", recorded, summary, replay.source, replay.bundle)
    write_recording(recorded, replay.source)
    table = replay.queries.table(answers_by_id(recorded))
    return summary, "\n".join([table, "", *summary_lines(summary), "", f"report: {out / 'report.html'}"])


def _play(replay: OpenReplay, out: Path, play_parts: PlayParts) -> None:
    """Plays behind a progress bar."""
    from tqdm import tqdm

    from leo_edge.replay.session import run_replay

    say(f"replaying to {out}")
    with tqdm(unit="set", disable=None) as bar:

        def tick(outcome: Outcome) -> None:
            bar.update("set" in outcome.timing)

        run_replay(replay, out, play_parts=play_parts, on_outcome=tick)


def _play_parts(args: argparse.Namespace) -> PlayParts:
    """Where the work is done: here, or on a cluster."""
    from leo_edge.replay.session import play_here

    if args.ray_workers is not None and (args.ray is None or args.ray_workers < 1):
        raise LeoEdgeError(f"--ray-workers must be at least 1 and goes with --ray, got {args.ray_workers}")
    if args.ray is None:
        return play_here
    if args.rate is not None:
        raise LeoEdgeError("--rate asks what one vehicle computer does in time, --ray spreads the work: leave one of them out")
    from leo_edge.replay.cluster import Cluster

    return Cluster(args.ray, args.ray_workers).play


def _recording_writer(path: Path | None) -> WriteRecording:
    """What writes the recording, so that what it needs is missed before the work, not after it."""
    if path is None:
        return lambda *_: None
    from leo_edge.replay.rerun_file import write_rerun

    if not path.parent.is_dir():
        raise LeoEdgeError(f"no folder {path.parent} for the recording {path.name}: make it, or give another --rerun")
    return partial(write_rerun, path)


def _play_options(args: argparse.Namespace) -> PlayOptions:
    from leo_edge.replay.player import check_rate
    from leo_edge.replay.replayer import PlayOptions

    if args.deadline_ms is not None and not 0 < args.deadline_ms < math.inf:
        raise LeoEdgeError(f"--deadline-ms must be above 0, got {args.deadline_ms:g}")
    if args.max_new_tokens < 1:
        raise LeoEdgeError(f"--max-new-tokens must be at least 1, got {args.max_new_tokens}")
    rate = None if args.rate is None else check_rate(args.rate)
    return PlayOptions(rate, args.deadline_ms, args.max_new_tokens)
