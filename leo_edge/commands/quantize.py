"""`leo-edge quantize BUNDLE TABLE OUT`: a float bundle becomes an INT8 one."""

from __future__ import annotations

import argparse
from pathlib import Path

from leo_edge.calib.histogram import RANGES
from leo_edge.commands.lint import say_findings
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.errors import LeoEdgeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a float bundle")
    parser.add_argument(
        "table", metavar="TABLE", help="from `leo-edge calibrate`; `none` where no activation is quantized or smoothed"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="where to write the new bundle; must not exist")
    parser.add_argument(
        "--weights", default="int8", choices=("int8", "int4"), help="int4: the language model's alone (default int8)"
    )
    parser.add_argument("--activations", default="int8", choices=("int8", "none"), help="none: weights only (default int8)")
    parser.add_argument("--kv", default="none", choices=("int8", "none"), help="the KV cache (default none)")
    parser.add_argument(
        "--method", default="smoothquant", choices=("smoothquant", "mbq", "minmax"), help="(default smoothquant)"
    )
    parser.add_argument("--alpha", type=float, metavar="A", help="smoothing exponent (default: searched layer by layer)")
    parser.add_argument("--range", choices=tuple(RANGES), help="of activations (default: the table's)")
    parser.add_argument(
        "--keep-float", metavar="RULES", help="more layers to keep float: names or patterns, with commas between; or auto"
    )
    parser.add_argument(
        "--weight-only",
        metavar="RULES",
        help="int8 weights, float activations, for layers that stay float otherwise: head, lora, router, with commas between",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="P",
        help="with --keep-float auto: points of exact match that may be lost (default 0.5)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.calib.table import read_table
    from leo_edge.export.quantize.plan import QuantizeOptions
    from leo_edge.export.quantize.quantizer import quantize_bundle
    from leo_edge.export.quantize.sensitivity import AUTO, resolve_auto

    keep = tuple(args.keep_float.split(",")) if args.keep_float else ()
    options = QuantizeOptions(
        weights=args.weights,
        activations=args.activations,
        kv=args.kv,
        method=args.method,
        alpha=args.alpha,
        keep_float=keep,
        weight_only=tuple(args.weight_only.split(",")) if args.weight_only else (),
        ranges=args.range,
    )
    bundle = open_with_progress(args.bundle)
    if args.max_drop is not None and AUTO not in keep:
        raise LeoEdgeError("--max-drop goes with --keep-float auto")
    table = None if args.table == "none" else read_table(Path(args.table))
    options = resolve_auto(options, table, 0.5 if args.max_drop is None else args.max_drop)
    manifest = quantize_bundle(bundle, table, args.out, options, say)
    say_findings(args.out, manifest)
    before, after = bundle.size_bytes(), sum(spec.size_bytes for spec in manifest.files.values())
    record = manifest.provenance["quantized"]
    print(f"{args.out}: {record['layers']} layers quantized, {after / 1e6:,.1f} MB, {after / before:.2f} of the float bundle")
    if record["weight_only"]:
        print(f"  {record['weight_only']} layers with int8 weights and float activations: {', '.join(options.weight_only)}")
    for rule, count in record["kept_float"].items():
        print(f"  {count} layers kept float: {rule}")
    return 0
