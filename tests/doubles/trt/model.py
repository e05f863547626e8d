"""An ONNX graph as parser, builder and engine see it: ports, types, constants, shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper, shape_inference
from onnxscript import optimizer

from tests.doubles.trt.enums import DataType

_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT4: "INT4",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
_NUMPY = {
    "FP32": (DataType.FLOAT, np.float32),
    "FP16": (DataType.HALF, np.float16),
    "INT32": (DataType.INT32, np.int32),
    "INT64": (DataType.INT64, np.int64),
    "INT8": (DataType.INT8, np.int8),
    "UINT8": (DataType.UINT8, np.uint8),
    "BOOL": (DataType.BOOL, np.bool_),
}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output. `shape` has -1 where `names` has the name of a dynamic size, "" for one without."""

    name: str
    type: str
    shape: Shape
    names: tuple[str, ...]

    @property
    def dtype(self) -> Any:
        """TensorRT's type."""
        return _NUMPY[self.type][0]

    @property
    def numpy(self) -> np.dtype[Any]:
        """numpy's type."""
        return np.dtype(_NUMPY[self.type][1])


class ShapeError(Exception):
    """Shapes of inputs that do not fit each other."""


class Model:
    """A graph and what was found out about it."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        graph = proto.graph
        self.initializers = {one.name: one for one in graph.initializer}
        self.inputs = [_port(value) for value in graph.input if value.name not in self.initializers]
        self.outputs = [_port(value) for value in graph.output]
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self._typed: dict[str, str] | None = None
        self._output_shapes: dict[tuple[Shape, ...], dict[str, Shape]] = {}

    @property
    def opset(self) -> int:
        """The standard domain's opset."""
        return next((one.version for one in self.proto.opset_import if one.domain in ("", "ai.onnx")), 0)

    def nodes(self) -> Iterator[tuple[int, onnx.NodeProto]]:
        """Yields the nodes with their numbers, those of branches and loops under the number of what holds them."""
        for number, node in enumerate(self.proto.graph.node):
            yield from ((number, one) for one in _with_inner(node))

    def type_of(self, name: str) -> str:
        """Returns a value's type, "" where it is not known."""
        if self._typed is None:
            inferred = shape_inference.infer_shapes(self.proto)
            values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
            self._typed = {value.name: _TYPES.get(value.type.tensor_type.elem_type, "") for value in values}
            self._typed |= {name: _TYPES.get(one.data_type, "") for name, one in self.initializers.items()}
        return self._typed.get(name, "")

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """Returns the numbers of an initializer or a Constant, None for what is computed."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        attribute = node.attribute[0]
        value = onnx.helper.get_attribute_value(attribute)
        return numpy_helper.to_array(value) if attribute.name == "value" else np.asarray(value)

    def is_constant(self, name: str) -> bool:
        """Whether a value is known when the engine is built."""
        if name in self.initializers:
            return True
        node = self.producers.get(name)
        if node is None:
            return False
        return node.op_type == "Constant" or all(self.is_constant(one) for one in node.input if one)

    def with_shapes(self, shapes: Mapping[str, Shape]) -> Model:
        """Returns it with other shapes of inputs, -1 leaving a size as it is; names that got one size have it everywhere."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        sizes: dict[str, set[int]] = {}
        for value in proto.graph.input:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
                if dim.dim_param:
                    sizes.setdefault(dim.dim_param, set()).add(size)
                if size >= 0:
                    dim.dim_value = size
        for value in (*proto.graph.output, *proto.graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                found = sizes.get(dim.dim_param, set()) if dim.dim_param else set()
                if len(found) == 1 and (size := next(iter(found))) >= 0:
                    dim.dim_value = size
        return Model(proto)

    def output_shapes(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        """Returns the outputs' shapes for those of the inputs; -1 for what depends on values.

        Raises:
            ShapeError: sizes of one name differ, or the graph does not fit.
        """
        key = tuple(tuple(given[port.name]) for port in self.inputs)
        if key not in self._output_shapes:
            self._output_shapes[key] = self._infer(given)
        return self._output_shapes[key]

    def _infer(self, given: Mapping[str, Shape]) -> dict[str, Shape]:
        sizes: dict[str, int] = {}
        for port in self.inputs:
            for name, size in zip(port.names, given[port.name], strict=True):
                if name and sizes.setdefault(name, size) != size:
                    raise ShapeError(f"dimensions named {name} have different sizes {sizes[name]} and {size} at {port.name}")
        found = {
            port.name: tuple(
                sizes.get(name, -1) if size < 0 else size for size, name in zip(port.shape, port.names, strict=True)
            )
            for port in self.outputs
        }
        if all(size >= 0 for shape in found.values() for size in shape):
            return found
        try:
            # With all shapes known, what is computed from them folds to constants, as TensorRT computes it on the host.
            model = ir.from_proto(self.with_shapes(given).proto)
            optimizer.optimize_ir(model)
            inferred = shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
        except shape_inference.InferenceError as error:
            raise ShapeError(str(error).strip().splitlines()[0]) from None
        exact = {value.name: _port(value).shape for value in inferred.graph.output}
        return {
            name: tuple(size if size >= 0 else other for size, other in zip(shape, exact[name], strict=True))
            for name, shape in found.items()
        }


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return Port(value.name, _TYPES.get(tensor.elem_type, ""), shape, tuple(dim.dim_param for dim in tensor.shape.dim))


def _with_inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _with_inner(inner)
