"""A float bundle becomes a quantized one, tensor by tensor: graphs are rewritten without weights, which are then streamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from tqdm import tqdm

from leo_edge.calib.layers import check_patterns
from leo_edge.calib.table import CalibrationTable
from leo_edge.export.cpu_form.write import write_cpu_forms
from leo_edge.export.quantize.plan import GraphPlan, QuantizeOptions, all_layers, kept_by_rule, plan_graph
from leo_edge.export.quantize.rewrite import rewrite
from leo_edge.export.writer import file_spec, write_model
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import BundleError, CalibrationError
from leo_edge.runtime.manifest import MANIFEST_NAME, BundleManifest, FileSpec, GraphSpec
from leo_edge.runtime.new_directory import new_directory

CALIBRATION = "calibration.json"


def quantize_bundle(
    bundle: Bundle,
    table: CalibrationTable | None,
    directory: Path,
    options: QuantizeOptions,
    say: Callable[[str], None] = lambda _: None,
) -> BundleManifest:
    """Quantizes a bundle. The new one is written under a temporary name and renamed: it is whole or absent.

    Raises:
        CalibrationError: the table is of another bundle or lacks something, or the bundle cannot be quantized so.
        BundleError: something is already at `directory`.
    """
    if table is not None:
        table.check_bundle(bundle.id)
    if options.kv == "int8" and bundle.manifest.decoder.cache != "prefix":
        raise CalibrationError(
            "--kv int8 needs an opset-20 bundle: TensorScatter, the cache of opset 24, has no INT8 in TensorRT"
        )
    models = {name: ir.load(bundle.path(spec.file)) for name, spec in bundle.manifest.graphs.items()}
    if any(node.op_type == "DequantizeLinear" for model in models.values() for node in model.graph):
        raise CalibrationError(f"{bundle.directory} is quantized already: quantize the float bundle that it was made from")
    plans = {name: plan_graph(name, model, options, table, bundle.manifest.decoder, say) for name, model in models.items()}
    check_patterns(options.keep_float, all_layers(plans.values()))
    with new_directory(directory, BundleError) as target:
        return _write(bundle, models, plans, table, options, target)


def _write(
    bundle: Bundle,
    models: Mapping[str, ir.Model],
    plans: Mapping[str, GraphPlan],
    table: CalibrationTable | None,
    options: QuantizeOptions,
    directory: Path,
) -> BundleManifest:
    manifest = bundle.manifest
    graphs, files = dict(manifest.graphs), dict[str, FileSpec]()
    changed = {name: plan for name, plan in plans.items() if plan.weights or plan.weight_only or plan.cache}
    total = sum(manifest.files[str(manifest.graphs[name].data)].size_bytes for name in changed)
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=None) as bar:
        for name, plan in changed.items():
            files |= write_model(models[name], rewrite(models[name], plan), directory, name, bar.update)
            graphs[name] = _graph_spec(manifest.graphs[name], plan)
    old_forms = {spec.file for spec in manifest.cpu_forms.values()}
    for name in manifest.files:
        if name not in files and name not in (CALIBRATION, MANIFEST_NAME, *old_forms):
            shutil.copyfile(bundle.path(name), directory / name)
            files[name] = manifest.files[name]
    for name in changed:
        onnx.checker.check_model(str(directory / f"{name}.onnx"), full_check=False)
    record = _record(bundle, plans, table, options)
    (directory / CALIBRATION).write_text(json.dumps(record | {"activations": _activations(plans)}, indent=1) + "\n")
    files[CALIBRATION] = file_spec(directory / CALIBRATION)
    opset = max(manifest.opset, *(models[name].opset_imports[""] for name in models))
    quantized = replace(
        manifest,
        graphs=graphs,
        cpu_forms={},
        files=files,
        opset=opset,
        provenance={**manifest.provenance, "quantized": record},
    )
    quantized = write_cpu_forms(directory, quantized)
    (directory / MANIFEST_NAME).write_text(quantized.to_json(), encoding="utf-8")
    return quantized


def _graph_spec(spec: GraphSpec, plan: GraphPlan) -> GraphSpec:
    """A quantized cache goes in and out as int8."""
    if not plan.cache:
        return spec
    inputs = tuple(replace(port, dtype="int8") if port.name.startswith("past_") else port for port in spec.inputs)
    outputs = tuple(replace(port, dtype="int8") if port.name.startswith("new_") else port for port in spec.outputs)
    return replace(spec, inputs=inputs, outputs=outputs)


def _record(
    bundle: Bundle, plans: Mapping[str, GraphPlan], table: CalibrationTable | None, options: QuantizeOptions
) -> dict[str, Any]:
    """Returns what the manifest says of the quantization, in JSON values."""
    kept = {rule: len(layers) for rule, layers in kept_by_rule(plans).items()}
    return {
        "from_bundle": bundle.id,
        "options": asdict(options),
        "layers": sum(len(plan.weights) for plan in plans.values()),
        "weight_only": sum(len(plan.weight_only) for plan in plans.values()),
        "kept_float": kept,
        "calibration": None
        if table is None
        else {key: value for key, value in table.provenance.items() if key not in ("question_ids", "layers")},
    }


def _activations(plans: Mapping[str, GraphPlan]) -> dict[str, Any]:
    """Returns every activation's scale and the exponent of its smoothing, by graph."""
    return {
        name: {
            value: {"scale": scale, "alpha": plan.smoothing[value].alpha if value in plan.smoothing else None}
            for value, scale in plan.activations.items()
        }
        for name, plan in plans.items()
        if plan.activations
    }
