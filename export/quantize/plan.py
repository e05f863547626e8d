"""What becomes of each graph: which constants are scaled, which weights and activations quantized, and with which scales."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from leo_edge.calib.histogram import LEVELS, scale_of
from leo_edge.calib.layers import Layer, SmoothGroup, layers_of, rule_for, smooth_groups
from leo_edge.calib.smoothing import Matrix, Smoothing, Vector, by_heads, of_producer, search
from leo_edge.calib.statistics import Statistics
from leo_edge.calib.table import CalibrationTable
from leo_edge.export.quantize.weights import INT4_BLOCK, round_blocks, round_columns
from leo_edge.runtime.errors import CalibrationError, LeoEdgeError
from leo_edge.runtime.manifest import DecoderManifest

METHODS = ("minmax", "smoothquant", "mbq")
WEIGHT_ONLY = ("head", "lora", "router")
"""Rules whose layers may have int8 weights: what they cost when an answer is decoded is reading them."""


@dataclass(frozen=True)
class QuantizeOptions:
    """Choices of `leo-edge quantize`.

    weights: "int8" or "int4" (the language model's, weight-only, in blocks; the experts' stay int8). activations: "int8" or
    "none". kv: "int8" or "none". alpha: SmoothQuant's exponent, None to search it layer by layer. keep_float: names or patterns
    of layers beside those of `calib.layers.RULES`. weight_only: those of these rules whose layers get int8 weights all the
    same, and keep float activations. ranges: how activation ranges are taken, None as the table says.
    """

    weights: str = "int8"
    activations: str = "int8"
    kv: str = "none"
    method: str = "smoothquant"
    alpha: float | None = None
    keep_float: tuple[str, ...] = ()
    weight_only: tuple[str, ...] = ()
    ranges: str | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("weights", ("int8", "int4")),
            ("activations", ("int8", "none")),
            ("kv", ("int8", "none")),
            ("method", METHODS),
        ):
            if getattr(self, name) not in allowed:
                raise LeoEdgeError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if unknown := [name for name in self.weight_only if name not in WEIGHT_ONLY]:
            raise LeoEdgeError(f"weight-only takes {', '.join(WEIGHT_ONLY)}, got {', '.join(unknown)}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise LeoEdgeError(f"alpha must be 0 to 1, got {self.alpha:g}")


@dataclass
class GraphPlan:
    """One graph's. Factors multiply a constant along its rows (first axis) or columns (last axis).

    weights: the type of each quantized weight by initializer; weight_only: of those whose input stays float. activations: the
    scale of each quantized activation by value.
    """

    layers: tuple[Layer, ...]
    weights: dict[str, str] = field(default_factory=dict)
    weight_only: dict[str, str] = field(default_factory=dict)
    activations: dict[str, float] = field(default_factory=dict)
    rows: dict[str, Vector] = field(default_factory=dict)
    columns: dict[str, Vector] = field(default_factory=dict)
    smoothing: dict[str, Smoothing] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    cache: bool = False

    def scale_rows(self, name: str, factors: Vector) -> None:
        """Multiplies a constant's rows, beside what multiplies them already."""
        self.rows[name] = self.rows[name] * factors if name in self.rows else factors

    def scale_columns(self, name: str, factors: Vector) -> None:
        """Multiplies a constant's columns, beside what multiplies them already."""
        self.columns[name] = self.columns[name] * factors if name in self.columns else factors


def plan_graph(
    name: str,
    model: ir.Model,
    options: QuantizeOptions,
    table: CalibrationTable | None,
    decoder: DecoderManifest,
    say: Callable[[str], None] = lambda _: None,
) -> GraphPlan:
    """Decides about a graph.

    Raises:
        CalibrationError: the table lacks an activation, or what the options need.
    """
    plan = GraphPlan(layers_of(name, model))
    for layer in plan.layers:
        kind = _weight_type(layer, options)
        rule = rule_for(layer, options.keep_float) or (None if kind else "its input channels are no blocks of 128")
        if rule in options.weight_only and layer.kind == "MatMul":
            plan.weight_only[layer.weight] = "int8"
        elif rule is not None:
            plan.kept[layer.name] = rule
        else:
            plan.weights[layer.weight] = str(kind)
    if options.kv == "int8" and name == "llm":
        plan.cache = True
    if options.method != "minmax":
        _smooth(plan, smooth_groups(name, model, decoder), model, options, table, say)
    if plan.cache:
        _scale_heads(plan, model, table, decoder)
    for layer in plan.layers:
        if plan.weights.get(layer.weight) == "int8" and _quantizes_activations(layer.graph, options):
            plan.activations[layer.input] = _activation_scale(plan, layer, options, table)
    return plan


def _weight_type(layer: Layer, options: QuantizeOptions) -> str | None:
    if options.weights == "int8" or layer.graph != "llm":
        return "int8"
    return "int4" if layer.kind == "MatMul" and layer.shape[0] % INT4_BLOCK == 0 else None


def _quantizes_activations(graph: str, options: QuantizeOptions) -> bool:
    return options.activations == "int8" and not (graph == "llm" and options.weights == "int4")


def _statistics(table: CalibrationTable | None, graph: str, name: str) -> Statistics:
    if table is None:
        raise CalibrationError(
            "a calibration table is needed for this: only --method minmax --activations none --kv none does without"
        )
    return table.of(graph, name)


def _activation_scale(plan: GraphPlan, layer: Layer, options: QuantizeOptions, table: CalibrationTable | None) -> float:
    one = _statistics(table, layer.graph, layer.input)
    assert table is not None
    if layer.input in plan.smoothing:
        largest = float((one.channels / plan.smoothing[layer.input].scales).max())
        return largest / LEVELS if largest > 0 else 1.0
    return scale_of(one.histogram, options.ranges or str(table.provenance["range"]))


def _smooth(
    plan: GraphPlan,
    groups: Sequence[SmoothGroup],
    model: ir.Model,
    options: QuantizeOptions,
    table: CalibrationTable | None,
    say: Callable[[str], None],
) -> None:
    """Searches each group's s and notes what it multiplies."""
    for group in groups:
        quantized = [name for name in group.consumers if name in plan.weights]
        if not quantized:
            continue
        one = _statistics(table, group.graph, group.input)
        rows, weights_of_rows = _weighted_rows(one, group, options)
        round_rows = _quantizes_activations(group.graph, options)
        int4 = plan.weights[quantized[0]] == "int4"
        found = search(
            rows,
            weights_of_rows,
            one.channels,
            [float_array(model, name) for name in quantized],
            alpha=options.alpha,
            round_weight=round_blocks if int4 else round_columns,
            round_rows=round_rows,
            shared=(lambda scales: scales) if group.heads is None else by_heads(*group.heads),
        )
        ratio = found.error / max(found.error_before, 1e-30)
        say(f"{group.consumers[0].split('.weight')[0]}: alpha {found.alpha}, {ratio:.2f} of the error")
        plan.smoothing[group.input] = found
        for name in group.consumers:
            plan.scale_rows(name, found.scales)
        for name in group.producers:
            plan.scale_columns(name, 1 / of_producer(found.scales, group.heads))


def _weighted_rows(one: Statistics, group: SmoothGroup, options: QuantizeOptions) -> tuple[Matrix, Vector]:
    """Returns the sampled rows and their weights: all alike, or by what an error there does to the answer."""
    parts = [one.visual.rows, one.text.rows]
    parts = [part for part in parts if part.size]
    if not parts:
        raise CalibrationError(f"the table has no rows of {group.input} of graph {group.graph}: calibrate again")
    rows = np.concatenate(parts).astype(np.float32)
    weights = np.ones(len(rows), np.float32)
    if options.method == "mbq" and one.text.rows.size and one.visual.rows.size:
        if one.sensitivity is None:
            raise CalibrationError(
                "the table has no sensitivities of modalities, which MBQ needs: calibrate with --modality-prompts"
            )
        visual, text = one.sensitivity
        weights[: len(one.visual.rows)] = visual / max(visual + text, 1e-30)
        weights[len(one.visual.rows) :] = text / max(visual + text, 1e-30)
    return rows, weights


def _scale_heads(plan: GraphPlan, model: ir.Model, table: CalibrationTable | None, decoder: DecoderManifest) -> None:
    """Gives every head of the cache the range [-1, 1]: a head's scale goes into the weights that make and read it.

    Rotation keeps a scale that all of a head's channels share, so keys are divided by theirs and queries multiplied.
    """
    groups, initializers = _query_heads(plan, decoder) // decoder.num_kv_heads, model.graph.initializers
    for i in range(decoder.num_layers):
        prefix = f"llm.layers.{i}.attention"
        for part, made, read in (("key", "k", "q"), ("value", "v", "out")):
            channels = _statistics(table, "llm", f"new_{part}.{i}").channels
            made_weight = _weight_of(plan, f"{prefix}.{made}")
            if made_weight in plan.columns:
                channels = channels * plan.columns[made_weight]
            largest = np.maximum(channels.reshape(decoder.num_kv_heads, -1).max(axis=1), 1e-6).astype(np.float32)
            own, reading = np.repeat(largest, decoder.head_dim), np.repeat(largest, groups * decoder.head_dim)
            for name in (made_weight, f"{prefix}.{made}.bias"):
                if name in initializers:
                    plan.scale_columns(name, 1 / own)
            if part == "value":
                plan.scale_rows(_weight_of(plan, f"{prefix}.{read}"), reading)
                continue
            for name in (_weight_of(plan, f"{prefix}.{read}"), f"{prefix}.{read}.bias"):
                if name in initializers:
                    plan.scale_columns(name, reading)


def _query_heads(plan: GraphPlan, decoder: DecoderManifest) -> int:
    shape = next(layer.shape for layer in plan.layers if layer.name == "llm.layers.0.attention.q")
    return shape[1] // decoder.head_dim


def _weight_of(plan: GraphPlan, layer: str) -> str:
    return next(one.weight for one in plan.layers if one.name == layer)


def read_array(model: ir.Model, name: str) -> npt.NDArray[Any]:
    """Reads an initializer into memory of its own: a mapped file would stay in memory as long as the graph does."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    dtype, shape = tensor.dtype.numpy(), tuple(int(dim) for dim in tensor.shape)  # type: ignore[arg-type]
    return np.fromfile(tensor.path, dtype, math.prod(shape), offset=tensor.offset or 0).reshape(shape)


def float_array(model: ir.Model, name: str) -> Matrix:
    """Reads an initializer in float32."""
    return read_array(model, name).astype(np.float32)


def kept_by_rule(plans: Mapping[str, GraphPlan]) -> dict[str, list[str]]:
    """Returns the layers that stay float, by the rule that keeps them."""
    found: dict[str, list[str]] = defaultdict(list)
    for plan in plans.values():
        for layer, rule in plan.kept.items():
            found[rule].append(layer)
    return dict(found)


def all_layers(plans: Iterable[GraphPlan]) -> list[Layer]:
    """Returns the layers of all graphs."""
    return [layer for plan in plans for layer in plan.layers]
