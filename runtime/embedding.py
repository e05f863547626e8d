"""The token embedding table, mapped from its file: rows are looked up on the host, so the graph takes embeddings alone.

The file is in the safetensors format (8 bytes of header length, a JSON header, the data). It is read here and not by the
safetensors package because a lookup wants single rows of a mapped file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.backend import FloatArray
from leo_edge.runtime.errors import BundleError

TENSOR_NAME = "embedding"
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}


class EmbeddingTable:
    """Rows [V, D] of a mapped file."""

    def __init__(self, path: Path) -> None:
        """Maps the table.

        Raises:
            BundleError: the file is not a safetensors file with one two-dimensional float tensor of our name.
        """
        try:
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                entry = json.loads(file.read(header_bytes))[TENSOR_NAME]
            (rows, width), dtype = entry["shape"], DTYPES[entry["dtype"]]
            start, end = entry["data_offsets"]
            if start < 0 or end - start != rows * width * dtype.itemsize:
                raise ValueError(f"data_offsets {start}, {end} do not fit {rows} x {width} {dtype}")
            offset = 8 + header_bytes + start
            self._rows: FloatArray = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(int(rows), int(width)))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
            raise BundleError(f"{path} holds no embedding table ({error!r}): export the bundle again") from None

    @property
    def shape(self) -> tuple[int, int]:
        """Vocabulary size and width."""
        return self._rows.shape[0], self._rows.shape[1]

    def lookup(self, token_ids: npt.NDArray[np.int64]) -> FloatArray:
        """Returns the rows of token_ids [S] as [S, D], in the table's type."""
        return np.asarray(self._rows[token_ids])
