"""`leo-edge lint BUNDLE`: what TensorRT would refuse of a bundle's graphs, or build into something else than was meant."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.manifest import BundleManifest

if TYPE_CHECKING:
    from leo_edge.export.lint.lint import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
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
    bundle = open_with_progress(args.bundle)
    targets = targets or targets_of(bundle.manifest)
    findings = lint_bundle(args.bundle, bundle.manifest, targets)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding.line())
        names, count = ", ".join(target.name for target in targets), len(bundle.manifest.graphs)
        print(f"{len(findings) or 'no'} finding{'s' if len(findings) != 1 else ''} in {count} graphs for {names}")
    return 1 if findings else 0


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
