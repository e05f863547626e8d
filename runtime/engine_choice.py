"""Which inference engine runs a bundle: the one that was asked for, or the best that is here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from types import ModuleType

from leo_edge.runtime.backend import Engine
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError

BACKENDS = ("auto", "trt", "ort", "ort-cuda", "ort-trt")


def check_backend(backend: str) -> None:
    """Checks, before anything is read, that an engine's package is here. A vehicle carries only one.

    Raises:
        BackendError: there is no such engine, or it is not here.
        ModuleNotFoundError: its package is not installed.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "trt":
        _tensorrt()
    elif backend != "auto" or not _has_tensorrt():
        _onnxruntime()


def open_engine(
    bundle: Bundle, table: EmbeddingTable, backend: str = "auto", *, threads: int = 0, standard_graphs: bool = False
) -> Engine:
    """Loads a bundle's graphs. `auto` takes TensorRT where a device and engines for it are, else onnxruntime.

    `standard_graphs` leaves the bundle's CPU forms aside: what runs then is, node for node, what TensorRT builds from.

    Raises:
        BackendError: the engine is unknown, is not here, or refuses a graph.
        ModuleNotFoundError: its package is not installed.
    """
    check_backend(backend)
    most = 4 * (os.cpu_count() or 1)  # each thread takes memory before it does any work
    if not 0 <= threads <= most:
        raise BackendError(f"threads must be 0 (the engine's own choice) to {most} on this machine, got {threads}")
    if backend == "auto":
        return _open_best(bundle, table, threads, standard_graphs)
    if backend == "trt":
        return _open_tensorrt(bundle, table)
    return _open_onnxruntime(bundle, table, threads, backend, standard_graphs)


def _open_best(bundle: Bundle, table: EmbeddingTable, threads: int, standard_graphs: bool) -> Engine:
    """Engines that are there for this device must also load: falling back to the CPU would hide what is wrong with them."""
    note = ""
    if _has_package("tensorrt") and not _has_tensorrt():
        note = "not TensorRT: cuda-bindings is not installed: pip install 'leo_edge[trt]'"
    elif _has_tensorrt() and _has_device():
        try:
            _tensorrt().find(bundle)
        except BackendError as error:
            note = f"not TensorRT: {error}"
        else:
            return _open_tensorrt(bundle, table)
    if "CUDAExecutionProvider" in _onnxruntime().providers():
        with contextlib.suppress(BackendError):  # the package is the one for CUDA, the machine has none
            return _open_onnxruntime(bundle, table, threads, "ort-cuda", standard_graphs, note)
    return _open_onnxruntime(bundle, table, threads, "ort", standard_graphs, note)


def _has_device() -> bool:
    try:
        importlib.import_module("leo_edge.runtime.cuda").describe_device()
    except BackendError:  # as on a laptop
        return False
    return True


def _open_tensorrt(bundle: Bundle, table: EmbeddingTable) -> Engine:
    engine: Engine = _tensorrt().TrtEngine(bundle, table)
    return engine


def _open_onnxruntime(
    bundle: Bundle, table: EmbeddingTable, threads: int, backend: str, standard_graphs: bool, note: str = ""
) -> Engine:
    engine: Engine = _onnxruntime().OrtEngine(
        bundle, table, backend=backend, threads=threads, note=note, standard_graphs=standard_graphs
    )
    return engine


def _has_tensorrt() -> bool:
    return _has_package("tensorrt") and _has_package("cuda.bindings")


def _has_package(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what it is in is not there
        return False


def _tensorrt() -> ModuleType:
    importlib.import_module("leo_edge.runtime.trt_api").import_tensorrt()
    return importlib.import_module("leo_edge.runtime.trt")


def _onnxruntime() -> ModuleType:
    return importlib.import_module("leo_edge.runtime.ort")
