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
from onnxscript import optimizer
from torch import Tensor
from torch.export import Dim

from leo_edge.export.modeling.fused_ops import translations
from leo_edge.export.stages import Port, Stage
from leo_edge.export.weights import Recipe, Recipes

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
        program = torch.export.export(
            stage.module, _examples(stage), dynamic_shapes=_dynamic_shapes(stage), strict=False
        )
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
    recipes = _optimize(model, stage.recipes)
    _name_ports(model.graph, stage)
    model.graph.name = stage.name
    model.producer_name, model.producer_version = "leo_edge", None
    assert model.opset_imports == {"": opset}, f"{stage.name}: operators outside the standard domain: {model.opset_imports}"
    return TracedGraph(model, recipes)


def _sizes(stage: Stage) -> dict[str, int]:
    """Returns a size for every symbolic dimension of the stage's inputs."""
    symbols = dict.fromkeys(dim for port in stage.inputs for dim in port.dims if isinstance(dim, str))
    return {symbol: _FIRST_SIZE + 2 * n for n, symbol in enumerate(symbols)}


def _examples(stage: Stage) -> tuple[Tensor, ...]:
    sizes = _sizes(stage)
    return tuple(
        torch.empty([sizes[dim] if isinstance(dim, str) else dim for dim in port.dims], dtype=port.dtype, device="meta")
        for port in stage.inputs
    )


def _dynamic_shapes(stage: Stage) -> tuple[object, ...]:
    """Returns the dimensions that torch.export must keep open. A starred parameter takes its ports as one tuple."""
    dims = {symbol: Dim(symbol, min=0 if symbol in _MAY_BE_EMPTY else 1) for symbol in _sizes(stage)}
    shapes = [{axis: dims[dim] for axis, dim in enumerate(port.dims) if isinstance(dim, str)} for port in stage.inputs]
    code = stage.module.forward.__code__
    num_named = code.co_argcount - 1
    return (*shapes[:num_named], tuple(shapes[num_named:])) if code.co_flags & 0x04 else tuple(shapes)


def _optimize(model: ir.Model, recipes: Recipes) -> Recipes:
    """Folds constants and removes what is dead, then splits weights from graph inputs again."""
    graph = model.graph
    num_inputs = len(graph.inputs)
    unknown = [name for name in graph.initializers if name not in recipes]
    assert not unknown, f"parameters without a recipe: {unknown}"
    weights = list(graph.initializers.values())
    for value in weights:
        value.const_value = None
        graph.inputs.append(value)
    graph.initializers.clear()
    optimizer.optimize_ir(model)
    kept = dict(recipes)
    while _move_into_recipes(graph, kept, num_inputs):
        pass
    weights = list(graph.inputs[num_inputs:])
    del graph.inputs[num_inputs:]
    for value in weights:
        if value.uses():
            graph.initializers[value.name or ""] = value
    return {value.name: kept[value.name] for value in graph.initializers.values() if value.name in kept}


def _move_into_recipes(graph: ir.Graph, recipes: Recipes, num_inputs: int) -> bool:
    """Replaces every node that only rearranges one weight by a weight so rearranged. Returns whether there was one."""
    weights = {value.name: value for value in graph.inputs[num_inputs:]}
    moved = False
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or source.name not in weights:
            continue
        recipe = _rearranged(node, recipes[source.name])
        if recipe is None:
            continue
        name = _unused(f"{source.name}.{node.op_type.lower()}", recipes, recipe)
        recipes[name] = recipe
        if name not in weights:
            weights[name] = ir.Value(name=name, shape=ir.Shape(recipe.shape), type=source.type)
            graph.inputs.append(weights[name])
        ir.convenience.replace_all_uses_with(node.outputs[0], weights[name])
        graph.remove(node, safe=True)
        moved = True
    return moved


def _rearranged(node: ir.Node, recipe: Recipe) -> Recipe | None:
    """Returns the recipe of a node's output if the node only rearranges its first input by constants."""
    constants = [value.const_value.numpy() for value in node.inputs[1:] if value is not None and value.const_value is not None]
    if len(constants) != len(node.inputs) - 1:
        return None
    if node.op_type == "Transpose":
        order = node.attributes["perm"].as_ints()
        return recipe.then(lambda tensor: tensor.permute(*order).contiguous(), tuple(recipe.shape[axis] for axis in order))
    if node.op_type == "GatherND" and constants[0].shape[-1] == 1:
        index = torch.from_numpy(constants[0][..., 0].copy())
        return recipe.then(lambda tensor: tensor[index], (*index.shape, *recipe.shape[1:]))
    if node.op_type == "Unsqueeze" and constants[0].tolist() == [0]:
        return recipe.then(lambda tensor: tensor[None], (1, *recipe.shape))
    return None


def _unused(name: str, recipes: Recipes, recipe: Recipe) -> str:
    """Returns the name for a rearranged weight. Twins are not looked for: the same node on the same weight is rare."""
    while name in recipes:
        name += "_"
    return name


def _rename_dims(graph: ir.Graph, stage: Stage) -> None:
    """Gives torch's symbols (s96) the names of the ports' dimensions, in all shapes of the graph."""
    names: dict[str, str] = {}
    for value, port in zip(graph.inputs, stage.inputs, strict=True):
        for got, wanted in zip(value.shape or (), port.dims, strict=True):
            if isinstance(wanted, str):
                names[str(got)] = wanted
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


def port_of(value: ir.Value) -> Port:
    """Describes a graph's input or output as a port."""
    types = {ir_type: torch_type for torch_type, ir_type in _IR_TYPES.items()}
    assert value.shape is not None and value.dtype is not None and value.name is not None
    dims = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape)
    return Port(value.name, dims, types[value.dtype])
