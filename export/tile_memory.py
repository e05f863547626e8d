"""How many tiles a vision expert takes at once before one of its activations gets out of hand.

SAM looks at 64 x 64 patches at once: in its global layers the attention scores of a single tile have 16 x 4096 x 4096 numbers,
half a gigabyte in float16. A batch of them gains nothing, since one tile keeps the device busy, and takes the memory that the
language model needs.
"""

from __future__ import annotations

import onnx_ir as ir

# What the largest activation may take.
_LARGEST_BYTES = 1 << 29


def tiles_at_once(model: ir.Model) -> int:
    """Returns for how many tiles the largest value that a graph computes stays within half a gigabyte; at least 1."""
    largest = max((_bytes_of_one(value) for node in model.graph for value in node.outputs), default=0)
    return max(1, _LARGEST_BYTES // max(1, largest))


def _bytes_of_one(value: ir.Value) -> int:
    """Returns a value's bytes for one tile: symbolic sizes count as what they are for T = 1, products such as 16*T as 16."""
    if value.shape is None or value.dtype is None:
        return 0
    count = 1
    for dim in value.shape:
        count *= dim if isinstance(dim, int) else _factor(str(dim.value))
    return int(count * value.dtype.itemsize)


def _factor(symbol: str) -> int:
    """Returns the number in a product of a number and a symbol, 1 if there is none."""
    numbers = [int(part) for part in symbol.replace(" ", "").split("*") if part.isdigit()]
    return numbers[0] if numbers else 1
