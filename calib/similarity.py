"""How alike two arrays are. It needs numpy alone: a device compares too."""

from __future__ import annotations

import numpy as np

from leo_edge.runtime.backend import Array


def cosine(a: Array, b: Array) -> float:
    """Returns the cosine of two arrays taken as vectors."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-30))
