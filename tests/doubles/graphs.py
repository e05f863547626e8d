"""Small ONNX graphs, and what it takes to build and run them on an imaginary machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)

Value = tuple[str, int, Sequence[Any]]


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
    opset: int = 20,
) -> bytes:
    """Returns a graph as bytes; ports are (name, type, shape)."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    data: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10).SerializeToString()
    return data


def product(*, rows: int | str = "N") -> bytes:
    """y [N, 3] = x [N, 4] @ WEIGHT."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    return graph([node], [("x", TensorProto.FLOAT, [rows, 4])], [("y", TensorProto.FLOAT, [rows, 3])], {"w": WEIGHT})


def cache_update(capacity: int | str = "C") -> bytes:
    """new [1, 2, C, 8] is past with rows [1, 2, S, 8] written in place from `at` [1] on (opset 24)."""
    node = helper.make_node("TensorScatter", ["past", "rows", "at"], ["new"], name="update", axis=-2)
    inputs: list[Value] = [
        ("past", TensorProto.FLOAT, [1, 2, capacity, 8]),
        ("rows", TensorProto.FLOAT, [1, 2, "S", 8]),
        ("at", TensorProto.INT64, [1]),
    ]
    return graph([node], inputs, [("new", TensorProto.FLOAT, [1, 2, capacity, 8])], opset=24)


def new_log() -> Any:
    """Returns a logger of the double's with `texts`, errors and warnings in their order."""
    import tensorrt

    class Log(tensorrt.ILogger):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.texts: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity <= tensorrt.ILogger.WARNING:
                self.texts.append(msg)

    return Log()


def parsed(log: Any, model: bytes, flags: int | None = None) -> tuple[Any, Any, Any]:
    """Returns builder, network and parser of a graph, strongly typed if not said otherwise."""
    import tensorrt

    builder = tensorrt.Builder(log)
    network = builder.create_network(
        1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if flags is None else flags
    )
    parser = tensorrt.OnnxParser(network, log)
    parser.parse(model)
    return builder, network, parser


def build(
    log: Any,
    model: bytes,
    profiles: Sequence[Mapping[str, tuple[Any, Any, Any]]] = (),
    *,
    static: Mapping[str, Sequence[int]] | None = None,
) -> bytes | None:
    """Builds a plan, with `static` shapes set on inputs before; None where it is refused."""
    builder, network, parser = parsed(log, model)
    assert parser.num_errors == 0, log.texts
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        if static and tensor.name in static:
            tensor.shape = tuple(static[tensor.name])
    config = builder.create_builder_config()
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, (low, likely, high) in ranges.items():
            profile.set_shape(name, low, likely, high)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan)


def load(log: Any, plan: bytes | None) -> Any:
    """Returns the engine of a plan."""
    import tensorrt

    assert plan is not None, log.texts
    engine = tensorrt.Runtime(log).deserialize_cuda_engine(plan)
    assert engine is not None, log.texts
    return engine


PRODUCT_PROFILE = {"x": ((1, 4), (2, 4), (8, 4))}


class Device:
    """Memory and a stream of the imaginary device."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self.cuda = runtime
        self.stream = self.new_stream()

    def ok(self, result: tuple[Any, ...]) -> Any:
        """Returns what a call gave; it must have succeeded."""
        error, *values = result
        assert error == self.cuda.cudaError_t.cudaSuccess, error
        return values[0] if values else None

    def new_stream(self) -> Any:
        """Makes a stream that no other waits for."""
        return self.ok(self.cuda.cudaStreamCreateWithFlags(self.cuda.cudaStreamNonBlocking))

    def new_event(self) -> Any:
        """Makes an event."""
        return self.ok(self.cuda.cudaEventCreateWithFlags(self.cuda.cudaEventDisableTiming))

    def allocate(self, num_bytes: int = 4096) -> int:
        """Takes device memory."""
        return int(self.ok(self.cuda.cudaMalloc(num_bytes)))

    def pinned(self, count: int) -> tuple[int, npt.NDArray[np.float32]]:
        """Takes page-locked memory: its address, and an array of it."""
        import ctypes

        address = int(self.ok(self.cuda.cudaHostAlloc(4 * count, 0)))
        return address, np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))

    def upload(self, address: int, array: npt.NDArray[Any], stream: Any = None) -> None:
        """Copies an array of the host's to the device."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.ok(self.cuda.cudaMemcpyAsync(address, array, array.nbytes, kind, stream or self.stream))

    def download(self, address: int, shape: Sequence[int], stream: Any = None) -> npt.NDArray[np.float32]:
        """Waits for a stream and returns float32 of the device."""
        array = np.zeros(shape, np.float32)
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.ok(self.cuda.cudaMemcpyAsync(array, address, array.nbytes, kind, stream or self.stream))
        return array

    def wait(self, stream: Any = None) -> None:
        """Waits for a stream."""
        self.ok(self.cuda.cudaStreamSynchronize(stream or self.stream))
