"""What the rules see: one ONNX graph, the target it is to be built for, and a few questions about its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


@dataclass(frozen=True)
class Target:
    """A software stack: its TensorRT release and the newest ONNX opset that its parser reads.

    Source: TensorRT's release notes and the operator matrix of its ONNX parser (onnx/onnx-tensorrt, docs/operators.md).
    """

    name: str
    tensorrt: str
    max_opset: int

    def types_of(self, operator: str) -> frozenset[str] | None:
        """Returns the types that the parser takes an operator with, None where it takes none."""
        types = _operators()[self.tensorrt].get(operator)
        return None if types is None else frozenset(types.split())


TARGETS = {
    target.name: target
    for target in (Target("jetpack6.2", "10.3", 20), Target("jetpack7.2", "10.16", 24), Target("trt11", "11.1", 24))
}


@lru_cache
def _operators() -> dict[str, dict[str, str | None]]:
    """Returns types by operator and release."""
    table = json.loads((resources.files(__package__) / "operators.json").read_text(encoding="utf-8"))
    by_release: dict[str, dict[str, str | None]] = {}
    for i, release in enumerate(table["releases"]):
        by_release[release] = {op: types[i] if isinstance(types, list) else types for op, types in table["operators"].items()}
    return by_release


# The names in TensorRT's matrix.
TYPE_NAMES = {
    ir.DataType.FLOAT: "FP32",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.DOUBLE: "FP64",
    ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64",
    ir.DataType.INT8: "INT8",
    ir.DataType.INT4: "INT4",
    ir.DataType.UINT8: "UINT8",
    ir.DataType.BOOL: "BOOL",
    ir.DataType.FLOAT8E4M3FN: "FP8",
    ir.DataType.FLOAT4E2M1: "FP4",
}


class Graph:
    """An ONNX graph whose values have types."""

    def __init__(self, name: str, model: ir.Model) -> None:
        self.name, self.model = name, model
        self.opset = model.opset_imports.get("", 0)
        self._outputs = set(model.graph.outputs)

    def nodes(self, *operators: str) -> Iterator[ir.Node]:
        """Yields the nodes, those of branches and loops too; with `operators`, only these."""
        for node in self.model.graph.all_nodes():
            if not operators or node.op_type in operators:
                yield node

    def is_output(self, value: ir.Value) -> bool:
        """Whether a value goes outside."""
        return value in self._outputs


def type_name(value: ir.Value | None) -> str:
    """Returns TensorRT's name of a value's type, ONNX's where it has none."""
    if value is None or value.dtype is None:
        return "unknown"
    return TYPE_NAMES.get(value.dtype, value.dtype.name)


def name_of(node: ir.Node) -> str:
    """Returns what to call a node."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def input_of(node: ir.Node, place: int) -> ir.Value | None:
    """Returns a node's input, None where it is left out."""
    return node.inputs[place] if place < len(node.inputs) else None


def is_constant(value: ir.Value) -> bool:
    """Whether a value is known when the engine is built: an initializer, a constant, or made of nothing else."""
    node = value.producer()
    if node is None:
        return value.const_value is not None
    if node.op_type == "Constant":
        return True
    return bool(node.inputs) and all(one is not None and is_constant(one) for one in node.inputs)


def constant_of(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Returns the numbers of an initializer or a Constant; None for anything else."""
    if value is None:
        return None
    node = value.producer()
    if node is None:
        tensor = value.const_value
    else:
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if node.op_type == "Constant" and attribute is None:
            return _short_constant(node)
        tensor = None if attribute is None else attribute.as_tensor()
    return None if tensor is None else np.asarray(tensor.numpy())


def _short_constant(node: ir.Node) -> npt.NDArray[Any] | None:
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if name in node.attributes:
            return np.asarray(node.attributes[name].value)
    return None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Returns an attribute's value."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def shape_of(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Returns a shape, unknown sizes as None; None where even the rank is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


Found = Iterator[tuple[str, str]]
"""For every place that breaks a rule, the node's name, and what is wrong there and what would mend it."""
Check = Callable[[Graph, Target], Found]


@dataclass(frozen=True)
class Rule:
    """A rule. `refused`: TensorRT does not build it; else it builds, but not the INT8 engine that was meant."""

    name: str
    check: Check
    refused: bool = True
