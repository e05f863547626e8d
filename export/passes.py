"""Clean-up of traced graphs. A graph's weights are among its inputs here, after the real ones, so that nothing folds them."""

from __future__ import annotations

import onnx_ir as ir
import torch
from onnxscript import optimizer

from leo_edge.export.weights import Recipe, Recipes


def clean(model: ir.Model, recipes: Recipes) -> Recipes:
    """Optimises a graph in place without looking at any weight, and returns the recipes of the weights that it then has."""
    graph = model.graph
    num_inputs = len(graph.inputs)
    unknown = [name for name in graph.initializers if name not in recipes]
    assert not unknown, f"parameters without a recipe: {unknown}"
    for value in list(graph.initializers.values()):
        value.const_value = None
        graph.inputs.append(value)
    graph.initializers.clear()
    optimizer.optimize_ir(model)
    kept = dict(recipes)
    while _gemms_to_matmuls(graph) or _move_into_recipes(graph, kept, num_inputs):
        pass
    _read_bytes_in_casts_only(graph)
    weights = list(graph.inputs[num_inputs:])
    del graph.inputs[num_inputs:]
    for value in weights:
        if value.uses():
            graph.initializers[value.name or ""] = value
    _strip(graph)
    return {name: kept[name] for name in graph.initializers if name in kept}


def _read_bytes_in_casts_only(graph: ir.Graph) -> None:
    """Lets a Shape of a byte input read the input's Cast, which has the same shape: TensorRT takes bytes in Cast alone."""
    for value in [value for value in graph.inputs if value.dtype == ir.DataType.UINT8]:
        casts = [node for node in value.consumers() if node.op_type == "Cast"]
        for node in value.consumers():
            if node.op_type == "Shape":
                node.replace_input_with(0, casts[0].outputs[0])
    graph.sort()


def _gemms_to_matmuls(graph: ir.Graph) -> bool:
    """Writes x W^T + b as Transpose, MatMul and Add: INT8 wants every weighted product in this one form, W as [K, N]."""
    gemms = [node for node in graph if node.op_type == "Gemm"]
    for node in gemms:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        plain = {"transA": 0, "alpha": 1.0, "beta": 1.0}
        assert attributes.pop("transB") == 1, node.name
        assert plain | attributes == plain, f"{node.name}: {attributes}"
        x, weight, *bias = node.inputs
        assert x is not None
        assert weight is not None
        output = node.outputs[0]
        turned = ir.node("Transpose", [weight], {"perm": [1, 0]}, name=f"{node.name}.transpose")
        product = ir.node("MatMul", [x, turned.outputs[0]], name=node.name)
        last, added = product, [turned, product]
        if bias:
            last = ir.node("Add", [product.outputs[0], bias[0]], name=f"{node.name}.bias")
            added.append(last)
        turned.outputs[0].name, product.outputs[0].name = f"{node.name}.weight", f"{output.name}.product"
        for new in added:
            new.outputs[0].type = output.type
        last.outputs[0].shape, product.outputs[0].shape, name = output.shape, output.shape, output.name
        graph.insert_before(node, added)
        ir.convenience.replace_all_uses_with(output, last.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
        last.outputs[0].name = name
    return bool(gemms)


def _move_into_recipes(graph: ir.Graph, recipes: Recipes, num_inputs: int) -> bool:
    """Replaces every node that only rearranges one weight by a weight so rearranged. Returns whether there was one."""
    weights = {value.name: value for value in graph.inputs[num_inputs:]}
    moved = False
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or source.name is None or source.name not in weights:
            continue
        recipe = _rearranged(node, recipes[source.name])
        if recipe is None:
            continue
        name = f"{source.name}.{node.op_type.lower()}"
        while name in recipes:
            name += "_"
        recipes[name] = recipe
        weight = ir.Value(name=name, shape=ir.Shape(recipe.shape), type=source.type)
        graph.inputs.append(weight)
        ir.convenience.replace_all_uses_with(node.outputs[0], weight)
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


def _strip(graph: ir.Graph) -> None:
    """Removes the exporter's notes, which hold paths of this machine, and outputs and constants that nobody reads."""
    outputs = set(graph.outputs)
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        while len(node.outputs) > 1 and not node.outputs[-1].uses() and node.outputs[-1] not in outputs:
            node.resize_outputs(len(node.outputs) - 1)
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [value for value in graph.initializers.values() if not value.uses()]:
        del graph.initializers[value.name or ""]
    for value in [*graph.inputs, *graph.initializers.values()]:
        value.metadata_props.clear()
    graph.metadata_props.clear()
