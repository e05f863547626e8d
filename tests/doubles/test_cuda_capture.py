"""Stream capture: what is recorded, what is forbidden meanwhile, what a launch does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.doubles.errors import Race
from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import Device

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2


@pytest.fixture
def device(edge_machine: InstallMachine) -> Device:
    edge_machine()
    return Device()


def begin(device: Device, mode: int = GLOBAL) -> None:
    device.ok(device.cuda.cudaStreamBeginCapture(device.stream, device.cuda.cudaStreamCaptureMode(mode)))


def end(device: Device) -> str:
    return str(device.cuda.cudaStreamEndCapture(device.stream)[0].name)


def test_what_is_captured_runs_when_the_graph_is_launched_and_each_time(device: Device) -> None:
    address, pinned = device.pinned(4)
    target = device.allocate()
    pinned[:] = 1
    begin(device)
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    device.ok(device.cuda.cudaMemcpyAsync(target, address, 16, kind, device.stream))
    assert device.ok(device.cuda.cudaStreamIsCapturing(device.stream)).name == "cudaStreamCaptureStatusActive"
    graph = device.ok(device.cuda.cudaStreamEndCapture(device.stream))
    launch = device.ok(device.cuda.cudaGraphInstantiate(graph, 0))
    device.ok(device.cuda.cudaGraphDestroy(graph))
    assert np.isnan(device.download(target, (4,))).all()
    for value in (1, 2):
        pinned[:] = value
        device.ok(device.cuda.cudaGraphLaunch(launch, device.stream))
        assert device.download(target, (4,))[0] == value
    device.ok(device.cuda.cudaGraphExecDestroy(launch))
    assert device.cuda.cudaGraphLaunch(launch, device.stream)[0].name == "cudaErrorInvalidValue"


FORBIDDEN: dict[str, Callable[[Device, int, object], Any]] = {
    "allocating": lambda device, address, event: device.cuda.cudaMalloc(16),  # noqa: ARG005 - all take the same
    "freeing": lambda device, address, event: device.cuda.cudaFree(address),  # noqa: ARG005
    "pinning": lambda device, address, event: device.cuda.cudaHostAlloc(16, 0),  # noqa: ARG005
    "a synchronous copy": lambda device, address, event: device.cuda.cudaMemcpy(  # noqa: ARG005
        address, np.zeros(4, np.float32), 16, device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    ),
    "waiting for the device": lambda device, address, event: device.cuda.cudaDeviceSynchronize(),  # noqa: ARG005
    "waiting for the stream": lambda device, address, event: device.cuda.cudaStreamSynchronize(device.stream),  # noqa: ARG005
    "asking an event": lambda device, address, event: device.cuda.cudaEventQuery(event),  # noqa: ARG005
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_global_capture_forbids(device: Device, what: str) -> None:
    address, event = device.allocate(), device.new_event()
    begin(device)
    assert FORBIDDEN[what](device, address, event)[0].name == "cudaErrorStreamCaptureUnsupported"
    assert end(device) == "cudaErrorStreamCaptureInvalidated"


def test_a_relaxed_capture_lets_memory_be_allocated(device: Device) -> None:
    begin(device, RELAXED)
    device.allocate()
    assert end(device) == "cudaSuccess"


def test_pageable_memory_is_not_captured(device: Device) -> None:
    target = device.allocate()
    begin(device)
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    (error,) = device.cuda.cudaMemcpyAsync(target, np.zeros(4, np.float32), 16, kind, device.stream)
    assert error.name == "cudaErrorStreamCaptureUnsupported"
    assert end(device) == "cudaErrorStreamCaptureInvalidated"


def test_the_legacy_stream_is_not_captured(device: Device) -> None:
    (error,) = device.cuda.cudaStreamBeginCapture(0, device.cuda.cudaStreamCaptureMode(GLOBAL))
    assert error.name == "cudaErrorStreamCaptureUnsupported"


def test_another_stream_joins_by_an_event_and_must_be_waited_for(device: Device) -> None:
    target, other, events = device.allocate(), device.new_stream(), [device.new_event() for _ in range(2)]

    def fork() -> None:
        begin(device)
        device.ok(device.cuda.cudaEventRecord(events[0], device.stream))
        device.ok(device.cuda.cudaStreamWaitEvent(other, events[0], 0))
        device.ok(device.cuda.cudaMemsetAsync(target, 0, 16, other))

    fork()
    assert end(device) == "cudaErrorStreamCaptureUnjoined"
    fork()
    device.ok(device.cuda.cudaEventRecord(events[1], other))
    device.ok(device.cuda.cudaStreamWaitEvent(device.stream, events[1], 0))
    assert end(device) == "cudaSuccess"


def test_a_capture_does_not_wait_for_what_is_outside(device: Device) -> None:
    other, event = device.new_stream(), device.new_event()
    device.ok(device.cuda.cudaEventRecord(event, other))
    begin(device)
    assert device.cuda.cudaStreamWaitEvent(device.stream, event, 0)[0].name == "cudaErrorStreamCaptureIsolation"


def test_an_event_of_a_capture_is_not_waited_for_by_the_host(device: Device) -> None:
    event = device.new_event()
    begin(device, RELAXED)
    device.ok(device.cuda.cudaEventRecord(event, device.stream))
    assert device.cuda.cudaEventSynchronize(event)[0].name == "cudaErrorCapturedEvent"


def test_a_launch_races_like_the_work_that_it_holds(device: Device) -> None:
    target, other = device.allocate(), device.new_stream()
    begin(device)
    device.ok(device.cuda.cudaMemsetAsync(target, 0, 16, device.stream))
    graph = device.ok(device.cuda.cudaStreamEndCapture(device.stream))
    launch = device.ok(device.cuda.cudaGraphInstantiate(graph, 0))
    device.ok(device.cuda.cudaGraphLaunch(launch, device.stream))
    with pytest.raises(Race):
        device.download(target, (4,), other)
