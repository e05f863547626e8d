"""Stages to ONNX graphs, with no weights in memory.

The module is on the meta device, so tracing sees shapes only. torch's exporter is told not to optimise, since its optimizer
wants to read weights; the graph is optimised here with the weights as plain inputs, which nothing can fold. What then still
only rearranges a weight (the Transpose of a Linear, a Gather by a constant index) is moved out of the graph, into the recipe
that makes the weight: the graph holds each weight as it is used, and INT8 scales will find their axis.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.export import Dim

from leo_edge.export.modeling.fused_ops import translations
from leo_edge.export.passes import clean
from leo_edge.export.stages import Stage
from leo_edge.export.weights import Recipes

# Sizes of the symbolic dimensions while tracing: all different and none 0 or 1, so that no two are taken for one another.
_FIRST_SIZE = 5
# A cache may be empty; everything else has at least one element.
_MAY_BE_EMPTY = frozenset({"P"})


@dataclass(frozen=True)
class TracedGraph:
    """A graph without weights, and how each of its initializers is made."""

    model: ir.Model
    recipes: Recipes


def trace(stage: Stage, opset: int) -> TracedGraph:
    """Traces a stage to standard ONNX of the given opset, its inputs and outputs named by its ports."""
    with _quiet():
        program = torch.export.export(stage.module, _examples(stage), dynamic_shapes=_dynamic_shapes(stage), strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            custom_translation_table=translations(),
            input_names=[port.name for port in stage.inputs],
            output_names=[port.name for port in stage.outputs],
        )
    assert exported is not None
    model = exported.model
    _rename_dims(model.graph, stage)
    recipes = clean(model, stage.recipes)
    _name_ports(model.graph, stage)
    model.graph.name = stage.name
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "leo_edge", None
    assert model.opset_imports == {"": opset}, f"{stage.name}: operators outside the standard domain: {model.opset_imports}"
    return TracedGraph(model, recipes)


def _sizes(stage: Stage) -> dict[str, int]:
    """Returns a size for every symbolic dimension of the stage's inputs."""
    symbols = dict.fromkeys(dim for port in stage.inputs for dim in port.dims if isinstance(dim, str))
    return {symbol: (_FIRST_SIZE + 2 * n) * stage.multiples.get(symbol, 1) for n, symbol in enumerate(symbols)}


def _examples(stage: Stage) -> tuple[Tensor, ...]:
    sizes = _sizes(stage)
    return tuple(
        torch.empty([sizes[dim] if isinstance(dim, str) else dim for dim in port.dims], dtype=port.dtype, device="meta")
        for port in stage.inputs
    )


def _dynamic_shapes(stage: Stage) -> tuple[object, ...]:
    """Returns the dimensions that torch.export must keep open. A starred parameter takes its ports as one tuple."""
    dims = {symbol: _dim(symbol, stage.multiples.get(symbol)) for symbol in _sizes(stage)}
    shapes = [{axis: dims[dim] for axis, dim in enumerate(port.dims) if isinstance(dim, str)} for port in stage.inputs]
    code = stage.module.forward.__code__
    num_named = code.co_argcount - 1
    return (*shapes[:num_named], tuple(shapes[num_named:])) if code.co_flags & 0x04 else tuple(shapes)


def _dim(symbol: str, multiple: int | None) -> object:
    return multiple * Dim(f"{symbol}_parts", min=1) if multiple else Dim(symbol, min=0 if symbol in _MAY_BE_EMPTY else 1)


def _rename_dims(graph: ir.Graph, stage: Stage) -> None:
    """Gives torch's symbols (s96) the names of the ports' dimensions, in all shapes of the graph."""
    names: dict[str, str] = {}
    for value, port in zip(graph.inputs, stage.inputs, strict=True):
        for got, wanted in zip(value.shape or (), port.dims, strict=True):
            if isinstance(wanted, str):
                names[str(got)] = wanted
                if wanted in stage.multiples:  # 448*s96
                    names[str(got).rpartition("*")[2]] = f"{wanted}_parts"
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b") if names else None
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        if value.shape is not None and pattern is not None:
            dims = [dim if isinstance(dim, int) else pattern.sub(lambda m: names[m[0]], str(dim)) for dim in value.shape]
            value.shape = ir.Shape(dims)


def _name_ports(graph: ir.Graph, stage: Stage) -> None:
    """States the declared names, types and shapes on the graph's outputs, whatever tracing made of them."""
    for values, ports in ((graph.inputs, stage.inputs), (graph.outputs, stage.outputs)):
        for value, port in zip(values, ports, strict=True):
            assert value.name == port.name, f"{stage.name}: port {port.name} came out as {value.name}"
            assert value.dtype == _IR_TYPES[port.dtype], f"{stage.name}: {port.name} is {value.dtype}, not {port.dtype}"
            value.shape = ir.Shape(port.dims)


_IR_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.uint8: ir.DataType.UINT8,
    torch.int64: ir.DataType.INT64,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notices (no torchvision, deprecations inside torch) from the user, who can do nothing about them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
