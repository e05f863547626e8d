"""`leo-edge bench BUNDLE`: how long each stage takes, and how near that is to what the machine can do."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.bench.result import QUESTION
from leo_edge.commands.progress import say
from leo_edge.runtime.engine_choice import BACKENDS
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.commands.bench_sides import BundleSide, PeerSide
    from leo_edge.runtime.frames import FrameSet

_NUM_CAMERAS = 6
_SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--frames", type=Path, metavar="SRC", help="a nuScenes dataset, a drive, or a folder of images (default: drawn noise)"
    )
    parser.add_argument("--cameras", type=int, metavar="N", help="take the first N cameras (default: all; of noise, 6)")
    parser.add_argument("--max-tiles", type=int, metavar="N", help="cut a camera into at most N tiles (default: the bundle's)")
    parser.add_argument("--question", default=QUESTION, metavar="TEXT", help=f"(default: {QUESTION})")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="tokens of every answer (default 32)")
    parser.add_argument(
        "--savings",
        action="store_true",
        help="let an answer reuse what the last one did (default: every answer is a first one)",
    )
    parser.add_argument("--repeat", type=int, default=30, metavar="N", help="rounds, the warm-up not counted (default 30)")
    parser.add_argument("--vs", metavar="CMD-OR-BUNDLE", help="measure another bundle, or a command, in turns with this one")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write the result to a file; that of --vs to one with .vs in it"
    )
    parser.add_argument("--no-limits", action="store_true", help="do not measure what the machine can do")
    parser.add_argument("--backend", default="auto", choices=BACKENDS)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: its own choice)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import numpy as np

    from leo_edge.bench.measure import samples_of, take_turns
    from leo_edge.bench.report import result_text
    from leo_edge.bench.versus import versus_text
    from leo_edge.commands.bench_sides import Probe
    from leo_edge.runtime.engine_choice import check_backend

    _check(args)
    check_backend(args.backend)
    run_id, frame_sets = secrets.token_hex(6), _frame_sets(args)
    with ExitStack() as stack:
        sides = _open_sides(args, frame_sets, stack)
        probe = Probe(sides[0].pipeline, args.threads, limits=not args.no_limits)
        say(f"measuring {args.repeat} rounds" + (", each of A and of B" if args.vs else ""))
        rounds = take_turns([side.subject for side in sides], args.repeat, _counter(args.repeat))
        machine = probe.machine()
        measured = [samples_of(each) for each in rounds]
        results = [side.result(run_id, stages, machine) for side, stages in zip(sides, measured, strict=True)]
    texts = [result_text(result) for result in results]
    if args.vs is not None:
        texts = [
            f"A: {args.bundle}\n{texts[0]}",
            f"B: {args.vs}\n{texts[1]}",
            versus_text(measured[0], measured[1], np.random.default_rng(_SEED)),
        ]
    if args.json is not None:
        for result, path in zip(results, (args.json, versus_path(args.json)), strict=False):
            path.write_text(result.to_json(), encoding="utf-8")
    print("\n\n".join(texts))
    return 0


def versus_path(path: Path) -> Path:
    """Returns where the result of `--vs` is written: result.json becomes result.vs.json."""
    return path.with_name(f"{path.stem}.vs{path.suffix}")


def _check(args: argparse.Namespace) -> None:
    for option, least in (("repeat", 2), ("max_new_tokens", 2), ("cameras", 1), ("max_tiles", 1)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise LeoEdgeError(f"--{option.replace('_', '-')} must be at least {least}, got {value}")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise LeoEdgeError(f"--json {args.json}: no folder {args.json.absolute().parent}: make it first")


def _frame_sets(args: argparse.Namespace) -> tuple[FrameSet, ...]:
    import numpy as np

    from leo_edge.bench.frame_sets import noise_frame_sets, read_frame_sets

    if args.frames is not None:
        return read_frame_sets(args.frames, args.cameras)
    say(f"no --frames: images of noise, drawn from seed {_SEED}")
    return noise_frame_sets(args.cameras or _NUM_CAMERAS, np.random.default_rng(_SEED))


def _open_sides(
    args: argparse.Namespace, frame_sets: tuple[FrameSet, ...], stack: ExitStack
) -> tuple[BundleSide] | tuple[BundleSide, BundleSide | PeerSide]:
    """Opens and warms up one after the other: so the memory that each takes is known."""
    from leo_edge.bench.measure import warm_up
    from leo_edge.bench.memory import held_bytes
    from leo_edge.bench.versus import PeerSubject
    from leo_edge.commands.bench_sides import AskedFor, BundleSide, PeerSide

    asked = AskedFor(frame_sets, args.question, args.max_new_tokens, args.max_tiles, args.savings, args.backend, args.threads)
    base_bytes = held_bytes()
    ours = BundleSide(args.bundle, asked, base_bytes)
    if args.vs is None:
        return (ours,)
    if Path(args.vs).is_dir():
        return ours, BundleSide(Path(args.vs), asked, base_bytes)
    peer = stack.enter_context(PeerSubject(args.vs, {name: stage.per for name, stage in ours.warm_up[-1].items()}))
    return ours, PeerSide(peer, warm_up(peer), ours.subject.load)


def _counter(rounds: int) -> Callable[[], None]:
    """Returns what counts the rounds on a terminal."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            print(f"\rround {done} of {rounds}", end="\n" if done == rounds else "", file=sys.stderr, flush=True)

    return count
