"""`leo-edge export CHECKPOINT BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from leo_edge.commands.lint import say_findings
from leo_edge.commands.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="directory with config.json and safetensors")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="where to write it; must not exist")
    parser.add_argument(
        "--opset",
        type=int,
        default=20,
        choices=(20, 24),
        help="20: plain operators, for JetPack 6.2; 24: fused ones (default 20)",
    )
    parser.add_argument(
        "--float", dest="float_type", default="fp32", choices=("fp32", "fp16"), help="float type (default fp32)"
    )
    parser.add_argument(
        "--context-len", type=int, metavar="N", help="tokens of prompt and answer together (default: room for six cameras)"
    )
    parser.add_argument(
        "--max-tiles", type=int, metavar="N", help="most tiles per image, without thumbnail (default: config's)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.export.exporter import ExportOptions, export_bundle

    options = ExportOptions(args.opset, args.float_type, args.context_len, args.max_tiles)
    manifest = export_bundle(args.checkpoint, args.bundle, options, say)
    say_findings(args.bundle, manifest)
    size = sum(spec.size_bytes for spec in manifest.files.values())
    print(
        f"{args.bundle}: {manifest.family} bundle, {len(manifest.graphs)} graphs, opset {manifest.opset}, "
        f"{manifest.float_type}, context {manifest.decoder.context_len}, {size / 1e6:,.1f} MB"
    )
    return 0
