"""Writing a bundle's files tensor by tensor: at no time are more than a few weights in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from safetensors import numpy as safetensors_numpy

from leo_edge.export.trace import TracedGraph
from leo_edge.export.weights import Recipe, TensorReader
from leo_edge.runtime.bundle import sha256_of
from leo_edge.runtime.embedding import TENSOR_NAME
from leo_edge.runtime.errors import CheckpointError
from leo_edge.runtime.manifest import FileSpec

# onnxruntime maps external data where it starts on a page; small tensors only keep to a cache line.
_PAGE_BYTES, _LINE_BYTES, _LARGE_BYTES = 4096, 64, 1 << 16
_TORCH_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.INT64: torch.int64,
}
T = TypeVar("T")
OnBytes = Callable[[int], object]


class HashedFile:
    """A new file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)

    def pad(self, alignment: int) -> None:
        """Appends zeros up to a multiple of `alignment`."""
        self.write(bytes(-self.size_bytes % alignment))

    def spec(self) -> FileSpec:
        """Returns the size and hash of what was written so far."""
        return FileSpec(self.size_bytes, self._digest.hexdigest())

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def write_graph(graph: TracedGraph, reader: TensorReader, directory: Path, name: str, on_bytes: OnBytes) -> dict[str, FileSpec]:
    """Writes a traced graph with its weights from `reader`; see `write_model`.

    Raises:
        CheckpointError: a weight cannot be read, or does not fit the float type.
    """
    initializers = graph.model.graph.initializers
    makers = {
        key: partial(_typed_array, key, recipe, reader, _torch_type(initializers[key])) for key, recipe in graph.recipes.items()
    }
    return write_model(graph.model, makers, directory, name, on_bytes)


def write_model(
    model: ir.Model, makers: Mapping[str, Callable[[], npt.NDArray[Any]]], directory: Path, name: str, on_bytes: OnBytes
) -> dict[str, FileSpec]:
    """Writes `name`.onnx and, with all its weights, `name`.onnx.data. Returns both files' sizes and hashes.

    `makers` make the initializers, one at a time and the next while the one before is written. Without any, there is no second
    file.
    """
    specs = _write_weights(model, makers, directory, f"{name}.onnx.data", on_bytes) if makers else {}
    ir.save(model, directory / f"{name}.onnx")
    specs[f"{name}.onnx"] = file_spec(directory / f"{name}.onnx")
    return specs


def _write_weights(
    model: ir.Model, makers: Mapping[str, Callable[[], npt.NDArray[Any]]], directory: Path, data_name: str, on_bytes: OnBytes
) -> dict[str, FileSpec]:
    """Writes the weights behind one another, and says in the model where each of them lies."""
    with HashedFile(directory / data_name) as data:
        for key, array in zip(makers, _one_ahead(makers.values()), strict=True):
            packed = _packed(array)
            data.pad(_PAGE_BYTES if packed.nbytes >= _LARGE_BYTES else _LINE_BYTES)
            offset = data.size_bytes
            data.write(packed.data)
            on_bytes(packed.nbytes)
            dtype = ir.DataType.from_numpy(array.dtype)
            model.graph.initializers[key].const_value = ir.ExternalTensor(
                data_name, offset, packed.nbytes, dtype, shape=ir.Shape(array.shape), name=key, base_dir=directory
            )
        return {data_name: data.spec()}


def _packed(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns an array's bytes; two INT4 a byte, the first in the lower half."""
    if ir.DataType.from_numpy(array.dtype) == ir.DataType.INT4:
        return np.frombuffer(ir.tensor(array).tobytes(), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def write_embedding(recipe: Recipe, reader: TensorReader, path: Path, dtype: torch.dtype, on_bytes: OnBytes) -> FileSpec:
    """Writes the token embedding table as the one tensor of a safetensors file.

    Raises:
        CheckpointError: the table cannot be read, or does not fit the float type.
    """
    array = _typed_array(TENSOR_NAME, recipe, reader, dtype)
    safetensors_numpy.save_file({TENSOR_NAME: array}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner can read
    on_bytes(array.nbytes)
    return file_spec(path)


def file_spec(path: Path) -> FileSpec:
    """Returns the size and hash of a file."""
    return FileSpec(path.stat().st_size, sha256_of(path))


def num_parameters(recipes: Mapping[str, Recipe]) -> int:
    """Returns how many numbers the weights are."""
    return sum(math.prod(recipe.shape) for recipe in recipes.values())


def num_bytes(graph: TracedGraph) -> int:
    """Returns how many bytes the graph's weights will take."""
    initializers = graph.model.graph.initializers
    return sum(math.prod(recipe.shape) * _torch_type(initializers[key]).itemsize for key, recipe in graph.recipes.items())


def _typed_array(name: str, recipe: Recipe, reader: TensorReader, dtype: torch.dtype) -> npt.NDArray[Any]:
    """Makes a weight and puts it in the graph's type, refusing what that type cannot hold."""
    tensor = recipe.build(reader)
    typed = tensor.to(dtype).contiguous()
    if typed.is_floating_point() and not all(math.isfinite(bound) for bound in torch.aminmax(typed)):
        where = ", ".join(source.key for source in recipe.sources) or name
        if bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where} reaches {tensor.abs().max():.3g}, beyond float16's 65504: use --float fp32")
        raise CheckpointError(f"{where} holds numbers that are not finite: the checkpoint is broken")
    return typed.numpy()


def _one_ahead(makers: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yields what each maker makes, one being made while the one before is used: reading overlaps with hashing and writing."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[T] | None = None
        for maker in makers:
            ready, ahead = ahead, pool.submit(maker)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()


def _torch_type(value: ir.Value) -> torch.dtype:
    assert value.dtype is not None
    return _TORCH_TYPES[value.dtype]
