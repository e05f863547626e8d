"""`leo-edge verify BUNDLE REFERENCE`: a float bundle against its checkpoint, a quantized one against its float bundle."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.drives import QUESTIONS_HELP, add_drive_arguments, choose, source_options
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from leo_edge.export.verify import Report
    from leo_edge.export.verify_int8 import Int8Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "reference", metavar="REFERENCE", type=Path, help="its checkpoint; of a quantized bundle, the float bundle"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs, or of the choice of frames (default 0)")
    parser.add_argument(
        "--cpu-forms", action="store_true", help="of a float bundle, check what runs on a CPU in place of the standard graphs"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    group = parser.add_argument_group("frames, for a quantized bundle")
    add_drive_arguments(group, required=False)
    group.add_argument("--questions", metavar="FILE", help=QUESTIONS_HELP)
    group.add_argument("--frames", type=int, default=16, metavar="N", help="frame sets (default 16)")
    group.add_argument("--per-frame", type=int, default=5, metavar="N", help="questions about each (default 5)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if the bundle is not the reference."""
    if (args.reference / MANIFEST_NAME).is_file():
        return _run_int8(args)
    from leo_edge.export.checkpoint import Checkpoint
    from leo_edge.export.verify import verify

    bundle = open_with_progress(args.bundle)
    if record := bundle.manifest.provenance.get("quantized"):
        raise LeoEdgeError(f"{args.bundle} is quantized: give the float bundle {record['from_bundle']} that it was made from")
    report = verify(bundle, Checkpoint.open(args.reference), seed=args.seed, say=say, cpu_forms=args.cpu_forms)
    print(json.dumps(dataclasses.asdict(report) | {"passed": report.passed}, indent=1) if args.json else _table(report))
    return 0 if report.passed else 1


def _run_int8(args: argparse.Namespace) -> int:
    from leo_edge.export.verify_int8 import verify_int8
    from leo_edge.replay.queries import open_queries

    if args.questions is None or (args.nuscenes is None and args.folders is None and args.bags is None):
        raise LeoEdgeError(
            "a quantized bundle is verified on real frames: give --nuscenes, --folders or --bags, and --questions"
        )
    bundle, reference = open_with_progress(args.bundle), open_with_progress(args.reference)
    chosen = choose(source_options(args).open(), open_queries(args.questions), args.frames, args.per_frame, args.seed)
    asked = [(one.planned.load, [(query.question, query.truth) for query in one.queries]) for one in chosen]
    report = verify_int8(bundle, reference, asked, say)
    print(json.dumps(dataclasses.asdict(report) | {"passed": report.passed}, indent=1) if args.json else _int8_table(report))
    return 0 if report.passed else 1


def _int8_table(report: Int8Report) -> str:
    from leo_edge.export.verify_int8 import MAX_KL, MIN_COSINE

    lines = [f"{'stage':<24}{'lowest cosine':>14}{'other frames':>14}"]
    lines += [
        f"{stage.name:<24}{stage.cosine:>14.5f}{stage.control:>14.4f}  {'ok' if stage.passed else 'MISS'}"
        for stage in report.stages
    ]
    lines += [
        "",
        f"{report.num_questions} questions {'KL, nats':>16}{'tokens equal':>14}{'answers equal':>15}{'points lost':>13}",
    ]
    for name, effect in (("language model alone", report.llm), ("all together", report.together)):
        lost = "–" if effect.drop is None else f"{effect.drop:.2f}"
        verdict = "ok" if effect.kl <= MAX_KL else "MISS"
        lines.append(
            f"{name:<22}{effect.kl:>9.5f}{effect.tokens_equal:>13.1%}{effect.answers_equal:>15.1%}{lost:>13}  {verdict}"
        )
    lines += [f"limits: cosine {MIN_COSINE:g}, KL {MAX_KL:g}", "passed" if report.passed else "FAILED"]
    return "\n".join(lines)


def _table(report: Report) -> str:
    lines = [f"{'stage':<20}{'max abs error':>14}{'relative':>10}{'cosine':>12}{'other weights':>15}"]
    for stage in report.stages:
        verdict = "ok" if stage.passed else "MISS" if not stage.close else "MISS: other weights pass too"
        lines.append(
            f"{stage.name:<20}{stage.max_abs_error:>14.2e}{stage.relative_error:>10.1e}{stage.cosine:>12.7f}"
            f"{stage.control_cosine:>15.4f}  {verdict}"
        )
    first = report.stages[0]
    lines += [
        f"embedding table: {'equal' if report.embedding_equal else 'MISS: not the checkpoint'}",
        f"greedy tokens: {report.tokens_equal} of {report.num_steps} equal, {report.tokens_tied} tied within the error",
        f"limits: relative error {first.max_relative_error:g}, cosine {first.min_cosine:g}; "
        "other weights (another seed in the reference) must stay below that cosine",
        "passed" if report.passed else "FAILED",
    ]
    return "\n".join(lines)
