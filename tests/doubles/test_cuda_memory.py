"""Memory of the imaginary device: addresses, patterns, limits, and what is left over."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import Device


@pytest.fixture
def device(edge_machine: InstallMachine) -> Device:
    edge_machine(total_memory_bytes=1 << 20)
    return Device()


def test_fresh_memory_is_no_number(device: Device) -> None:
    address = device.allocate(1024)
    assert address % 512 == 0
    assert np.isnan(device.download(address, (256,))).all()
    assert np.isnan(device.pinned(4)[1]).all()


def test_no_address_comes_twice(device: Device) -> None:
    first = device.allocate(1024)
    device.ok(device.cuda.cudaFree(first))
    assert device.allocate(1024) != first


def test_a_host_that_follows_a_device_address_would_crash(device: Device) -> None:
    address = device.allocate(64)
    maps = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    assert not any(int(low, 16) <= address < int(high, 16) for low, high in maps)


def test_memory_ends_and_comes_back(device: Device) -> None:
    first = device.allocate(600_000)
    error, address = device.cuda.cudaMalloc(600_000)
    assert (error.name, address) == ("cudaErrorMemoryAllocation", None)
    device.ok(device.cuda.cudaFree(first))
    free, total = device.cuda.cudaMemGetInfo()[1:]
    assert free == total == 1 << 20
    device.allocate(600_000)


def test_nothing_is_allocated_for_no_bytes(device: Device) -> None:
    assert device.ok(device.cuda.cudaMalloc(0)) == 0


@pytest.mark.parametrize(
    ("kind", "swap"),
    [("cudaMemcpyDeviceToHost", False), ("cudaMemcpyDeviceToDevice", False), ("cudaMemcpyHostToDevice", True)],
)
def test_a_copy_of_the_wrong_direction_is_refused(device: Device, kind: str, swap: bool) -> None:
    address, array = device.allocate(64), np.zeros(16, np.float32)
    target, source = (array, address) if swap else (address, array)
    (error,) = device.cuda.cudaMemcpyAsync(target, source, 64, getattr(device.cuda.cudaMemcpyKind, kind), device.stream)
    assert error.name == "cudaErrorInvalidValue"


def test_a_copy_over_the_end_is_refused_and_one_to_the_end_is_not(device: Device) -> None:
    address, array = device.allocate(64), np.zeros(32, np.float32)
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert device.cuda.cudaMemcpyAsync(address, array, 68, kind, device.stream)[0].name == "cudaErrorInvalidValue"
    assert device.cuda.cudaMemcpyAsync(address + 32, array, 32, kind, device.stream)[0].name == "cudaSuccess"


def test_memory_that_was_freed_is_not_copied_to(device: Device) -> None:
    address = device.allocate(64)
    device.ok(device.cuda.cudaFree(address))
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    (error,) = device.cuda.cudaMemcpyAsync(address, np.zeros(16, np.float32), 64, kind, device.stream)
    assert error.name == "cudaErrorInvalidValue"
    assert device.cuda.cudaFree(address)[0].name == "cudaErrorInvalidValue"


def test_rows_are_copied_with_their_pitches(device: Device) -> None:
    source, target = device.allocate(256), device.allocate(256)
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    device.upload(source, values)
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    device.ok(device.cuda.cudaMemsetAsync(target, 0, 256, device.stream))
    device.ok(device.cuda.cudaMemcpy2DAsync(target, 16, source, 32, 12, 8, kind, device.stream))
    got = device.download(target, (8, 4))
    np.testing.assert_array_equal(got[:, :3], values[:, :3])
    assert not got[:, 3].any()


def test_a_pinned_address_is_the_hosts_own(device: Device) -> None:
    address, array = device.pinned(4)
    array[:] = [1, 2, 3, 4]
    assert ctypes.c_float.from_address(address + 8).value == 3
    device.ok(device.cuda.cudaFreeHost(address))
    assert device.cuda.cudaFreeHost(address)[0].name == "cudaErrorInvalidValue"


def test_what_was_not_given_back_is_counted(edge_machine: InstallMachine) -> None:
    machine = edge_machine()
    device = Device()
    address, pinned, event = device.allocate(), device.pinned(1)[0], device.new_event()
    assert machine.live() == {"device allocations": 1, "pinned allocations": 1, "streams": 1, "events": 1}
    for result in (
        device.cuda.cudaFree(address),
        device.cuda.cudaFreeHost(pinned),
        device.cuda.cudaEventDestroy(event),
        device.cuda.cudaStreamDestroy(device.stream),
    ):
        device.ok(result)
    assert machine.live() == {}


@pytest.mark.parametrize(("value", "error"), [("16", TypeError), (2.0, TypeError), (None, TypeError), (-1, OverflowError)])
def test_sizes_are_whole_numbers(device: Device, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        device.cuda.cudaMalloc(value)


def test_a_pointer_is_a_number_or_has_a_buffer(device: Device) -> None:
    kind = device.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    with pytest.raises(TypeError, match="expected Type None, int or object with Buffer Protocol"):
        device.cuda.cudaMemcpyAsync("there", 0, 4, kind, device.stream)
