"""Copies and fills of memory, queued on streams as CUDA does it for device, pinned and pageable memory.

Source: CUDA runtime API, "API synchronization behavior": a copy from pageable memory takes its bytes before the call returns,
one to pageable memory is done when it returns; one from or to pinned memory happens when the stream comes to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.doubles.device.memory import Bytes
from tests.doubles.device.order import Access
from tests.doubles.device.streams import CAPTURE_UNSUPPORTED, INVALID_VALUE, CudaError, Stream
from tests.doubles.machine import Machine

INVALID_DIRECTION = 21
_DEVICE = {0: (False, False), 1: (True, False), 2: (False, True), 3: (True, True)}
"""By cudaMemcpyKind, whether the destination and the source are the device's."""
_DEFAULT = 4


@dataclass(frozen=True)
class Rows:
    """`height` rows of `width` bytes, each `pitch` bytes behind the one before."""

    address: int
    pitch: int
    width: int
    height: int

    @property
    def span(self) -> int:
        """Bytes from the first to behind the last that is touched."""
        return 0 if self.height == 0 or self.width == 0 else (self.height - 1) * self.pitch + self.width


def copy(machine: Machine, target: Rows, source: Rows, kind: int, stream: Stream) -> None:
    """Queues a copy.

    Raises:
        CudaError: `kind` is not what the addresses are, or a range leaves its allocation.
    """
    if kind not in (*_DEVICE, _DEFAULT):
        raise CudaError(INVALID_DIRECTION)
    if target.width > target.pitch or source.width > source.pitch:
        raise CudaError(INVALID_VALUE)
    if target.span == 0:
        return
    for rows, place in ((target, 0), (source, 1)):
        on_device = machine.memory.is_device(rows.address)
        if kind != _DEFAULT and on_device != _DEVICE[kind][place]:
            raise CudaError(INVALID_VALUE)
        _check(machine, rows)
    pageable = [rows for rows in (target, source) if _is_pageable(machine, rows.address)]
    if pageable and stream.capture is not None:
        machine.scheduler.invalidate(stream.capture)
        raise CudaError(CAPTURE_UNSUPPORTED)
    staged = _read(machine, source) if source in pageable else None

    def run() -> None:
        _write(machine, target, _read(machine, source) if staged is None else staged)

    accesses = [
        Access(target.address, target.span, True, "a copy's target"),
        Access(source.address, source.span, False, "its source"),
    ]
    marker = machine.scheduler.submit(stream, run, [access for access in accesses if not _is_pageable(machine, access.address)])
    if target in pageable:
        machine.scheduler.reach(marker)


def fill(machine: Machine, address: int, value: int, size: int, stream: Stream) -> None:
    """Queues a fill of device memory.

    Raises:
        CudaError: the range is not the device's.
    """
    if size == 0:
        return
    if not machine.memory.holds(address, size):
        raise CudaError(INVALID_VALUE)

    def run() -> None:
        machine.memory.view(address, size).fill(value & 0xFF)

    machine.scheduler.submit(stream, run, [Access(address, size, True, "a fill")])


def _check(machine: Machine, rows: Rows) -> None:
    if rows.address == 0:
        raise CudaError(INVALID_VALUE)
    if machine.memory.is_device(rows.address) and not machine.memory.holds(rows.address, rows.span):
        raise CudaError(INVALID_VALUE)
    if machine.pinned.is_pinned(rows.address) and not machine.pinned.holds(rows.address, rows.span):
        raise CudaError(INVALID_VALUE)


def _is_pageable(machine: Machine, address: int) -> bool:
    return not machine.memory.is_device(address) and not machine.pinned.is_pinned(address)


def _view(machine: Machine, pageable: bool) -> Callable[[int, int], Bytes]:
    return _host if pageable else lambda address, size: _owned(machine, address, size)


def _owned(machine: Machine, address: int, size: int) -> Bytes:
    return (machine.memory if machine.memory.is_device(address) else machine.pinned).view(address, size)


def _host(address: int, size: int) -> Bytes:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _read(machine: Machine, rows: Rows) -> list[Bytes]:
    view = _view(machine, _is_pageable(machine, rows.address))
    return [view(rows.address + row * rows.pitch, rows.width).copy() for row in range(rows.height)]


def _write(machine: Machine, rows: Rows, content: list[Bytes]) -> None:
    view = _view(machine, _is_pageable(machine, rows.address))
    for row, values in enumerate(content):
        view(rows.address + row * rows.pitch, rows.width)[:] = values
