"""Memory of the imaginary device, and pinned memory of the host.

Device addresses are made up: host code that follows one crashes. No address is used twice, and fresh memory is all ones, which
is NaN in float16 and float32 and -1 in integers, so that nothing works by luck on zeros or on what was there before.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

FIRST_ADDRESS = 0x7_0000_0000
GRANULE = 512
"""cudaMalloc's alignment in bytes (CUDA programming guide: at least 256; it is 512 on today's devices)."""
PATTERN = 0xFF


class IllegalAddressError(Exception):
    """A range that is not within one live allocation."""


@dataclass(frozen=True)
class Block:
    """One allocation. `owner`: "user" for cudaMalloc's, else what of TensorRT holds it."""

    address: int
    size: int
    data: Bytes
    owner: str

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.address + self.size


class DeviceMemory:
    """The device's memory of `total` bytes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._next = FIRST_ADDRESS
        self._blocks: dict[int, Block] = {}
        self._starts: list[int] = []

    @property
    def free_bytes(self) -> int:
        """What is not allocated."""
        return self.total - sum(_rounded(block.size) for block in self._blocks.values())

    def count(self, owner: str) -> int:
        """Returns how many allocations of `owner` live."""
        return sum(block.owner == owner for block in self._blocks.values())

    def bytes_of(self, owner: str) -> int:
        """Returns how many bytes `owner` has."""
        return sum(block.size for block in self._blocks.values() if block.owner == owner)

    def allocate(self, size: int, owner: str = "user") -> int | None:
        """Returns the address of fresh memory, None where too little is free."""
        if _rounded(size) > self.free_bytes:
            return None
        address = self._next
        # A gap behind each allocation: running over its end meets nothing.
        self._next += _rounded(size) + GRANULE
        self._blocks[address] = Block(address, size, np.full(size, PATTERN, np.uint8), owner)
        self._starts.append(address)
        return address

    def release(self, address: int) -> bool:
        """Frees an allocation by its first address; False where there is none."""
        if address not in self._blocks:
            return False
        del self._blocks[address]
        self._starts.remove(address)
        return True

    def is_device(self, address: int) -> bool:
        """Whether an address was ever the device's."""
        return FIRST_ADDRESS <= address < self._next

    def block(self, address: int) -> Block | None:
        """Returns the live allocation that an address lies in; the address behind its end counts as in it."""
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        block = self._blocks[self._starts[place]]
        return block if address <= block.end else None

    def holds(self, address: int, size: int) -> bool:
        """Whether a range lies within one live allocation."""
        block = self.block(address)
        return block is not None and address + size <= block.end

    def view(self, address: int, size: int) -> Bytes:
        """Returns a range's bytes, to read and write.

        Raises:
            IllegalAddressError: it is not within one live allocation.
        """
        block = self.block(address)
        if block is None or address + size > block.end:
            raise IllegalAddressError(f"{size} bytes at {address:#x}")
        start = address - block.address
        return block.data[start : start + size]


class PinnedMemory:
    """Page-locked memory of the host, at real addresses that start a page. What is freed is kept, all ones, to be found out."""

    _PAGE = 4096

    def __init__(self) -> None:
        self._blocks: dict[int, Bytes] = {}
        self._freed: list[Any] = []

    def count(self) -> int:
        """Returns how many allocations live."""
        return len(self._blocks)

    def allocate(self, size: int) -> int:
        """Returns the address of fresh memory."""
        raw = np.full(size + self._PAGE, PATTERN, np.uint8)
        offset = -raw.ctypes.data % self._PAGE
        block = raw[offset : offset + size]
        address = raw.ctypes.data + offset
        self._blocks[address] = block
        return address

    def release(self, address: int) -> bool:
        """Frees an allocation by its first address; False where there is none."""
        block = self._blocks.pop(address, None)
        if block is None:
            return False
        block.fill(PATTERN)
        self._freed.append(block)
        return True

    def is_pinned(self, address: int) -> bool:
        """Whether an address lies in page-locked memory."""
        return self._find(address, 0) is not None

    def holds(self, address: int, size: int) -> bool:
        """Whether a range lies within one live allocation."""
        return self._find(address, size) is not None

    def view(self, address: int, size: int) -> Bytes:
        """Returns a range's bytes, to read and write.

        Raises:
            IllegalAddressError: it is not within one live allocation.
        """
        found = self._find(address, size)
        if found is None:
            raise IllegalAddressError(f"{size} bytes at {address:#x} of the host")
        start, block = found
        return block[address - start : address - start + size]

    def _find(self, address: int, size: int) -> tuple[int, Bytes] | None:
        for start, block in self._blocks.items():
            if start <= address < start + len(block) and address + size <= start + len(block):
                return start, block
        return None


def _rounded(size: int) -> int:
    return -(-size // GRANULE) * GRANULE
