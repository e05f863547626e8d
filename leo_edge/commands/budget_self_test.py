"""`leo-edge budget-self-test [BUNDLE]`: how often `budget --baseline` errs on this machine, measured."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.bench.result import QUESTION
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.bench.measure import Subject
    from leo_edge.bench.self_test import Rate

_SEED = 0
_ANSWER_TOKENS = 4
_MOST_ROUNDS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "bundle", metavar="BUNDLE", type=Path, nargs="?", help="what to measure (default: the demo's tiny model)"
    )
    parser.add_argument("--trials", type=int, default=100, metavar="N", help="of each kind (default 100)")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"of each trial (default: as many as catch 5 %% on this machine now, at most {_MOST_ROUNDS})",
    )
    parser.add_argument("--cameras", type=int, default=1, metavar="N", help="images of noise in each round (default 1)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: its own choice)")
    parser.add_argument("--json", action="store_true", help="print the rates as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if nothing is called slower too often, or a slowdown of 10 % not often enough."""
    from leo_edge.bench.regression import FEWEST_ROUNDS

    for option, least in (("trials", 1), ("rounds", FEWEST_ROUNDS), ("cameras", 1)):
        value = getattr(args, option)
        if value is not None and value < least:
            raise LeoEdgeError(f"--{option} must be at least {least}, got {value}")
    if args.bundle is not None:
        return _self_test(args, args.bundle)
    from leo_edge.commands.demo_parts import export_shipped

    with tempfile.TemporaryDirectory(prefix="leo-edge-") as directory:
        bundle = Path(directory) / "bundle"
        export_shipped(bundle)
        return _self_test(args, bundle)


def _self_test(args: argparse.Namespace, bundle: Path) -> int:
    import numpy as np

    from leo_edge.bench.frame_sets import noise_frame_sets
    from leo_edge.bench.measure import ANSWER, PipelineSubject, warm_up
    from leo_edge.bench.self_test import SLOWDOWNS, kept, rates_text, run_trials
    from leo_edge.runtime.pipeline import open_pipeline

    random = np.random.default_rng(_SEED)
    pipeline = open_pipeline(open_with_progress(bundle), threads=args.threads)
    frame_sets = noise_frame_sets(args.cameras, random)
    subject = PipelineSubject(pipeline, frame_sets, QUESTION, answer_tokens=_ANSWER_TOKENS)
    round_ms = warm_up(subject)[-1][ANSWER].ms
    rounds = args.rounds or _rounds_for(subject)
    minutes = args.trials * rounds * (len(SLOWDOWNS) + 1) * round_ms / 6e4
    say(f"{args.trials} trials of {rounds} rounds of {round_ms:.0f} ms, in turns with 3 copies: about {minutes:.0f} minutes")
    rates = run_trials(
        subject, random, trials=args.trials, rounds=rounds, answer_tokens=_ANSWER_TOKENS, on_trial=_show(args.trials)
    )
    passed = kept(rates)
    if args.json:
        shown = [dataclasses.asdict(rate) | {"share": rate.share, "interval": rate.interval} for rate in rates]
        print(json.dumps({"passed": passed, "rounds": rounds, "rates": shown}, indent=1))
    else:
        print(f"{rates_text(rates)}\n{rounds} rounds a trial")
    return 0 if passed else 1


def _rounds_for(subject: Subject) -> int:
    """Returns how many rounds the machine's noise needs now, and says so."""
    from leo_edge.bench.self_test import rounds_for

    spread, needed = rounds_for(subject)
    rounds = min(needed, _MOST_ROUNDS)
    short = "" if rounds == needed else f": {rounds} are taken; a quieter machine needs fewer, --rounds takes more"
    say(f"ratios of rounds spread by {spread:.1%}, so a slip of 5 % needs {needed} rounds{short}")
    return rounds


def _show(trials: int) -> Callable[[Sequence[Rate]], None]:
    """Returns what tells of the trials so far, on a terminal."""

    def show(rates: Sequence[Rate]) -> None:
        if sys.stderr.isatty():
            alarms = ", ".join(f"{rate.alarms} at {rate.slowdown:.0%}" for rate in rates)
            done = rates[0].trials
            print(
                f"\rtrial {done} of {trials}; called slower: {alarms}",
                end="\n" if done == trials else "",
                file=sys.stderr,
                flush=True,
            )

    return show
