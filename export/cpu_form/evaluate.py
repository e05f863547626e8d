"""Computes a value of a graph from others, with onnx's reference implementation: for tables made when a graph is rewritten."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator


def nodes_above(value: ir.Value, stop: Collection[ir.Value] = ()) -> list[ir.Node]:
    """Returns the nodes that a value is made by, nearest first, not looking behind the values of `stop`."""
    found: dict[ir.Node, None] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop(0)
        node = None if one in stop else one.producer()
        if node is not None and node not in found:
            found[node] = None
            waiting += [before for before in node.inputs if before is not None]
    return list(found)


def evaluate(model: ir.Model, value: ir.Value, feeds: Mapping[ir.Value, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Returns the array of a value that depends on nothing but constants and `feeds`."""
    needed = set(nodes_above(value, feeds))
    nodes = [node for node in model.graph if node in needed]
    constants = {one for node in nodes for one in node.inputs if one is not None and one.const_value is not None}
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "part",
        [
            onnx.helper.make_tensor_value_info(str(one.name), onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for one, array in feeds.items()
        ],
        [onnx.helper.make_tensor_value_info(str(value.name), onnx.TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(one.const_value.numpy(), str(one.name))
            for one in constants
            if one.const_value is not None
        ],
    )
    opset = onnx.helper.make_opsetid("", min(model.opset_imports[""], onnx.defs.onnx_opset_version()))
    part = onnx.helper.make_model(graph, opset_imports=[opset])
    (result,) = ReferenceEvaluator(part).run(None, {str(one.name): array for one, array in feeds.items()})
    return np.asarray(result)
