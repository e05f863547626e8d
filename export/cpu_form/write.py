"""Writes the CPU forms of a bundle's graphs beside them: a graph file each, on the weights that are there already."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from leo_edge.calib.ports import port_of
from leo_edge.export.cpu_form.form import REWRITES, to_cpu_form
from leo_edge.export.writer import file_spec
from leo_edge.runtime.manifest import BundleManifest, GraphSpec


def write_cpu_forms(directory: Path, manifest: BundleManifest) -> BundleManifest:
    """Writes a form of every graph that a rewrite finds something in, and returns the manifest that names them.

    Only of float32 graphs: onnxruntime's fused operators have no float16 on a CPU.
    """
    if manifest.float_type != "float32":
        return manifest
    forms, files = {}, dict(manifest.files)
    for name in ("llm", *(f"vision.{expert.name}" for expert in manifest.experts)):
        if (made := make_cpu_form(directory, manifest, name)) is not None:
            spec, content = made
            (directory / spec.file).write_bytes(content)
            files[spec.file] = file_spec(directory / spec.file)
            forms[name] = spec
    return replace(manifest, cpu_forms=forms, files=files)


def make_cpu_form(
    directory: Path, manifest: BundleManifest, name: str, rewrites: Collection[str] = REWRITES
) -> tuple[GraphSpec, bytes] | None:
    """Returns the form of a graph, and what its file holds; None where no rewrite finds anything."""
    standard = manifest.graphs[name]
    model = ir.load(directory / standard.file)
    if not to_cpu_form(name, model, manifest.decoder, rewrites):
        return None
    inputs, outputs = (tuple(map(port_of, ports)) for ports in (model.graph.inputs, model.graph.outputs))
    return replace(standard, file=f"{name}.cpu.onnx", inputs=inputs, outputs=outputs), ir.to_proto(model).SerializeToString()
