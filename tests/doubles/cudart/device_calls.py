"""Calls about the device, its errors, its memory and copies."""

from __future__ import annotations

from typing import Any

from tests.doubles.cudart.calls import address_of, call, size_of, stream_of
from tests.doubles.cudart.types import ERROR_TEXTS, cudaDeviceAttr, cudaDeviceProp, cudaError_t, cudaMemcpyKind
from tests.doubles.device.copies import Rows, copy, fill
from tests.doubles.device.streams import CudaError, Stream
from tests.doubles.machine import machine

# Names of functions and arguments are the real ones.
# ruff: noqa: N802, N803

_OUT_OF_MEMORY, _INVALID_DEVICE = cudaError_t.cudaErrorMemoryAllocation, cudaError_t.cudaErrorInvalidDevice
_INVALID_VALUE = cudaError_t.cudaErrorInvalidValue


def cuda_version() -> int:
    """Returns CUDA's release as 12060."""
    major, minor = machine().config.cuda_release
    return major * 1000 + minor * 10


@call(values=1)
def cudaGetDeviceCount() -> Any:
    """Counts devices."""
    return (machine().config.num_devices,)


@call(values=1)
def cudaGetDevice() -> Any:
    """Returns the current device; the double has one that can be current."""
    return (0,)


@call()
def cudaSetDevice(device: int) -> Any:
    """Makes a device the current one."""
    _check_device(device)


@call(values=1)
def cudaGetDeviceProperties(device: int) -> Any:
    """Says what a device is."""
    _check_device(device)
    config, found = machine().config, cudaDeviceProp()
    found.name = config.device_name.encode()
    found.major, found.minor = config.compute_capability
    found.totalGlobalMem = config.total_memory_bytes
    found.multiProcessorCount, found.integrated, found.canMapHostMemory, found.textureAlignment = 16, 1, 1, 512
    return (found,)


@call(values=1)
def cudaDeviceGetAttribute(attr: cudaDeviceAttr, device: int) -> Any:
    """Returns one number about a device."""
    _check_device(device)
    major, minor = machine().config.compute_capability
    known = {
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor: major,
        cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor: minor,
        cudaDeviceAttr.cudaDevAttrMultiProcessorCount: 16,
        cudaDeviceAttr.cudaDevAttrIntegrated: 1,
        cudaDeviceAttr.cudaDevAttrTextureAlignment: 512,
    }
    return (known[cudaDeviceAttr(attr)],)


@call(values=2)
def cudaMemGetInfo() -> Any:
    """Returns free and total bytes of the device."""
    return machine().memory.free_bytes, machine().memory.total


@call(values=1, needs_device=False)
def cudaRuntimeGetVersion() -> Any:
    """Returns CUDA's release as 12060."""
    return (cuda_version(),)


@call(values=1, needs_device=False)
def cudaDriverGetVersion() -> Any:
    """Returns the release that the driver is for, 0 without one."""
    return (0 if "driver-too-old" in machine().config.faults else cuda_version(),)


@call(values=1, needs_device=False)
def cudaGetErrorString(error: cudaError_t) -> Any:
    """Describes an error."""
    return (ERROR_TEXTS[cudaError_t(error)],)


@call(values=1, needs_device=False)
def cudaGetErrorName(error: cudaError_t) -> Any:
    """Names an error."""
    return (cudaError_t(error).name.encode(),)


def cudaGetLastError() -> tuple[cudaError_t]:
    """Returns the last call's error and forgets it, unless it holds for ever."""
    state = machine()
    found, state.last_error = state.last_error, state.scheduler.sticky
    return (cudaError_t(found),)


def cudaPeekAtLastError() -> tuple[cudaError_t]:
    """Returns the last call's error."""
    return (cudaError_t(machine().last_error),)


@call(values=1)
def cudaMalloc(size: int) -> Any:
    """Takes device memory; of 0 bytes it gives a null pointer."""
    number = size_of(size)
    machine().scheduler.unsafe()
    if number == 0:
        return (0,)
    address = None if machine().fails("malloc") else machine().memory.allocate(number)
    if address is None:
        raise CudaError(_OUT_OF_MEMORY)
    return (address,)


@call()
def cudaFree(devPtr: Any) -> Any:
    """Gives device memory back, after all work was done (CUDA runtime API: it synchronises)."""
    address = address_of(devPtr)
    machine().scheduler.unsafe()
    if address == 0:
        return
    machine().scheduler.synchronize_all()
    if not machine().memory.release(address):
        raise CudaError(_INVALID_VALUE)


@call(values=1)
def cudaHostAlloc(size: int, flags: int) -> Any:
    """Takes page-locked memory of the host."""
    size_of(flags)
    return _allocate_host(size)


@call(values=1)
def cudaMallocHost(size: int) -> Any:
    """Takes page-locked memory of the host."""
    return _allocate_host(size)


@call()
def cudaFreeHost(ptr: Any) -> Any:
    """Gives page-locked memory back, after all work was done."""
    address = address_of(ptr)
    machine().scheduler.unsafe()
    if address == 0:
        return
    machine().scheduler.synchronize_all()
    if not machine().pinned.release(address):
        raise CudaError(_INVALID_VALUE)


@call()
def cudaMemcpy(dst: Any, src: Any, count: int, kind: cudaMemcpyKind) -> Any:
    """Copies, and waits for it."""
    machine().scheduler.unsafe()
    stream = stream_of(None)
    _copy(dst, src, count, kind, stream)
    machine().scheduler.synchronize(stream)


@call()
def cudaMemcpyAsync(dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Any) -> Any:
    """Queues a copy."""
    _copy(dst, src, count, kind, stream_of(stream))


@call()
def cudaMemcpy2DAsync(
    dst: Any, dpitch: int, src: Any, spitch: int, width: int, height: int, kind: cudaMemcpyKind, stream: Any
) -> Any:
    """Queues a copy of rows."""
    target = Rows(address_of(dst), size_of(dpitch), size_of(width), size_of(height))
    source = Rows(address_of(src), size_of(spitch), size_of(width), size_of(height))
    copy(machine(), target, source, _kind(kind), stream_of(stream))


@call()
def cudaMemsetAsync(devPtr: Any, value: int, count: int, stream: Any) -> Any:
    """Queues a fill."""
    fill(machine(), address_of(devPtr), int(value), size_of(count), stream_of(stream))


def _check_device(device: int) -> None:
    if not 0 <= device < machine().config.num_devices:
        raise CudaError(_INVALID_DEVICE)


def _allocate_host(size: int) -> tuple[int]:
    number = size_of(size)
    machine().scheduler.unsafe()
    if machine().fails("host-alloc"):
        raise CudaError(_OUT_OF_MEMORY)
    return (machine().pinned.allocate(number) if number else 0,)


def _kind(kind: cudaMemcpyKind) -> int:
    if kind is None:
        raise TypeError("Argument 'kind' must not be None")
    return int(kind)


def _copy(dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Stream) -> None:
    size = size_of(count)
    copy(machine(), Rows(address_of(dst), size, size, 1), Rows(address_of(src), size, size, 1), _kind(kind), stream)
