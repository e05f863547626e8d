"""Memory that the library hands out: plans and timing caches."""

from __future__ import annotations

from typing import Any, NoReturn

from tests.doubles.trt.enums import DataType


class IHostMemory(bytearray):
    """A buffer of the library. It has a buffer, `nbytes` and `dtype`, and nothing of bytes: no length, no items, no methods."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return memoryview(self).nbytes

    @property
    def dtype(self) -> Any:
        """What it says its elements are."""
        return DataType.INT8

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> NoReturn:
        raise TypeError("object of type 'tensorrt.tensorrt.IHostMemory' has no len()")

    def __iter__(self) -> NoReturn:
        raise TypeError("'tensorrt.tensorrt.IHostMemory' object is not iterable")

    def __getitem__(self, place: Any) -> NoReturn:
        raise TypeError("'tensorrt.tensorrt.IHostMemory' object is not subscriptable")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and hasattr(bytearray, name):
            raise AttributeError(f"'tensorrt.tensorrt.IHostMemory' object has no attribute '{name}'")
        return super().__getattribute__(name)
