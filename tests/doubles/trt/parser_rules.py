"""What TensorRT's ONNX parser refuses, by release.

Sources: the operator matrices of its releases (onnx/onnx-tensorrt, docs/operators.md; as leo_edge/export/lint/operators.json),
and the messages of its importers (onnxOpImporters.cpp, ModelImporter.cpp) as users quote them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnx

from tests.doubles.trt.binding import RELEASE
from tests.doubles.trt.model import Model

_COLUMN = 0 if RELEASE < (10, 14) else 1 if RELEASE < (11,) else 2
MOST_OPSET = 20 if RELEASE < (10, 6) else 22 if RELEASE < (10, 14) else 24
_OPERATORS = json.loads(resources.files("leo_edge.export.lint").joinpath("operators.json").read_text(encoding="utf-8"))[
    "operators"
]
_TYPED_BY = {"Where": 1, "OneHot": 2}
_UNTYPED = ("Constant", "ConstantOfShape", "Shape", "Size", "If", "Loop", "RandomNormal", "RandomUniform", "EyeLike")
_CONSTANT_AXES = {"Pad": 3, "Squeeze": 1, "Unsqueeze": 1, "CumSum": 1}
_MOST_TOPK = 3839


@dataclass(frozen=True)
class Refusal:
    """A node that is refused; `code` is of `ErrorCode`."""

    number: int
    node: onnx.NodeProto
    code: str
    text: str

    @property
    def description(self) -> str:
        """What the parser says."""
        return (
            f"In node {self.number} with name: {self.node.name} and operator: {self.node.op_type} "
            f"(parseNode): {self.code}: {self.text}"
        )


def refusals(model: Model) -> Iterator[Refusal]:
    """Yields what the parser of the machine's release refuses, in the order of the graph."""
    for number, node in model.nodes():
        for code, text in _of_node(model, node):
            yield Refusal(number, node, code, text)


def is_known(operator: str) -> bool:
    """Whether the parser of the machine's release has an importer for an operator."""
    return _types(onnx.NodeProto(op_type=operator)) is not None


def _of_node(model: Model, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    types = _types(node)
    if types is None:
        yield "INVALID_NODE", 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
        return
    place = _TYPED_BY.get(node.op_type, 0)
    if node.op_type not in _UNTYPED and len(node.input) > place and node.input[place]:
        found = model.type_of(node.input[place])
        if found and found != "FP64" and found not in types:
            yield "UNSUPPORTED_NODE_DATATYPE", f"{node.op_type} does not support {found}, only {' '.join(types)}"
        if found == "UINT8" and node.op_type != "Cast":
            yield "UNSUPPORTED_NODE_DATATYPE", "UINT8 is for network inputs and outputs only: it must be cast"
    axes = 1 if node.op_type.startswith("Reduce") else _CONSTANT_AXES.get(node.op_type)
    if axes is not None and len(node.input) > axes and node.input[axes] and not model.is_constant(node.input[axes]):
        yield "UNSUPPORTED_NODE", "Axis input must be an initializer"
    yield from _special(model, node)


def _special(model: Model, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "ScatterND" and "reduction" in attributes:
        if RELEASE < (10, 4):
            yield "UNSUPPORTED_NODE_ATTR", 'Attribute reduction is not supported: !attrs.count("reduction")'
        elif attributes["reduction"] != b"none":
            yield "UNSUPPORTED_NODE_ATTR", "Attribute reduction other than none is not supported"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _quantization(model, node)
    if node.op_type == "TopK":
        count = model.constant(node.input[1])
        if attributes.get("sorted", 1) != 1 or (count is not None and int(count.flat[0]) > _MOST_TOPK):
            yield "UNSUPPORTED_NODE", f"TopK must be sorted, with K of at most {_MOST_TOPK}"
    if node.op_type == "LayerNormalization" and any(node.output[1:]):
        yield "UNSUPPORTED_NODE", "Only the first output is supported"
    if node.op_type == "Attention" and (any(node.input[4:]) or any(node.output[1:]) or attributes.get("softcap", 0.0)):
        yield "UNSUPPORTED_NODE", "past_key, past_value, nonpad_kv_seqlen, their outputs and softcap are not supported"
    if node.op_type == "TensorScatter" and (attributes.get("axis", -2) != -2 or attributes.get("mode", b"linear") != b"linear"):
        yield "UNSUPPORTED_NODE_ATTR", "axis must be -2 and mode linear"


def _quantization(model: Model, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    points = model.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if points is None or np.any(points.astype(np.float64)):
        yield (
            "INVALID_NODE",
            f"shiftIsAllZeros: TensorRT only supports symmetric quantization. The zero point for the {node.op_type} operator "
            "must be all zeros.",
        )
    scales = model.constant(node.input[1])
    if scales is None or not np.all(scales.astype(np.float64) > 0):
        yield "INVALID_NODE", "Scale coefficients must be build-time constants and all positive"
    elif scales.size > 1 and not model.is_constant(node.input[0]):
        yield "INVALID_NODE", "Per-channel quantization of what is no constant is not supported"
    if node.op_type == "QuantizeLinear" and model.type_of(node.input[0]) != model.type_of(node.input[1]):
        yield (
            "INVALID_NODE",
            f"Input of type {model.type_of(node.input[0])} with a scale of type {model.type_of(node.input[1])}",
        )


def _types(node: onnx.NodeProto) -> list[str] | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    entry = _OPERATORS.get(node.op_type)
    chosen = entry[_COLUMN] if isinstance(entry, list) else entry
    return None if chosen is None else chosen.split()
