"""Rules on quantized graphs: explicit Q/DQ that TensorRT builds, and that it fuses into INT8 kernels.

Sources: NVIDIA's developer guide of TensorRT 10, "Working with Quantized Types" (symmetric scales, weights per channel,
activations per tensor, recommended placement of Q/DQ, strongly typed networks), and the parser's operator matrix.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from leo_edge.export.lint.graph import (
    Found,
    Graph,
    Rule,
    Target,
    attribute,
    constant_of,
    input_of,
    is_constant,
    name_of,
    shape_of,
    type_name,
)

_WEIGHT_AXIS = {"MatMul": 1, "Gemm": 1, "Conv": 0}  # the output channel's, of a weight of [K, N] or [M, C, H, W]
_INT4_BLOCK = 128
_KEPT_FLOAT = ("LayerNormalization", "RMSNormalization", "Softmax")


def quantized_type(graph: Graph, _: Target) -> Found:
    """INT8, or INT4 for weights. Without a zero point ONNX means UINT8."""
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
        allowed = ("INT8",) if node.op_type == "QuantizeLinear" else ("INT8", "INT4")
        if type_name(value) not in allowed:
            yield (
                name_of(node),
                f"{node.op_type} with {type_name(value)}: expected {' or '.join(allowed)}, with zero points of it",
            )


def zero_point(graph: Graph, _: Target) -> Found:
    """Quantization is symmetric."""
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        points = input_of(node, 2)
        if points is None:
            continue
        numbers = constant_of(points)
        if numbers is None:
            yield name_of(node), "the zero point is computed at run time: it must be 0"
        elif np.any(numbers.astype(np.int64)):
            yield name_of(node), f"zero point {int(numbers.astype(np.int64).flat[0])}: it must be 0, quantize symmetrically"


def scale(graph: Graph, _: Target) -> Found:
    """Scales are positive constants."""
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        scales = input_of(node, 1)
        numbers = constant_of(scales)
        if numbers is None:
            yield name_of(node), "the scale is computed at run time: calibrate, and make it an initializer"
        elif not (np.isfinite(numbers).all() and (numbers > 0).all()):
            yield name_of(node), "a scale is zero, negative or not finite: it must be positive"


def scale_type(graph: Graph, _: Target) -> Found:
    """In a strongly typed network the scale has the type of what is quantized, and what is dequantized has the scale's."""
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else node.outputs[0]
        scales = input_of(node, 1)
        if scales is not None and value is not None and value.dtype != scales.dtype:
            yield name_of(node), f"{type_name(value)} with a scale of {type_name(scales)}: both must have one type"


def per_tensor_activation(graph: Graph, _: Target) -> Found:
    """Only weights, which are constants, have a scale per channel; a gathered stack of them is no constant."""
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        scales, quantized = input_of(node, 1), node.inputs[0]
        size = None if scales is None else shape_of(scales)
        if size is None or quantized is None or int(np.prod([dim or 0 for dim in size])) == 1 or is_constant(quantized):
            continue
        yield name_of(node), f"{quantized.name} is no constant and has a scale per channel: give it one scale"


def weight_axis(graph: Graph, _: Target) -> Found:
    """A weight's scales go along its output channel, and say so."""
    for node in graph.nodes("DequantizeLinear"):
        scales, weight = input_of(node, 1), node.inputs[0]
        if scales is None or weight is None or len(shape_of(scales) or ()) != 1 or not is_constant(weight):
            continue
        if "axis" not in node.attributes:
            yield name_of(node), "scales per channel without the attribute axis: state it"
            continue
        for reader in node.outputs[0].consumers():
            wanted = _WEIGHT_AXIS.get(reader.op_type)
            axis = attribute(node, "axis") % len(shape_of(weight) or (1,))
            if wanted is not None and axis != wanted:
                yield name_of(node), f"scales along axis {axis} of a weight of {reader.op_type}: expected axis {wanted}"


def int4_block(graph: Graph, _: Target) -> Found:
    """INT4 weights have a scale per block of 128 along their input channel."""
    for node in graph.nodes("DequantizeLinear"):
        weight = node.inputs[0]
        if weight is None or weight.dtype != ir.DataType.INT4:
            continue
        size, axis = attribute(node, "block_size", 0), attribute(node, "axis", 1)
        if size != _INT4_BLOCK or axis != 0 or not is_constant(weight):
            yield (
                name_of(node),
                f"INT4 with blocks of {size} along axis {axis}: expected constant weights, {_INT4_BLOCK}, axis 0",
            )


def both_inputs(graph: Graph, _: Target) -> Found:
    """An INT8 product has INT8 on both sides; with one of them it is computed in float."""
    for node in graph.nodes("MatMul", "Conv"):
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None:
            continue
        int8_x, int8_weight = (_dequantized(value, ir.DataType.INT8) for value in (x, weight))
        if int8_weight and is_constant(weight) and not int8_x:
            yield (
                name_of(node),
                f"{node.op_type} of an INT8 weight and {type_name(x)}: it is computed in float, quantize its input",
            )
        elif int8_x and not int8_weight:
            yield (
                name_of(node),
                f"{node.op_type} of INT8 and a {type_name(weight)} weight: it is computed in float, quantize both",
            )


def float_output(graph: Graph, _: Target) -> Found:
    """A product's output stays float, so that bias and activation fuse with it, unless a product reads it quantized."""
    for node in graph.nodes("QuantizeLinear"):
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is not None and before.op_type == "Add":
            before = next((v.producer() for v in before.inputs if v is not None and v.producer() is not None), None)
        if before is None or before.op_type not in _WEIGHT_AXIS or not _is_weighted(before):
            continue
        readers = [reader for dequantize in node.outputs[0].consumers() for reader in dequantize.outputs[0].consumers()]
        if not any(reader.op_type in _WEIGHT_AXIS for reader in readers):
            yield name_of(node), f"the output of {name_of(before)} is quantized: quantize the input of what reads it"


def float_norms(graph: Graph, _: Target) -> Found:
    """Norms and softmax stay float."""
    for node in graph.nodes(*_KEPT_FLOAT):
        if node.inputs[0] is not None and _dequantized(node.inputs[0], ir.DataType.INT8):
            yield name_of(node), f"{node.op_type} reads quantized values: keep its input float"


def paired(graph: Graph, _: Target) -> Found:
    """What is quantized is dequantized at once, or leaves the graph."""
    for node in graph.nodes("QuantizeLinear"):
        for reader in node.outputs[0].consumers():
            if reader.op_type != "DequantizeLinear":
                yield name_of(node), f"INT8 goes into {reader.op_type}: DequantizeLinear must read it"


INT8_RULES = (
    Rule("quantized-type", quantized_type),
    Rule("zero-point", zero_point),
    Rule("scale", scale),
    Rule("scale-type", scale_type),
    Rule("per-tensor-activation", per_tensor_activation),
    Rule("weight-axis", weight_axis),
    Rule("int4-block", int4_block),
    Rule("both-inputs", both_inputs, refused=False),
    Rule("float-output", float_output, refused=False),
    Rule("float-norms", float_norms, refused=False),
    Rule("paired", paired),
)


def _dequantized(value: ir.Value, dtype: ir.DataType) -> bool:
    node = value.producer()
    return (
        node is not None and node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].dtype == dtype
    )


def _is_weighted(node: ir.Node) -> bool:
    return len(node.inputs) > 1 and node.inputs[1] is not None and is_constant(node.inputs[1])
