"""Finds a graph's products by their layers and puts new nodes in place of old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Product:
    """A MatMul with a constant weight. `source` is what it multiplies, before its Q/DQ where it has one.

    `scale` is the weight's where it is quantized, `activation` that of the input. `output` is behind the bias.
    """

    node: ir.Node
    source: ir.Value
    weight: ir.Value
    scale: ir.Value | None
    activation: ir.Value | None
    bias: ir.Value | None
    output: ir.Value

    @property
    def kind(self) -> tuple[int, bool, bool, float | None, ir.DataType | None]:
        """What products have in common that can be one: input, whether there is a scale and a bias, input's scale, type."""
        scale = array_of(self.activation)
        number = None if scale is None else float(scale)
        return id(self.source), self.scale is None, self.bias is None, number, self.weight.dtype

    @property
    def weight_rows(self) -> int:
        """Rows of the weight."""
        assert self.weight.shape is not None
        return int(self.weight.shape[0])  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        """Columns of the weight."""
        assert self.weight.shape is not None
        return int(self.weight.shape[1])  # type: ignore[arg-type]


class Editor:
    """A graph that is being changed. `products` are found by the start of their weight's name, such as the layer's."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self._count = 0
        found = [_product(node) for node in self.graph if node.op_type == "MatMul"]
        self.products = {str(one.weight.name).split(".weight")[0]: one for one in found if one is not None}

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> list[ir.Value]:
        """Adds a node and returns its outputs."""
        name = f"cpu.{operator}.{self._count}"
        self._count += 1
        node = ir.node(operator, inputs, dict(attributes or {}), domain=domain, name=name, num_outputs=outputs)
        for place, value in enumerate(node.outputs):
            value.name = f"{name}.{place}"
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        self.graph.append(node)
        return list(node.outputs)

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Returns the initializer of this name, added if it is not there."""
        if name not in self.graph.initializers:
            value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
            value.const_value = ir.tensor(array, name=name)
            self.graph.initializers[name] = value
        return self.graph.initializers[name]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Makes all readers of one value read another."""
        ir.convenience.replace_all_uses_with(old, new)

    def packed(self, layers: Sequence[str]) -> ir.Value | None:
        """Returns the outputs of products side by side, made by one product; None where they cannot be one.

        They can where they multiply the same value, with the same Q/DQ, and all or none have a bias.
        """
        products = [self.products[layer] for layer in layers]
        first = products[0]
        if len({one.kind for one in products}) != 1 or (first.scale is not None and len(first.scale.shape or ()) != 1):
            return None
        weight = self._side_by_side([one.weight for one in products], 1)
        if first.scale is not None:
            scales = self._side_by_side([one.scale for one in products if one.scale is not None], 0)
            (weight,) = self.add("DequantizeLinear", [weight, scales], {"axis": 1})
        (output,) = self.add("MatMul", [first.node.inputs[0], weight])
        if first.bias is not None:
            biases = self._side_by_side([one.bias for one in products if one.bias is not None], 0)
            (output,) = self.add("Add", [output, biases])
        return output

    def split(self, value: ir.Value, layers: Sequence[str]) -> None:
        """Puts the parts of a packed product's output in the places of the products' own."""
        sizes = np.array([self.products[layer].width for layer in layers], np.int64)
        name = "cpu.split." + ".".join(map(str, sizes))
        parts = self.add("Split", [value, self.constant(name, sizes)], {"axis": -1}, outputs=len(layers))
        for layer, part in zip(layers, parts, strict=True):
            self.replace(self.products[layer].output, part)

    def pack(self, layers: Sequence[str]) -> bool:
        """Makes one product of several; says whether it could."""
        if any(layer not in self.products for layer in layers):
            return False
        output = self.packed(layers)
        if output is not None:
            self.split(output, layers)
        return output is not None

    def finish(self) -> None:
        """Takes out what nothing reads any more and puts nodes in order."""
        RemoveUnusedNodesPass()(self.model)
        self.graph.sort()

    def _side_by_side(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Constants behind one another: onnxruntime folds this when it loads the graph."""
        (output,) = self.add("Concat", values, {"axis": axis})
        return output


def array_of(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Returns a constant's array; None where the value is no constant."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def only_reader(value: ir.Value) -> ir.Node | None:
    """Returns the node that reads a value; None where none or several do."""
    readers = list(value.uses())
    return readers[0][0] if len(readers) == 1 else None


def _product(node: ir.Node) -> Product | None:
    """Describes a MatMul; None where its right side is no constant matrix."""
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None:
        return None
    scale, activation, source = None, None, x
    dequantize = weight.producer()
    if dequantize is not None and dequantize.op_type == "DequantizeLinear":
        weight, scale = dequantize.inputs[0], dequantize.inputs[1]
    if weight is None or weight.const_value is None or weight.shape is None or len(weight.shape) != 2:
        return None
    before = x.producer()
    if before is not None and before.op_type == "DequantizeLinear" and before.inputs[0] is not None:
        quantize = before.inputs[0].producer()
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return None
        quantized = quantize.inputs[0]
        assert quantized is not None
        source, activation = quantized, quantize.inputs[1]
    bias, output = None, node.outputs[0]
    add = only_reader(output)
    if add is not None and add.op_type == "Add":
        others = [value for value in add.inputs if value is not None and value is not output]
        if len(others) == 1 and others[0].const_value is not None and len(others[0].shape or ()) == 1:
            bias, output = others[0], add.outputs[0]
    return Product(node, source, weight, scale, activation, bias, output)
