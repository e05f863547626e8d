"""The CUDA runtime, as much of it as engines need: memory, streams, graphs. The only importer of cuda-bindings.

Facts: NVIDIA's CUDA runtime API (https://docs.nvidia.com/cuda/cuda-runtime-api/) as cuda-bindings 12.9 to 13.x wraps it: each
call returns a tuple of an error code and what it gives. Before 12.9.1 a call that waits holds the interpreter's lock, and all
other threads wait with it. Whatever is made here is given back when nobody holds it any more.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import runtime as cudart

from leo_edge.runtime.engines import Device
from leo_edge.runtime.errors import BackendError

# TensorRT: "The pointer must have at least 256-byte alignment" (NvInferRuntime.h, IExecutionContext::setTensorAddress).
ALIGNMENT = 256
# Freed blocks are kept for their size: an allocation, and more so a release, waits for the whole device.
_GRAIN_BYTES = 1 << 16
# Nearly every prompt has a length, and so sizes, of its own: kept for each of them, memory would grow with every new length.
_MOST_KEPT_BYTES = 256 << 20
# What to do about errors that are of the machine and not of a call.
_RESTART = "nothing more runs in this process, start it again"
_MENDS = {
    cudart.cudaError_t.cudaErrorMemoryAllocation: "end other programs",
    cudart.cudaError_t.cudaErrorIllegalAddress: _RESTART,
    cudart.cudaError_t.cudaErrorLaunchFailure: _RESTART,
}


def aligned(num_bytes: int) -> int:
    """Returns the next multiple of `ALIGNMENT`."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def check(result: tuple[Any, ...], doing: str) -> Any:
    """Returns what a call of the CUDA runtime gave: nothing, a value or a tuple.

    Raises:
        BackendError: it failed.
    """
    error, *values = result
    if error != cudart.cudaError_t.cudaSuccess:
        text = cudart.cudaGetErrorString(error)[1].decode()
        mend = f": {_MENDS[error]}" if error in _MENDS else ""
        raise BackendError(f"CUDA failed {doing}: {text} ({cudart.cudaGetErrorName(error)[1].decode()}){mend}")
    return values[0] if len(values) == 1 else tuple(values)


def describe_device() -> Device:
    """Looks for a CUDA device and describes the first.

    TensorRT must not be touched before: without a device its runtime object takes the process down.

    Raises:
        BackendError: there is none, or its driver does not do.
    """
    error, count = cudart.cudaGetDeviceCount()
    if error != cudart.cudaError_t.cudaSuccess or not count:
        reason = cudart.cudaGetErrorString(error)[1].decode() if error != cudart.cudaError_t.cudaSuccess else "none is listed"
        raise BackendError(f"no CUDA device here ({reason}): run this on the vehicle computer, or take --backend ort")
    check(cudart.cudaSetDevice(0), "choosing device 0")
    error, found = cudart.cudaGetDeviceProperties(0)
    check((error,), "describing device 0")
    assert found is not None
    name, compute = found.name.rstrip(b"\0").decode(), f"{found.major}.{found.minor}"
    return Device(name, compute, int(found.multiProcessorCount), int(found.totalGlobalMem))


class Block:
    """Device memory that goes back to its pool when nobody holds it any more. `pointer` is aligned for TensorRT."""

    def __init__(self, pool: MemoryPool, pointer: int, size_bytes: int) -> None:
        self.pointer, self.size_bytes = pointer, size_bytes
        weakref.finalize(self, pool.take_back, pointer, size_bytes)


class MemoryPool:
    """Device memory by size. What runs on it must have ended before a block is dropped: runs end before they return."""

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = {}
        self._lock = threading.RLock()  # a block may be dropped, by the garbage collector, in the middle of an allocation
        weakref.finalize(self, _free_all, self._free)

    def allocate(self, num_bytes: int) -> Block:
        """Gives a block of at least this size, 1 byte at least: one that is kept, if it is at most a quarter larger.

        Raises:
            BackendError: the device has no memory left.
        """
        size = max(1, -(-num_bytes // _GRAIN_BYTES)) * _GRAIN_BYTES
        with self._lock:
            fits = [kept for kept in list(self._free) if size <= kept <= size + size // 4 and self._free[kept]]
            if fits:
                return Block(self, self._free[min(fits)].pop(), min(fits))
            if sum(kept * len(pointers) for kept, pointers in list(self._free.items())) > _MOST_KEPT_BYTES:
                self.release_unused()
        error, pointer = cudart.cudaMalloc(size)
        if error == cudart.cudaError_t.cudaErrorMemoryAllocation:
            self.release_unused()
            error, pointer = cudart.cudaMalloc(size)
        if error == cudart.cudaError_t.cudaErrorMemoryAllocation:
            free, total = check(cudart.cudaMemGetInfo(), "looking at memory")
            raise BackendError(
                f"no memory on the device: {size / 1e6:,.1f} MB wanted, {free / 1e6:,.1f} of {total / 1e6:,.1f} MB free: "
                "end other programs, or build for less with `leo-edge build` and a smaller --context or --profile-tiles"
            )
        return Block(self, int(check((error, pointer), f"allocating {size} bytes")), size)

    def take_back(self, pointer: int, size_bytes: int) -> None:
        """Keeps a block for the next of its size."""
        with self._lock:
            self._free.setdefault(size_bytes, []).append(pointer)

    def release_unused(self) -> None:
        """Gives back to the device what nobody holds."""
        with self._lock:
            _free_all(self._free)


class PinnedBuffer:
    """Host memory that the device reads and writes by itself. It grows when more is asked for."""

    def __init__(self) -> None:
        self.pointer, self._size_bytes = 0, 0
        self._release: Callable[[], object] = lambda: None

    def reserve(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Returns a view [num_bytes] of the buffer. No copy may be under way when it has to grow."""
        if num_bytes > self._size_bytes:
            self._release()
            self._size_bytes = 0  # what was there is gone, also where no larger one can be had
            self.pointer = int(check(cudart.cudaHostAlloc(num_bytes, cudart.cudaHostAllocDefault), "pinning host memory"))
            self._size_bytes = num_bytes
            self._release = weakref.finalize(self, cudart.cudaFreeHost, self.pointer)
        if not num_bytes:
            return np.empty(0, np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(self.pointer))


class Stream:
    """Work in order. `wait` sleeps: a spinning wait would take a core from the cameras."""

    def __init__(self) -> None:
        self.handle = check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking), "making a stream")
        flags = cudart.cudaEventBlockingSync | cudart.cudaEventDisableTiming
        self._done = check(cudart.cudaEventCreateWithFlags(flags), "making an event")
        weakref.finalize(self, cudart.cudaStreamDestroy, self.handle)
        weakref.finalize(self, cudart.cudaEventDestroy, self._done)

    def wait(self) -> None:
        """Waits until all that was queued has ended.

        Raises:
            BackendError: some of it failed.
        """
        check(cudart.cudaEventRecord(self._done, self.handle), "recording an event")
        check(cudart.cudaEventSynchronize(self._done), "running")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Waits for what is queued inside, however it is left: what the work reads and writes may be dropped afterwards.

        Raises:
            BackendError: some of it failed.
        """
        try:
            yield
        finally:
            self.wait()

    def upload(self, pointer: int, source: int, num_bytes: int) -> None:
        """Queues a copy to the device from pinned memory."""
        self._copy(pointer, source, num_bytes, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, pointer: int, source: int, num_bytes: int) -> None:
        """Queues a copy to pinned memory from the device."""
        self._copy(pointer, source, num_bytes, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def copy(self, pointer: int, source: int, num_bytes: int) -> None:
        """Queues a copy on the device."""
        self._copy(pointer, source, num_bytes, cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def copy_rows(self, pointer: int, pitch: int, source: int, source_pitch: int, *, width: int, rows: int) -> None:
        """Queues a copy on the device of `rows` rows of `width` bytes that lie `pitch` bytes apart."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        result = cudart.cudaMemcpy2DAsync(pointer, pitch, source, source_pitch, width, rows, kind, self.handle)
        check(result, "copying rows")

    def clear(self, pointer: int, num_bytes: int) -> None:
        """Queues zeros."""
        check(cudart.cudaMemsetAsync(pointer, 0, num_bytes, self.handle), "clearing memory")

    def capture(self, queue: Callable[[], None]) -> CapturedGraph:
        """Records what `queue` puts into this stream, without running it.

        Raises:
            BackendError: something in it cannot be captured.
        """
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self.handle, mode), "beginning a capture")
        try:
            queue()
        except BaseException:  # an interrupt too: a stream that is left capturing runs nothing any more
            _, graph = cudart.cudaStreamEndCapture(self.handle)
            if graph is not None:
                cudart.cudaGraphDestroy(graph)
            raise
        return CapturedGraph(check(cudart.cudaStreamEndCapture(self.handle), "ending a capture"))

    def _copy(self, pointer: int, source: int, num_bytes: int, kind: Any) -> None:
        if num_bytes:
            check(cudart.cudaMemcpyAsync(pointer, source, num_bytes, kind, self.handle), "copying")


class CapturedGraph:
    """Work that was recorded once and is launched as one."""

    def __init__(self, graph: Any) -> None:
        weakref.finalize(self, cudart.cudaGraphDestroy, graph)
        self._exec = check(cudart.cudaGraphInstantiate(graph, 0), "instantiating a graph")
        weakref.finalize(self, cudart.cudaGraphExecDestroy, self._exec)

    def launch(self, stream: Stream) -> None:
        """Queues it."""
        check(cudart.cudaGraphLaunch(self._exec, stream.handle), "launching a graph")


def _free_all(free: dict[int, list[int]]) -> None:
    """Frees the pointers in a pool's lists, and empties them."""
    while free:
        for pointer in free.popitem()[1]:
            cudart.cudaFree(pointer)
