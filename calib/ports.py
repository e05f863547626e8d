"""A graph's values as the manifest describes its ports."""

from __future__ import annotations

import onnx_ir as ir

from leo_edge.runtime.manifest import TensorSpec


def port_of(value: ir.Value) -> TensorSpec:
    """Describes a value as a port of its graph."""
    dims = () if value.shape is None else tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
    return TensorSpec(str(value.name), numpy_name(value), dims)


def numpy_name(value: ir.Value) -> str:
    """Returns numpy's name of a value's type."""
    assert value.dtype is not None
    return str(value.dtype.numpy().name)
