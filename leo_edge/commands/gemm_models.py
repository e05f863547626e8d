"""Graphs of one matrix product, in the forms that onnxruntime runs fastest: what a machine's speed is measured with.

int8 comes in two: the product of u8 and s8 numbers with its scale, and the Q/DQ form that quantized bundles have, whose
activations are quantized on the way. Each becomes one operator of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from leo_edge.bench.limits import FP32, INT8, GemmModel
from leo_edge.runtime.manifest import GraphSpec, TensorSpec

# Sizes of a large language model's products over a prompt: M rows, K deep, N columns.
_M, _K, _N = 512, 2048, 2048
_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
Constants = Mapping[str, npt.NDArray[Any]]


def gemm_models() -> tuple[GemmModel, ...]:
    """Returns a product in fp32, and those in int8."""
    weight = np.ones((_K, _N), np.int8)
    scale = np.full(1, 0.01, np.float32)
    product = [
        helper.make_node("MatMulInteger", ["a", "w"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["sums_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sums_float", "scale"], ["y"]),
    ]
    quantized = [
        helper.make_node("QuantizeLinear", ["a", "a_scale", "a_zero"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "a_scale", "a_zero"], ["ad"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=1),
        helper.make_node("MatMul", ["ad", "wd"], ["y"]),
    ]
    scales: Constants = {
        "a_scale": np.array(0.02, np.float32),
        "a_zero": np.array(0, np.int8),
        "w_scale": np.full(_N, 0.01, np.float32),
        "w_zero": np.zeros(_N, np.int8),
    }
    return (
        _model(FP32, [helper.make_node("MatMul", ["a", "w"], ["y"])], "float32", {"w": weight.astype(np.float32)}),
        _model(INT8, product, "uint8", {"w": weight, "scale": scale}),
        _model(INT8, quantized, "float32", {"w": weight, **scales}),
    )


def _model(precision: str, nodes: Sequence[NodeProto], input_type: str, constants: Constants) -> GemmModel:
    """Returns y [M, N] = a [M, K] x w, computed by `nodes`, in fp32."""
    a, y = (_M, _K), (_M, _N)
    graph = helper.make_graph(
        list(nodes),
        "gemm",
        [helper.make_tensor_value_info("a", _TYPES[input_type], a)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    spec = GraphSpec("gemm.onnx", None, (TensorSpec("a", input_type, a),), (TensorSpec("y", "float32", y),), _K * _N)
    return GemmModel(precision, model.SerializeToString(), spec, 2 * _M * _K * _N)
