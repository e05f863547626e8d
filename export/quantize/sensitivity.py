"""What it does to the answers to quantize one layer alone, and which layers must stay float for how little loss.

A layer's graph is the float one with the integers of this layer; smoothing factors are only those that touch it, so that what
is measured is its rounding and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx_ir as ir

from leo_edge.calib.layers import Layer, smooth_groups
from leo_edge.calib.probe import Effect, Probe, effect_on
from leo_edge.calib.table import CalibrationTable
from leo_edge.export.quantize.plan import GraphPlan, QuantizeOptions, plan_graph
from leo_edge.export.quantize.rewrite import rewrite
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import CalibrationError
from leo_edge.runtime.ort import OrtSession, open_decoder
from leo_edge.runtime.pipeline import Pipeline

AUTO = "auto"


@dataclass(frozen=True)
class LayerEffect:
    """A layer's share of all quantized weights, and what happens when it alone is quantized."""

    layer: str
    share: float
    effect: Effect

    def to_json(self) -> dict[str, Any]:
        """Returns it as a table keeps it."""
        return {"layer": self.layer, "share": self.share, **asdict(self.effect)}


def layer_effects(
    pipeline: Pipeline, table: CalibrationTable, probes: Sequence[Probe], options: QuantizeOptions, *, threads: int = 0
) -> Iterator[tuple[int, LayerEffect]]:
    """Yields the effect of every layer that is quantized by default, with the number of layers in all.

    Raises:
        CalibrationError: the table is of another bundle, or lacks something.
    """
    bundle = pipeline.bundle
    table.check_bundle(bundle.id)
    plans = {}
    for name, spec in bundle.manifest.graphs.items():
        plan = plan_graph(name, ir.load(bundle.path(spec.file)), options, table, bundle.manifest.decoder)
        if plan.weights:
            plans[name] = plan
    layers = [(name, layer) for name, plan in plans.items() for layer in plan.layers if layer.weight in plan.weights]
    sizes = {layer.name: _size(layer) for _, layer in layers}
    for name, layer in layers:
        one = _with_layer(pipeline, name, plans[name], layer, threads)
        effect = effect_on(one, probes, encode=name != "llm")
        yield len(layers), LayerEffect(layer.name, sizes[layer.name] / sum(sizes.values()), effect)


def layers_to_keep(effects: Sequence[Mapping[str, Any]], max_drop: float) -> tuple[str, ...]:
    """Returns the fewest layers to keep float so that what the others lose one by one adds up to `max_drop` points or less.

    A layer loses points of exact match, where truths were known, or else the share of answers that it changes. Among equals the
    one with the larger divergence is kept first.
    """
    if max_drop < 0:
        raise CalibrationError(f"--max-drop must be 0 or more points, got {max_drop:g}")
    losses = {str(one["layer"]): _loss(one) for one in effects}
    order = sorted(effects, key=lambda one: (-losses[str(one["layer"])], -float(one["kl"])))
    left = sum(losses.values())
    kept = []
    for one in order:
        if left <= max_drop + 1e-9:
            break
        kept.append(str(one["layer"]))
        left -= losses[str(one["layer"])]
    return tuple(kept)


def resolve_auto(options: QuantizeOptions, table: CalibrationTable | None, max_drop: float) -> QuantizeOptions:
    """Replaces "auto" among the layers to keep by those that the table's sensitivities name.

    Raises:
        CalibrationError: the table has none.
    """
    if AUTO not in options.keep_float:
        return options
    effects = None if table is None else table.provenance.get("layers")
    if not effects:
        raise CalibrationError("--keep-float auto needs what every layer does: run `leo-edge sensitivity BUNDLE TABLE` first")
    named = tuple(name for name in options.keep_float if name != AUTO)
    return replace(options, keep_float=(*named, *layers_to_keep(effects, max_drop)))


def _loss(one: Mapping[str, Any]) -> float:
    drop = one["drop"]
    return max(0.0, float(drop)) if drop is not None else 100 * (1 - float(one["answers_equal"]))


def _size(layer: Layer) -> int:
    size = 1
    for dim in layer.shape:
        size *= dim
    return size


def _with_layer(pipeline: Pipeline, name: str, plan: GraphPlan, layer: Layer, threads: int) -> Pipeline:
    """Returns the float pipeline with one layer quantized."""
    bundle = pipeline.bundle
    spec = bundle.manifest.graphs[name]
    model = _single_layer_model(bundle, name, plan, layer)
    if name == "llm":
        return replace(pipeline, decoder=open_decoder(bundle, pipeline.table, threads=threads, model=model))
    session = OrtSession(bundle.path(spec.file), spec, threads=threads, model=model)
    return replace(pipeline, sessions={**pipeline.sessions, name: session})


def _single_layer_model(bundle: Bundle, name: str, plan: GraphPlan, layer: Layer) -> bytes:
    """Returns the graph in which one layer is quantized; what does not change stays in the bundle's file."""
    model = ir.load(bundle.path(bundle.manifest.graphs[name].file))
    read = [group for group in smooth_groups(name, model, bundle.manifest.decoder) if layer.weight in group.consumers]
    single = replace(
        plan,
        weights={layer.weight: plan.weights[layer.weight]},
        activations={key: scale for key, scale in plan.activations.items() if key == layer.input},
        rows={key: plan.rows[key] for group in read for key in group.consumers if key in plan.rows},
        columns={key: plan.columns[key] for group in read for key in group.producers if key in plan.columns},
    )
    before = set(model.graph.initializers)
    changed = {*single.rows, *single.columns}
    make: Callable[[], Any]
    for key, make in rewrite(model, single).items():
        if key not in before or key in changed:
            model.graph.initializers[key].const_value = ir.tensor(make(), name=key)
    return bytes(ir.to_proto(model).SerializeToString())
