"""Arrays that stay on the device between graphs: what numpy's are to the host, as far as the pipeline needs it.

Every operation has ended when it returns, so an array can be read from any stream.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.cuda import Block, MemoryPool, PinnedBuffer, Stream


class Copies:
    """Copies to, from and on the device, on a stream of their own, and the memory that arrays are made in."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool = pool
        self._stream, self._staging, self._lock = Stream(), PinnedBuffer(), threading.Lock()

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> DeviceArray:
        """Returns an array whose content is whatever lay there."""
        return DeviceArray(self, self.pool.allocate(math.prod(shape) * dtype.itemsize), 0, tuple(shape), dtype)

    def upload(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Returns a copy on the device."""
        made = self.empty(array.shape, array.dtype)
        with self._lock:
            self._staging.reserve(array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            with self._stream.ending():
                self._stream.upload(made.pointer, self._staging.pointer, array.nbytes)
        return made

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Returns a copy on the host."""
        with self._lock:
            view = self._staging.reserve(array.nbytes)
            with self._stream.ending():
                self._stream.download(self._staging.pointer, array.pointer, array.nbytes)
            return view.copy().view(array.dtype).reshape(array.shape)

    def move(self, moves: Sequence[tuple[int, int, int]]) -> None:
        """Copies on the device: (target address, source address, bytes) each."""
        with self._lock, self._stream.ending():
            for pointer, source, num_bytes in moves:
                self._stream.copy(pointer, source, num_bytes)

    def concatenate(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
        """Returns the arrays one behind the other, along their first axis."""
        if len(arrays) == 1:
            return arrays[0]
        shapes, dtypes = {array.shape[1:] for array in arrays}, {array.dtype for array in arrays}
        assert len(shapes) == len(dtypes) == 1, f"cannot concatenate rows of {sorted(shapes)}, {sorted(map(str, dtypes))}"
        made = self.empty((sum(len(array) for array in arrays), *shapes.pop()), dtypes.pop())
        moves, at = [], made.pointer
        for array in arrays:
            moves.append((at, array.pointer, array.nbytes))
            at += array.nbytes
        self.move(moves)
        return made


class DeviceArray:
    """A C-contiguous array in device memory. Slices along the first axis and reshaped arrays share its memory."""

    def __init__(self, copies: Copies, block: Block, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._copies, self._block, self._offset = copies, block, offset
        self.shape, self.dtype = shape, dtype

    @property
    def pointer(self) -> int:
        """Where it begins on the device."""
        return self._block.pointer + self._offset

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, *shape: int) -> DeviceArray:
        """Returns the same memory in another shape; one size may be -1 where the others are above 0."""
        if -1 in shape:
            rest = -math.prod(shape)
            assert rest > 0, f"cannot tell what -1 is in {shape}"
            shape = tuple(math.prod(self.shape) // rest if size == -1 else size for size in shape)
        assert math.prod(shape) == math.prod(self.shape), f"cannot make {shape} of {self.shape}"
        return DeviceArray(self._copies, self._block, self._offset, shape, self.dtype)

    def __getitem__(self, rows: slice | npt.NDArray[np.intp]) -> DeviceArray:
        """Returns consecutive rows, which share memory, or a copy of chosen ones."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            assert step == 1, "rows of an array on the device are taken one after the other"
            shape = (max(0, stop - start), *self.shape[1:])
            return DeviceArray(self._copies, self._block, self._offset + start * self._row_bytes, shape, self.dtype)
        if np.array_equal(rows, np.arange(len(self))):
            return self
        assert ((rows >= 0) & (rows < len(self))).all(), f"rows are 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}"
        made = self._copies.empty((len(rows), *self.shape[1:]), self.dtype)
        size = self._row_bytes
        moves = [(made.pointer + i * size, self.pointer + int(row) * size, size) for i, row in enumerate(rows)]
        self._copies.move(moves)
        return made

    def __setitem__(self, rows: slice, value: DeviceArray) -> None:
        """Copies rows from another array on the device."""
        target = self[rows]
        assert (target.shape, target.dtype) == (value.shape, value.dtype), f"{value.shape} does not fit {target.shape}"
        self._copies.move([(target.pointer, value.pointer, value.nbytes)])

    def numpy(self) -> npt.NDArray[Any]:
        """Returns a copy on the host."""
        return self._copies.download(self)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Lets numpy take it: a copy on the host."""
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)
