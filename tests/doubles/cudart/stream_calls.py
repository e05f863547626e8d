"""Calls about streams, events, stream capture and graphs."""

from __future__ import annotations

from typing import Any

from tests.doubles.cudart.calls import call, handle_of, size_of, stream_of
from tests.doubles.cudart.types import (
    cudaError_t,
    cudaEvent_t,
    cudaGraph_t,
    cudaGraphExec_t,
    cudaStream_t,
    cudaStreamCaptureMode,
    cudaStreamCaptureStatus,
)
from tests.doubles.device.streams import NONE, CudaError, Event, Graph
from tests.doubles.machine import machine

# Names of functions and arguments are the real ones.
# ruff: noqa: N802, N803, N816

cudaStreamDefault, cudaStreamNonBlocking = 0, 1
cudaStreamLegacy, cudaStreamPerThread = 1, 2
cudaEventDefault, cudaEventBlockingSync, cudaEventDisableTiming = 0, 1, 2
cudaEventWaitDefault = 0

_OUT_OF_MEMORY, _INVALID_VALUE = cudaError_t.cudaErrorMemoryAllocation, cudaError_t.cudaErrorInvalidValue
_INVALID_HANDLE = cudaError_t.cudaErrorInvalidResourceHandle


@call()
def cudaDeviceSynchronize() -> Any:
    """Waits for everything."""
    if machine().scheduler.captures:
        machine().scheduler.invalidate(machine().scheduler.captures[-1])
        raise CudaError(cudaError_t.cudaErrorStreamCaptureUnsupported)
    machine().scheduler.synchronize_all()


@call(values=1)
def cudaStreamCreate() -> Any:
    """Makes a stream that waits for the legacy default stream."""
    return _create_stream(0)


@call(values=1)
def cudaStreamCreateWithFlags(flags: int) -> Any:
    """Makes a stream."""
    return _create_stream(flags)


@call(values=1)
def cudaStreamCreateWithPriority(flags: int, priority: int) -> Any:
    """Makes a stream; the double has no priorities."""
    int(priority)
    return _create_stream(flags)


@call()
def cudaStreamDestroy(stream: Any) -> Any:
    """Takes a stream away; what is queued on it is still done."""
    machine().scheduler.destroy_stream(stream_of(stream))


@call()
def cudaStreamSynchronize(stream: Any) -> Any:
    """Waits for a stream's work."""
    machine().scheduler.synchronize(stream_of(stream))


@call()
def cudaStreamQuery(stream: Any) -> Any:
    """Asks whether a stream's work is done."""
    found = stream_of(stream)
    machine().scheduler.unsafe()
    if not machine().scheduler.poll(found, None):
        raise CudaError(cudaError_t.cudaErrorNotReady)


@call()
def cudaStreamWaitEvent(stream: Any, event: Any, flags: int) -> Any:
    """Makes a stream's later work wait for an event."""
    size_of(flags)
    machine().scheduler.wait(stream_of(stream), _event(event))


@call(values=1)
def cudaEventCreate() -> Any:
    """Makes an event that takes the time."""
    return _create_event(0)


@call(values=1)
def cudaEventCreateWithFlags(flags: int) -> Any:
    """Makes an event."""
    return _create_event(flags)


@call()
def cudaEventDestroy(event: Any) -> Any:
    """Takes an event away."""
    del machine().scheduler.events[_event(event).handle]


@call()
def cudaEventRecord(event: Any, stream: Any) -> Any:
    """Puts an event behind a stream's work."""
    _event(event).marker = machine().scheduler.mark(stream_of(stream))


@call()
def cudaEventSynchronize(event: Any) -> Any:
    """Waits for an event; one that was never recorded is done."""
    marker = _event(event).marker
    if marker is not None:
        machine().scheduler.reach(marker)


@call()
def cudaEventQuery(event: Any) -> Any:
    """Asks whether an event happened."""
    marker = _event(event).marker
    machine().scheduler.unsafe()
    if marker is not None and not machine().scheduler.poll(marker.stream, marker):
        raise CudaError(cudaError_t.cudaErrorNotReady)


@call(values=1)
def cudaEventElapsedTime(start: Any, end: Any) -> Any:
    """Returns milliseconds between two events."""
    events = _event(start), _event(end)
    if any(not event.timing or event.marker is None for event in events):
        raise CudaError(_INVALID_HANDLE)
    first, second = (event.marker for event in events if event.marker is not None)
    if not (first.done and second.done):
        raise CudaError(cudaError_t.cudaErrorNotReady)
    return ((second.time_ns - first.time_ns) / 1e6,)


@call()
def cudaStreamBeginCapture(stream: Any, mode: cudaStreamCaptureMode) -> Any:
    """Records a stream's work from now on, instead of doing it."""
    if mode is None:
        raise TypeError("Argument 'mode' must not be None")
    machine().scheduler.begin_capture(stream_of(stream), int(cudaStreamCaptureMode(mode)))


@call(values=1)
def cudaStreamEndCapture(stream: Any) -> Any:
    """Ends the recording."""
    return (cudaGraph_t(machine().scheduler.end_capture(stream_of(stream)).handle),)


@call(values=1)
def cudaStreamIsCapturing(stream: Any) -> Any:
    """Says whether a stream is being recorded."""
    capture = stream_of(stream).capture
    return (cudaStreamCaptureStatus(NONE if capture is None else capture.status),)


@call(values=1)
def cudaGraphInstantiate(graph: Any, flags: int) -> Any:
    """Makes a graph ready to launch."""
    size_of(flags)
    scheduler = machine().scheduler
    source = scheduler.graphs.get(handle_of(graph, cudaGraph_t))
    if source is None:
        raise CudaError(_INVALID_VALUE)
    if machine().fails("graph-instantiate"):
        raise CudaError(_OUT_OF_MEMORY)
    made = Graph(scheduler.new_handle(), source.works)
    scheduler.executables[made.handle] = made
    return (cudaGraphExec_t(made.handle),)


@call()
def cudaGraphLaunch(graphExec: Any, stream: Any) -> Any:
    """Queues a graph's work."""
    machine().scheduler.launch(_executable(graphExec), stream_of(stream))


@call()
def cudaGraphExecDestroy(graphExec: Any) -> Any:
    """Takes a graph that is ready to launch away."""
    del machine().scheduler.executables[_executable(graphExec).handle]


@call()
def cudaGraphDestroy(graph: Any) -> Any:
    """Takes a graph away; what was made of it stays."""
    if machine().scheduler.graphs.pop(handle_of(graph, cudaGraph_t), None) is None:
        raise CudaError(_INVALID_VALUE)


def _create_stream(flags: int) -> tuple[cudaStream_t]:
    if size_of(flags) not in (cudaStreamDefault, cudaStreamNonBlocking):
        raise CudaError(_INVALID_VALUE)
    if machine().fails("stream-create"):
        raise CudaError(_OUT_OF_MEMORY)
    return (cudaStream_t(machine().scheduler.create_stream(blocking=flags == cudaStreamDefault).handle),)


def _create_event(flags: int) -> tuple[cudaEvent_t]:
    if machine().fails("event-create"):
        raise CudaError(_OUT_OF_MEMORY)
    scheduler = machine().scheduler
    event = Event(scheduler.new_handle(), timing=not size_of(flags) & cudaEventDisableTiming)
    scheduler.events[event.handle] = event
    return (cudaEvent_t(event.handle),)


def _event(value: Any) -> Event:
    found = machine().scheduler.events.get(handle_of(value, cudaEvent_t))
    if found is None:
        raise CudaError(_INVALID_HANDLE)
    return found


def _executable(value: Any) -> Graph:
    found = machine().scheduler.executables.get(handle_of(value, cudaGraphExec_t))
    if found is None:
        raise CudaError(_INVALID_VALUE)
    return found
