"""Streams and events: nothing runs before it is waited for, and no order comes of itself."""

import numpy as np
import pytest

from tests.doubles.errors import Race
from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import Device

ONES = np.ones(4, np.float32)


@pytest.fixture
def device(edge_machine: InstallMachine) -> Device:
    edge_machine()
    return Device()


def copy_down(device: Device, target: int, source: int, stream: object = None) -> None:
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    device.ok(device.cuda.cudaMemcpyAsync(target, source, 16, kind, stream or device.stream))


def test_a_result_is_there_after_its_stream_was_waited_for_and_not_before(device: Device) -> None:
    source, (address, array) = device.allocate(), device.pinned(4)
    device.upload(source, ONES)
    copy_down(device, address, source)
    assert np.isnan(array).all()
    device.wait()
    np.testing.assert_array_equal(array, ONES)


def test_pageable_memory_is_read_at_once_and_pinned_memory_when_the_copy_comes(device: Device) -> None:
    pageable, (address, pinned) = np.ones(4, np.float32), device.pinned(4)
    targets = device.allocate(), device.allocate()
    pinned[:] = 1
    device.upload(targets[0], pageable)
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    device.ok(device.cuda.cudaMemcpyAsync(targets[1], address, 16, kind, device.stream))
    pageable[:] = pinned[:] = 2
    assert device.download(targets[0], (4,))[0] == 1
    assert device.download(targets[1], (4,))[0] == 2


def test_streams_without_an_event_between_them_race(device: Device) -> None:
    source, other = device.allocate(), device.new_stream()
    device.upload(source, ONES)
    with pytest.raises(Race, match="is not ordered after a copy's target"):
        copy_down(device, device.pinned(4)[0], source, other)


def test_without_the_check_they_find_what_was_there(edge_machine: InstallMachine) -> None:
    edge_machine(races=False)
    device = Device()
    source, other, (address, array) = device.allocate(), device.new_stream(), device.pinned(4)
    device.upload(source, ONES)
    copy_down(device, address, source, other)
    device.wait(other)
    assert np.isnan(array).all()


def test_an_event_orders_streams(device: Device) -> None:
    source, other, event = device.allocate(), device.new_stream(), device.new_event()
    address, array = device.pinned(4)
    device.upload(source, ONES)
    device.ok(device.cuda.cudaEventRecord(event, device.stream))
    device.ok(device.cuda.cudaStreamWaitEvent(other, event, 0))
    copy_down(device, address, source, other)
    device.wait(other)
    np.testing.assert_array_equal(array, ONES)


def test_an_event_that_was_recorded_too_early_does_not(device: Device) -> None:
    source, other, event = device.allocate(), device.new_stream(), device.new_event()
    device.ok(device.cuda.cudaEventRecord(event, device.stream))
    device.upload(source, ONES)
    device.ok(device.cuda.cudaStreamWaitEvent(other, event, 0))
    with pytest.raises(Race):
        copy_down(device, device.pinned(4)[0], source, other)


def test_a_synchronisation_of_the_host_orders_what_comes_later(device: Device) -> None:
    source, other = device.allocate(), device.new_stream()
    device.upload(source, ONES)
    device.wait()
    assert device.download(source, (4,), other)[0] == 1


def test_a_buffer_that_is_still_read_is_not_written_from_another_stream(device: Device) -> None:
    source, other = device.allocate(), device.new_stream()
    device.upload(source, ONES)
    device.wait()
    copy_down(device, device.pinned(4)[0], source)
    with pytest.raises(Race):
        device.upload(source, ONES, other)


def test_asking_an_event_brings_it_nearer(device: Device) -> None:
    event, target = device.new_event(), device.allocate()
    device.upload(target, ONES)
    device.ok(device.cuda.cudaEventRecord(event, device.stream))
    answers = [device.cuda.cudaEventQuery(event)[0].name for _ in range(4)]
    assert answers[0] == "cudaErrorNotReady"
    assert answers[-1] == "cudaSuccess"


def test_time_passes_between_events_that_take_it(device: Device) -> None:
    timed = [device.ok(device.cuda.cudaEventCreateWithFlags(0)) for _ in range(2)]
    device.ok(device.cuda.cudaEventRecord(timed[0], device.stream))
    device.upload(device.allocate(), ONES)
    device.ok(device.cuda.cudaEventRecord(timed[1], device.stream))
    assert device.cuda.cudaEventElapsedTime(*timed)[0].name == "cudaErrorNotReady"
    device.wait()
    assert device.ok(device.cuda.cudaEventElapsedTime(*timed)) > 0
    untimed = device.new_event()
    device.ok(device.cuda.cudaEventRecord(untimed, device.stream))
    assert device.cuda.cudaEventElapsedTime(untimed, untimed)[0].name == "cudaErrorInvalidResourceHandle"


def test_work_of_a_destroyed_stream_is_done(device: Device) -> None:
    stream, source, (address, array) = device.new_stream(), device.allocate(), device.pinned(4)
    device.upload(source, ONES, stream)
    copy_down(device, address, source, stream)
    device.ok(device.cuda.cudaStreamDestroy(stream))
    assert device.cuda.cudaStreamSynchronize(stream)[0].name == "cudaErrorInvalidResourceHandle"
    device.ok(device.cuda.cudaDeviceSynchronize())
    np.testing.assert_array_equal(array, ONES)


def test_the_legacy_stream_waits_for_blocking_streams_alone(device: Device) -> None:
    blocking, source = device.ok(device.cuda.cudaStreamCreateWithFlags(0)), device.allocate()
    device.upload(source, ONES, blocking)
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    got = np.zeros(4, np.float32)
    device.ok(device.cuda.cudaMemcpy(got, source, 16, kind))
    np.testing.assert_array_equal(got, ONES)
    device.upload(source, ONES)
    with pytest.raises(Race):
        device.cuda.cudaMemcpy(got, source, 16, kind)


def test_after_an_illegal_address_every_call_fails(edge_machine: InstallMachine) -> None:
    edge_machine(faults=("illegal-address:2",))
    device = Device()
    target = device.allocate()
    device.upload(target, ONES)
    device.wait()
    device.upload(target, ONES)
    assert device.cuda.cudaStreamSynchronize(device.stream)[0].name == "cudaErrorIllegalAddress"
    assert device.cuda.cudaMalloc(16) == (device.cuda.cudaError_t.cudaErrorIllegalAddress, None)
    assert device.cuda.cudaGetErrorString(device.cuda.cudaError_t(700))[1] == b"an illegal memory access was encountered"
    assert device.cuda.cudaGetLastError()[0] == 700
