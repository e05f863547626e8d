"""`leo-edge calibrate BUNDLE`: what the bundle's activations look like on real questions, as a table for `quantize`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from leo_edge.calib.histogram import RANGES
from leo_edge.commands.drives import QUESTIONS_HELP, ChosenSet, add_drive_arguments, choose, source_options
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.errors import CalibrationError

if TYPE_CHECKING:
    from leo_edge.calib.observe import Observer
    from leo_edge.replay.queries import Queries
    from leo_edge.replay.source import FrameSource

_SAVE_EVERY_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a float bundle")
    add_drive_arguments(parser.add_argument_group("drives"))
    parser.add_argument("--questions", required=True, metavar="FILE", help=QUESTIONS_HELP)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="TABLE", help="the table to write; an interrupted one goes on"
    )
    parser.add_argument("--frames", type=int, default=64, metavar="N", help="frame sets (default 64)")
    parser.add_argument("--per-frame", type=int, default=5, metavar="N", help="questions about each (default 5)")
    parser.add_argument("--range", choices=tuple(RANGES), default="minmax", help="how `quantize` takes ranges (default minmax)")
    parser.add_argument(
        "--modality-prompts",
        type=int,
        default=8,
        metavar="N",
        help="prompts that MBQ's sensitivities are measured on (default 8)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of frames (default 0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: its own choice)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.calib.observe import Observer
    from leo_edge.calib.table import CalibrationTable, write_table
    from leo_edge.replay.queries import open_queries

    if args.per_frame < 1:
        raise CalibrationError(f"--per-frame must be at least 1, got {args.per_frame}")
    if args.modality_prompts < 0:
        raise CalibrationError(f"--modality-prompts must be 0 or more, got {args.modality_prompts}")
    if args.out.exists():
        raise CalibrationError(f"{args.out} exists: choose another --out, or remove it")
    if not args.out.parent.is_dir():
        raise CalibrationError(f"no folder {args.out.parent} for the table: make it, or give another --out")
    bundle = open_with_progress(args.bundle)
    source, queries = source_options(args).open(), open_queries(args.questions)
    chosen = choose(source, queries, args.frames, args.per_frame, args.seed)
    observer = Observer(bundle, threads=args.threads)
    provenance = _provenance(args, bundle.id, source, queries, chosen)
    _observe(observer, chosen, provenance, args.out)
    _measure_modalities(observer, chosen[: args.modality_prompts], args.threads)
    write_table(args.out, CalibrationTable(observer.statistics, provenance))
    with suppress(FileNotFoundError):
        _partial(args.out).unlink()
    num_questions = sum(len(one.queries) for one in chosen)
    print(f"{args.out}: {len(observer.statistics)} activations over {len(chosen)} frame sets and {num_questions} questions")
    return 0


def _provenance(
    args: argparse.Namespace, bundle_id: str, source: FrameSource, queries: Queries, chosen: list[ChosenSet]
) -> dict[str, Any]:
    return {
        "bundle": bundle_id,
        "range": args.range,
        "source": source.describe(),
        "questions": queries.name,
        "questions_sha256": queries.fingerprint,
        "frames": [one.planned.sample or str(one.planned.stamp_ns) for one in chosen],
        "question_ids": [[query.id for query in one.queries] for one in chosen],
        "modality_prompts": args.modality_prompts,
        "seed": args.seed,
        "versions": {name: metadata.version(name) for name in ("leo_edge", "onnxruntime", "numpy")},
    }


def _observe(observer: Observer, chosen: list[ChosenSet], provenance: dict[str, Any], out: Path) -> None:
    """Observes behind a progress bar, and keeps what is done so far beside the table."""
    from tqdm import tqdm

    from leo_edge.calib.table import CalibrationTable, read_table, write_table

    partial = _partial(out)
    done = 0
    if partial.exists():
        begun = read_table(partial)
        done = int(begun.provenance.pop("done", 0))
        if begun.provenance != provenance:
            raise CalibrationError(f"{partial} was begun with other options: give the same, or remove it")
        observer.statistics = begun.statistics
        say(f"going on with {partial} after {done} frame sets")
    saved_s = monotonic()
    with tqdm(total=len(chosen), initial=done, unit="set", disable=None) as bar:
        for number, one in _numbered(chosen, done):
            observer.observe(one.planned.load(), [query.question for query in one.queries], number)
            bar.update()
            if monotonic() - saved_s > _SAVE_EVERY_S:
                write_table(partial, CalibrationTable(observer.statistics, provenance | {"done": number + 1}))
                saved_s = monotonic()
    write_table(partial, CalibrationTable(observer.statistics, provenance | {"done": len(chosen)}))


def _measure_modalities(observer: Observer, chosen: list[ChosenSet], threads: int) -> None:
    """Measures what MBQ needs, on the first question about each frame set, behind a progress bar."""
    from tqdm import tqdm

    from leo_edge.calib.modality import NoisyLlm, measure

    if not chosen:
        return
    sequences = [observer.sequence(one.planned.load(), one.queries[0].question) for one in chosen]
    llm = NoisyLlm(observer.pipeline.bundle, threads=threads)
    found = measure(llm, sequences, observer.statistics)
    for name, sensitivity in tqdm(found, total=len(llm.widths), unit="activation", disable=None):
        observer.statistics["llm", name].sensitivity = sensitivity


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _numbered(chosen: list[ChosenSet], start: int) -> Iterator[tuple[int, ChosenSet]]:
    yield from list(enumerate(chosen))[start:]
