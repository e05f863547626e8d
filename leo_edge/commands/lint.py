"""`leo-edge lint BUNDLE`: what TensorRT would refuse of a bundle's graphs, or build into something else than was meant.

A preset's name in place of a bundle lints the graphs that a model of its size has, without weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.manifest import BundleManifest

if TYPE_CHECKING:
    from leo_edge.export.lint.graph import Target
    from leo_edge.export.lint.lint import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE|PRESET", type=Path, help="a bundle, or a preset as `checkpoint` has them")
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="TARGET",
        help="jetpack6.2, jetpack7.2, trt11 (default: all whose parser reads its opset)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.export.lint.lint import lint_bundle, target_named, targets_of

    targets = None if args.target is None else [target_named(name) for name in args.target]
    if not args.bundle.exists() and _is_preset(args.bundle.name):
        linted = list(_lint_preset(args.bundle.name, targets))
    else:
        bundle = open_with_progress(args.bundle)
        chosen = targets or targets_of(bundle.manifest)
        linted = [_Linted("", len(bundle.manifest.graphs), chosen, lint_bundle(args.bundle, bundle.manifest, chosen))]
    findings = [finding for one in linted for finding in one.findings]
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        for one in linted:
            _print(one)
    return 1 if findings else 0


@dataclass(frozen=True)
class _Linted:
    """What was found in some graphs. `what` says which, where there are several sets of them."""

    what: str
    num_graphs: int
    targets: Sequence[Target]
    findings: Sequence[Finding]


def _is_preset(name: str) -> bool:
    from leo_edge.export.presets import PRESETS

    return name in PRESETS


def _lint_preset(name: str, targets: Sequence[Target] | None) -> Iterator[_Linted]:
    """Traces a preset's graphs in float16, plain and fused, and lints each for the targets that read its opset."""
    import torch

    from leo_edge.export.config import parse_config
    from leo_edge.export.exporter import default_context_len
    from leo_edge.export.lint.graph import TARGETS
    from leo_edge.export.lint.lint import lint_graph
    from leo_edge.export.presets import PRESETS
    from leo_edge.export.stages import OPSET_FUSED, OPSET_PLAIN, StageOptions, build_stages, tiles_stage
    from leo_edge.export.trace import trace

    config = parse_config(PRESETS[name])
    for opset in (OPSET_PLAIN, OPSET_FUSED):
        chosen = [target for target in targets or TARGETS.values() if target.max_opset >= opset]
        if not chosen:
            continue
        options = StageOptions(torch.float16, default_context_len(config), fused=opset == OPSET_FUSED)
        findings: list[Finding] = []
        count = 0
        for stage in (tiles_stage(config.tiling.tile_px), *build_stages(config, options)):
            say(f"tracing {stage.name} of {name}, opset {opset}")
            findings += lint_graph(stage.name, trace(stage, opset).model, chosen)
            count += 1
        yield _Linted(f" of {name}, opset {opset}, float16,", count, chosen, findings)


def _print(linted: _Linted) -> None:
    for finding in linted.findings:
        print(finding.line())
    names, count = ", ".join(target.name for target in linted.targets), len(linted.findings)
    print(f"{count or 'no'} finding{'s' if count != 1 else ''} in {linted.num_graphs} graphs{linted.what} for {names}")


def say_findings(directory: Path, manifest: BundleManifest) -> None:
    """Says on stderr what the linter finds in a bundle that was just written, for the targets that it can be meant for."""
    from leo_edge.export.lint.lint import lint_bundle, targets_of

    targets = targets_of(manifest)
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for finding in lint_bundle(directory, manifest, targets):
        by_rule[finding.rule].append(finding)
    for found in by_rule.values():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        say(f"lint: {found[0].line()}{more}")
    if not by_rule:
        say(f"lint: nothing to find for {', '.join(target.name for target in targets)}")
