"""`leo-edge sensitivity BUNDLE TABLE`: what quantizing each layer alone does to the answers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.drives import QUESTIONS_HELP, add_drive_arguments, choose, source_options
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.calib.probe import Probe
    from leo_edge.calib.table import CalibrationTable
    from leo_edge.export.quantize.plan import QuantizeOptions
    from leo_edge.export.quantize.sensitivity import LayerEffect
    from leo_edge.runtime.pipeline import Pipeline

_PLOTTED = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a float bundle")
    parser.add_argument("table", metavar="TABLE", type=Path, help="its calibration table, to which the result is added")
    add_drive_arguments(parser.add_argument_group("drives"))
    parser.add_argument("--questions", required=True, metavar="FILE", help=QUESTIONS_HELP)
    parser.add_argument("--frames", type=int, default=16, metavar="N", help="frame sets (default 16)")
    parser.add_argument("--per-frame", type=int, default=5, metavar="N", help="questions about each (default 5)")
    parser.add_argument(
        "--method", default="smoothquant", choices=("smoothquant", "mbq", "minmax"), help="(default smoothquant)"
    )
    parser.add_argument("--weights", default="int8", choices=("int8", "int4"), help="(default int8)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write the most sensitive layers as a picture")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice of frames (default 1)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: its own choice)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.calib.probe import make_probe
    from leo_edge.calib.table import read_table, write_table
    from leo_edge.export.quantize.plan import QuantizeOptions
    from leo_edge.replay.queries import open_queries
    from leo_edge.runtime.pipeline import open_pipeline

    if args.plot is not None and not args.plot.parent.is_dir():
        raise LeoEdgeError(f"no folder {args.plot.parent} for the picture: make it, or give another --plot")
    bundle, table = open_with_progress(args.bundle), read_table(args.table)
    table.check_bundle(bundle.id)
    chosen = choose(source_options(args).open(), open_queries(args.questions), args.frames, args.per_frame, args.seed)
    pipeline = open_pipeline(bundle, "ort", threads=args.threads)
    say(f"asking the float bundle {sum(len(one.queries) for one in chosen)} questions")
    probes = [make_probe(pipeline, one.planned.load(), [(q.question, q.truth) for q in one.queries]) for one in chosen]
    effects = _measure(pipeline, table, probes, QuantizeOptions(weights=args.weights, method=args.method), args.threads)
    effects.sort(key=lambda one: -one.effect.kl)
    table.provenance["layers"] = [one.to_json() for one in effects]
    write_table(args.table, table)
    if args.plot is not None:
        _plot(effects[:_PLOTTED], args.plot)
    print(json.dumps(table.provenance["layers"], indent=1) if args.json else _text(effects))
    return 0


def _measure(
    pipeline: Pipeline, table: CalibrationTable, probes: list[Probe], options: QuantizeOptions, threads: int
) -> list[LayerEffect]:
    """Measures every layer behind a progress bar."""
    from tqdm import tqdm

    from leo_edge.export.quantize.sensitivity import layer_effects

    effects = []
    with tqdm(unit="layer", disable=None) as bar:
        for total, effect in layer_effects(pipeline, table, probes, options, threads=threads):
            bar.total = total
            bar.update()
            effects.append(effect)
    return effects


def _text(effects: Sequence[LayerEffect]) -> str:
    width = max(len(one.layer) for one in effects)
    lines = [f"{'layer':<{width}}{'share':>8}{'KL, nats':>12}{'tokens equal':>14}{'answers equal':>15}{'points lost':>13}"]
    for one in effects:
        lost = "–" if one.effect.drop is None else f"{one.effect.drop:.2f}"
        lines.append(
            f"{one.layer:<{width}}{one.share:>8.1%}{one.effect.kl:>12.2e}{one.effect.tokens_equal:>14.1%}"
            f"{one.effect.answers_equal:>15.1%}{lost:>13}"
        )
    return "\n".join(lines)


def _plot(effects: Sequence[LayerEffect], path: Path) -> None:
    """Draws the layers' divergences, the largest above, and marks those that change an answer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.22 * len(effects)), layout="constrained")
    axes = figure.add_subplot()
    names = [one.layer for one in reversed(effects)]
    colours = ["#cf222e" if one.effect.answers_equal < 1 else "#0969da" for one in reversed(effects)]
    axes.barh(names, [max(one.effect.kl, 1e-12) for one in reversed(effects)], color=colours)
    axes.set_xscale("log")
    axes.set_xlabel("KL of the next token with this layer alone quantized, nats", fontsize=8)
    axes.set_title("red: an answer changes", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.01)
    figure.savefig(path, dpi=120)
