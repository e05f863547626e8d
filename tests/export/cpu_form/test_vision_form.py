"""export/cpu_form: a vision expert in its CPU form gives the tokens of the standard graph; what it does not know it leaves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from leo_edge.export.cpu_form.form import to_cpu_form
from leo_edge.runtime.backend import Array
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.ort import OrtSession
from tests.conftest import MadeOnce

EXPERTS = {"leo-tiny": "vision.internvit", "leo-mini-tiny": "vision.clip"}


def tokens(bundle: Bundle, name: str, model: ir.Model | None, seed: int = 0) -> Array:
    spec, px = bundle.manifest.graphs[name], bundle.manifest.tiling.tile_px
    tiles = np.random.default_rng(seed).integers(0, 256, (2, px, px, 3), dtype=np.uint8)
    text = None if model is None else ir.to_proto(model).SerializeToString()
    return OrtSession(bundle.path(spec.file), spec, threads=1, model=text).run({"tiles": tiles})["tokens"]


def is_equal(found: Array, wanted: Array) -> bool:
    return bool(np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("preset", EXPERTS)
def test_attention_is_equal(tiny_bundles: MadeOnce, preset: str) -> None:
    bundle, name = open_bundle(tiny_bundles[preset]), EXPERTS[preset]
    model = ir.load(bundle.path(f"{name}.onnx"))
    assert to_cpu_form(name, model, bundle.manifest.decoder) == ("attention",)
    assert "Softmax" not in {node.op_type for node in model.graph}
    wanted = tokens(bundle, name, None)
    assert is_equal(tokens(bundle, name, model), wanted)
    assert not is_equal(tokens(bundle, name, model, seed=1), wanted)


def test_another_scale_shows(tiny_bundles: MadeOnce) -> None:
    bundle, name = open_bundle(tiny_bundles["leo-mini-tiny"]), "vision.clip"
    model = ir.load(bundle.path(f"{name}.onnx"))
    to_cpu_form(name, model, bundle.manifest.decoder)
    node = next(node for node in model.graph if node.op_type == "MultiHeadAttention")
    node.attributes["scale"] = ir.AttrFloat32("scale", 1.01 * node.attributes["scale"].as_float())
    assert not is_equal(tokens(bundle, name, model), tokens(bundle, name, None))


def test_attention_with_a_bias_is_left_alone(tiny_bundles: MadeOnce) -> None:
    bundle = open_bundle(tiny_bundles["leo-tiny"])
    model = ir.load(bundle.path("vision.sam.onnx"))
    before = [node.op_type for node in model.graph]
    assert to_cpu_form("vision.sam", model, bundle.manifest.decoder) == ()
    assert [node.op_type for node in model.graph] == before
