"""Runs the rules over graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from leo_edge.export.lint.graph import TARGETS, Graph, Rule, Target
from leo_edge.export.lint.int8_rules import INT8_RULES
from leo_edge.export.lint.operator_rules import OPERATOR_RULES
from leo_edge.runtime.errors import BundleError, LeoEdgeError
from leo_edge.runtime.manifest import BundleManifest

RULES: tuple[Rule, ...] = (*OPERATOR_RULES, *INT8_RULES)


@dataclass(frozen=True)
class Finding:
    """A place that breaks a rule. `refused`: TensorRT does not build the graph; else it builds a slower one, or another."""

    target: str
    graph: str
    node: str
    rule: str
    refused: bool
    message: str

    def line(self) -> str:
        """Returns it as one line."""
        return f"{self.target}: {self.graph}: {self.node}: {self.message} [{self.rule}]"


def target_named(name: str) -> Target:
    """Returns a target.

    Raises:
        LeoEdgeError: there is none of this name.
    """
    if name not in TARGETS:
        raise LeoEdgeError(f"no target {name!r}: expected one of {', '.join(TARGETS)}")
    return TARGETS[name]


def lint_graph(name: str, model: ir.Model, targets: Sequence[Target]) -> list[Finding]:
    """Returns what each target's rules say about a graph, target after target."""
    graph = Graph(name, _typed(model))
    return [
        Finding(target.name, name, node, rule.name, rule.refused, message)
        for target in targets
        for rule in RULES
        for node, message in rule.check(graph, target)
    ]


def lint_bundle(directory: Path, manifest: BundleManifest, targets: Sequence[Target]) -> list[Finding]:
    """Returns what each target's rules say about all graphs of a bundle. No weight is read.

    Raises:
        BundleError: a graph is no ONNX file.
    """
    findings = []
    for name, spec in manifest.graphs.items():
        try:
            model = ir.load(directory / spec.file)
        except Exception as error:  # protobuf has no base class for its errors
            raise BundleError(
                f"{spec.file} is no ONNX graph ({' '.join(str(error).split())}): export the bundle again"
            ) from error
        findings += lint_graph(name, model, targets)
    return findings


def targets_of(manifest: BundleManifest) -> list[Target]:
    """Returns the targets whose parser reads the bundle's opset: those that it can be meant for."""
    return [target for target in TARGETS.values() if target.max_opset >= manifest.opset]


def _typed(model: ir.Model) -> ir.Model:
    """Returns the graph with a type on every value."""
    values = (value for node in model.graph.all_nodes() for value in node.outputs)
    if all(value.dtype is not None and value.shape is not None for value in values):
        return model
    return ShapeInferencePass(data_prop=True)(model).model
