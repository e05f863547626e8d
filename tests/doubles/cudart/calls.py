"""How a call of the runtime is made: arguments as the real bindings take them, results as their tuples.

A failed call of a function that returns values gives None for each of them, as in cuda-bindings 12.9 and 13.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from tests.doubles.cudart.types import Handle, cudaError_t, cudaStream_t
from tests.doubles.device.streams import CudaError, Stream
from tests.doubles.machine import machine

F = TypeVar("F", bound=Callable[..., Any])

_MAX_SIZE = 2**64


def call(*, values: int = 0, needs_device: bool = True) -> Callable[[F], F]:
    """Makes a function a call of CUDA that returns so many values besides the error.

    The function returns its values as a tuple, or None. With `needs_device` it fails where there is none, and after an error
    that holds for ever.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> tuple[Any, ...]:
            state = machine()
            with state.lock:
                try:
                    if needs_device:
                        _require_device()
                        state.scheduler.check()
                    result = function(*arguments, **named)
                except CudaError as error:
                    state.last_error = error.code
                    return (cudaError_t(error.code), *[None] * values)
                return (cudaError_t.cudaSuccess, *(result or ()))

        return cast(F, wrapper)

    return decorate


def size_of(value: Any) -> int:
    """Takes a size as Cython's size_t does."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__int__"):
        raise TypeError("an integer is required")
    if isinstance(value, float):
        raise TypeError("'float' object cannot be interpreted as an integer")
    number = int(value)
    if number < 0:
        raise OverflowError("can't convert negative value to size_t")
    if number >= _MAX_SIZE:
        raise OverflowError("value too large to convert to size_t")
    return number


def handle_of(value: Any, kind: type[Handle]) -> int:
    """Takes a handle: one of its type, a number, or None for 0."""
    if value is None:
        return 0
    return int(value if isinstance(value, kind) else kind(value))


def address_of(value: Any) -> int:
    """Takes a pointer: None, a number, or an object with a buffer, whose address it is."""
    if value is None:
        return 0
    if isinstance(value, (int, np.integer)):
        return int(value)
    try:
        view = memoryview(value)
    except TypeError:
        raise TypeError(
            f"Provided argument is of type {type(value)} but expected Type None, int or object with Buffer Protocol"
        ) from None
    return int(np.frombuffer(view.cast("B") if view.contiguous else view, np.uint8).ctypes.data) if view.nbytes else 0


def stream_of(value: Any) -> Stream:
    """Takes a stream.

    Raises:
        CudaError: there is no such stream.
    """
    return machine().scheduler.stream(handle_of(value, cudaStream_t))


def _require_device() -> None:
    state = machine()
    if not state.has_device:
        driver = "driver-too-old" in state.config.faults
        raise CudaError(cudaError_t.cudaErrorInsufficientDriver if driver else cudaError_t.cudaErrorNoDevice)
