"""Puts a plan into a graph: Q/DQ around what is quantized, integers in place of weights, factors into constants.

Explicit, symmetric and standard (ONNX QuantizeLinear, DequantizeLinear), as TensorRT and onnxruntime both fuse it:
QuantizeLinear(x, scale, int8 0) - DequantizeLinear - MatMul(., DequantizeLinear(W int8 [K, N], scales [N], axis=1)).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from leo_edge.calib.histogram import LEVELS
from leo_edge.export.quantize.plan import GraphPlan, float_array, read_array
from leo_edge.export.quantize.weights import INT4_BLOCK, quantize_blocks, quantize_channels
from leo_edge.runtime.errors import CheckpointError

OPSET_INT4 = 21
"""The first with INT4 and with scales per block."""
Arrays = dict[str, Callable[[], npt.NDArray[Any]]]
_FLOATS: dict[ir.DataType, np.dtype[Any]] = {ir.DataType.FLOAT: np.dtype(np.float32), ir.DataType.FLOAT16: np.dtype(np.float16)}
_WEIGHT_AXIS = {"MatMul": 1, "Conv": 0}


def rewrite(model: ir.Model, plan: GraphPlan) -> Arrays:
    """Changes a graph in place. Returns what makes each of its weights, one at a time; nothing is read before.

    Raises, when an array is made:
        CheckpointError: a constant that was scaled no longer fits the graph's float type.
    """
    rewriter = _Rewriter(model, plan)
    rewriter.weights()
    rewriter.activations()
    if plan.cache:
        rewriter.cache()
    if any(kind == "int4" for kind in plan.weights.values()):
        model.opset_imports[""] = max(model.opset_imports[""], OPSET_INT4)
    model.graph.sort()
    return rewriter.arrays


class _Rewriter:
    def __init__(self, model: ir.Model, plan: GraphPlan) -> None:
        self._graph, self._plan = model.graph, plan
        self._source = model.clone()  # keeps the float constants readable while the graph changes
        self._products: dict[str, ir.Node] = {}  # by weight
        # Shapes and the like are in the graph's own file, and stay there: engines look at them when they load it.
        weights = [name for name, value in model.graph.initializers.items() if isinstance(value.const_value, ir.ExternalTensor)]
        self.arrays: Arrays = {name: partial(self._scaled, name) for name in weights}

    def weights(self) -> None:
        """Replaces quantized weights by integers, scales and DequantizeLinear."""
        for layer in self._plan.layers:
            kind = self._plan.weights.get(layer.weight) or self._plan.weight_only.get(layer.weight)
            if kind is not None:
                self._quantize_weight(layer.weight, kind, _WEIGHT_AXIS[layer.kind])

    def activations(self) -> None:
        """Puts Q/DQ before the products that read a quantized activation, a pair for each: onnxruntime fuses no shared one."""
        values = self._values()
        for layer in self._plan.layers:
            if self._plan.weights.get(layer.weight) == "int8" and layer.input in self._plan.activations:
                name = f"{layer.weight.split('.weight')[0]}.input"
                dequantized = self._quantize_dequantize(values[layer.input], name, self._plan.activations[layer.input])
                self._products[layer.weight].replace_input_with(0, dequantized)

    def cache(self) -> None:
        """Keeps the cache in INT8: what comes in is dequantized, what goes out quantized. Every head's range is [-1, 1]."""
        for value in [value for value in self._graph.inputs if str(value.name).startswith("past_")]:
            dtype, readers = value.dtype, list(value.uses())
            scale = self._scalar(f"{value.name}.scale", 1 / LEVELS, dtype)
            dequantize = ir.node(
                "DequantizeLinear", [value, scale, self._zero(f"{value.name}.zero")], name=f"{value.name}.dequantize"
            )
            dequantize.outputs[0].type, dequantize.outputs[0].shape = ir.TensorType(_type(dtype)), value.shape
            dequantize.outputs[0].name = f"{value.name}.float"
            value.type = ir.TensorType(ir.DataType.INT8)
            for node, place in readers:
                node.replace_input_with(place, dequantize.outputs[0])
            self._graph.append(dequantize)
        for place, value in enumerate(self._graph.outputs):
            if str(value.name).startswith("new_"):
                self._graph.outputs[place] = self._quantized_output(value)

    def _quantized_output(self, value: ir.Value) -> ir.Value:
        name = str(value.name)
        value.name = f"{name}.float"
        scale = self._scalar(f"{name}.scale", 1 / LEVELS, value.dtype)
        quantize = ir.node("QuantizeLinear", [value, scale, self._zero(f"{name}.zero")], name=f"{name}.quantize")
        quantize.outputs[0].name, quantize.outputs[0].shape = name, value.shape
        quantize.outputs[0].type = ir.TensorType(ir.DataType.INT8)
        self._graph.append(quantize)
        return quantize.outputs[0]

    def _quantize_weight(self, name: str, kind: str, axis: int) -> None:
        old = self._graph.initializers[name]
        dtype = _type(old.dtype)
        shape = tuple(int(dim) for dim in old.shape or ())  # type: ignore[arg-type]
        integers = self._initializer(f"{name}.{kind}", shape, ir.DataType.INT8 if kind == "int8" else ir.DataType.INT4)
        scale_shape = (shape[axis],) if kind == "int8" else (shape[0] // INT4_BLOCK, shape[1])
        scales = self._initializer(f"{name}.scale", scale_shape, dtype)
        attributes = {"axis": axis} if kind == "int8" else {"axis": 0, "block_size": INT4_BLOCK}
        node = ir.node("DequantizeLinear", [integers, scales], attributes, name=f"{name}.dequantize")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{name}.float", ir.TensorType(dtype), old.shape
        self._graph.append(node)
        (self._products[name],) = old.consumers()
        ir.convenience.replace_all_uses_with(old, node.outputs[0])
        del self._graph.initializers[name], self.arrays[name]
        float_type = _FLOATS[dtype]

        def make() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            weight = self._factored(name)
            return quantize_blocks(weight, float_type) if kind == "int4" else quantize_channels(weight, axis, float_type)

        both = _Once(make)
        packed = ml_dtypes.int4 if kind == "int4" else np.int8
        self.arrays[str(integers.name)] = lambda: both.first().astype(packed)
        self.arrays[str(scales.name)] = both.second

    def _quantize_dequantize(self, value: ir.Value, name: str, scale: float) -> ir.Value:
        scales, zero = self._scalar(f"{name}.scale", scale, value.dtype), self._zero(f"{name}.zero")
        quantize = ir.node("QuantizeLinear", [value, scales, zero], name=f"{name}.quantize")
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scales, zero], name=f"{name}.dequantize")
        quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}.int8", f"{name}.dequantized"
        quantize.outputs[0].type, dequantize.outputs[0].type = ir.TensorType(ir.DataType.INT8), value.type
        quantize.outputs[0].shape = dequantize.outputs[0].shape = value.shape
        self._graph.extend([quantize, dequantize])
        return dequantize.outputs[0]

    def _values(self) -> dict[str, ir.Value]:
        return {str(value.name): value for node in self._graph for value in node.outputs} | {
            str(value.name): value for value in self._graph.inputs
        }

    def _initializer(self, name: str, shape: tuple[int, ...], dtype: ir.DataType) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._graph.initializers[name] = value
        return value

    def _scalar(self, name: str, number: float, dtype: ir.DataType | None) -> ir.Value:
        kind = _FLOATS[_type(dtype)]
        return self._constant(name, np.array(max(number, float(np.finfo(kind).tiny)), dtype=kind))

    def _zero(self, name: str) -> ir.Value:
        return self._constant(name, np.array(0, np.int8))

    def _constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        value = self._initializer(name, (), ir.DataType.from_numpy(array.dtype))
        value.const_value = ir.tensor(array, name=name)
        return value

    def _scaled(self, name: str) -> npt.NDArray[Any]:
        """Makes a constant that stays in its type."""
        array = read_array(self._source, name)
        if name not in self._plan.rows and name not in self._plan.columns:
            return array
        made = self._factored(name).astype(array.dtype)
        if not np.isfinite(made).all():
            raise CheckpointError(f"{name} no longer fits {made.dtype} when it is smoothed: quantize with --method minmax")
        return made

    def _factored(self, name: str) -> npt.NDArray[np.float32]:
        array = float_array(self._source, name)
        if name in self._plan.rows:
            array = array * self._plan.rows[name].reshape(-1, *[1] * (array.ndim - 1))
        if name in self._plan.columns:
            array = array * self._plan.columns[name]
        return array


class _Once:
    """A pair that is made when it is first asked for, and given up after both were taken."""

    def __init__(self, make: Callable[[], tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
        self._make = make
        self._second: npt.NDArray[Any] | None = None

    def first(self) -> npt.NDArray[Any]:
        first, self._second = self._make()
        return first

    def second(self) -> npt.NDArray[Any]:
        second, self._second = self._second, None
        return self._make()[1] if second is None else second


def _type(dtype: ir.DataType | None) -> ir.DataType:
    assert dtype is not None
    assert dtype in _FLOATS, dtype
    return dtype
