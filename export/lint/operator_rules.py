"""Rules on operators, their types and their attributes.

Sources: the operator matrix of TensorRT's ONNX parser for each release (onnx/onnx-tensorrt, docs/operators.md), and its issues.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from leo_edge.export.lint.graph import (
    Found,
    Graph,
    Rule,
    Target,
    attribute,
    constant_of,
    input_of,
    is_constant,
    name_of,
    shape_of,
    type_name,
)

# Which input decides the type, where it is not the first; None: the output.
_TYPED_BY = {"Where": 1, "OneHot": 2, "ConstantOfShape": None, "Constant": None, "RandomNormal": None, "EyeLike": None}
_ANY_TYPE = frozenset({"Shape", "Size"})
_AXES_INPUT = {"Pad": 3, "Squeeze": 1, "Unsqueeze": 1, "CumSum": 1}
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
_AXES_INPUT |= {f"Reduce{name}": 1 for name in _REDUCTIONS.split()}
_MOST_TOPK = 3839
_RESIZE = {
    "mode": ("nearest", "linear"),
    "coordinate_transformation_mode": (
        "half_pixel",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
    ),
    "keep_aspect_ratio_policy": ("stretch",),
    "antialias": (0,),
}
_ATTENTION_INPUTS = {4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"}
_ATTENTION_OUTPUTS = {1: "present_key", 2: "present_value", 3: "qk_matmul_output"}


def opset(graph: Graph, target: Target) -> Found:
    """The parser reads opsets up to its own."""
    if graph.opset > target.max_opset:
        yield (
            "graph",
            f"opset {graph.opset}, TensorRT {target.tensorrt} reads up to {target.max_opset}: export with a lower one",
        )


def domain(graph: Graph, _: Target) -> Found:
    """Standard operators only: others need a plugin."""
    for node in graph.nodes():
        if node.domain not in ("", "ai.onnx"):
            yield name_of(node), f"{node.domain}::{node.op_type} needs a plugin: write it in standard operators"


def operator(graph: Graph, target: Target) -> Found:
    """The operator is in the parser's matrix."""
    for node in graph.nodes():
        if node.domain in ("", "ai.onnx") and target.types_of(node.op_type) is None:
            yield name_of(node), f"{node.op_type} is not supported by TensorRT {target.tensorrt}: write it in others"


def operand_type(graph: Graph, target: Target) -> Found:
    """The operator is taken with this type."""
    for node in graph.nodes():
        types = target.types_of(node.op_type)
        if types is None or node.op_type in _ANY_TYPE:
            continue
        place = _TYPED_BY.get(node.op_type, 0)
        value = node.outputs[0] if place is None else input_of(node, place)
        if value is not None and (name := type_name(value)) not in types:
            yield name_of(node), f"{node.op_type} of {name} is not supported, only of {' '.join(sorted(types))}: cast before it"


def bytes_at_ports(graph: Graph, _: Target) -> Found:
    """UINT8 is for inputs and outputs alone, cast at once."""
    for node in graph.nodes():
        for value in node.inputs:
            if value is not None and value.dtype == ir.DataType.UINT8 and node.op_type != "Cast":
                yield name_of(node), f"{node.op_type} reads UINT8 {value.name}: Cast must be the only reader of bytes"
        for value in node.outputs:
            if value.dtype == ir.DataType.UINT8 and not graph.is_output(value):
                yield name_of(node), f"UINT8 {value.name} inside of the graph: bytes are for its inputs and outputs"


def double(graph: Graph, _: Target) -> Found:
    """FP64 becomes FP32 without a word."""
    for node in graph.nodes():
        for value in node.outputs:
            if value.dtype == ir.DataType.DOUBLE:
                yield name_of(node), f"FP64 {value.name} is computed in FP32: write it so"


def constant_axes(graph: Graph, _: Target) -> Found:
    """Axes are known when the engine is built."""
    for node in graph.nodes(*_AXES_INPUT):
        axes = input_of(node, _AXES_INPUT[node.op_type])
        if axes is not None and not is_constant(axes):
            yield name_of(node), f"axes of {node.op_type} are computed at run time: make them an initializer"


def scatternd_reduction(graph: Graph, target: Target) -> Found:
    """The attribute may not even say "none" in 10.3."""
    for node in graph.nodes("ScatterND"):
        reduction = attribute(node, "reduction")
        if reduction is not None and (target.tensorrt == "10.3" or reduction != "none"):
            yield name_of(node), f'ScatterND with the attribute reduction="{reduction}": take the attribute away'


def layernorm_outputs(graph: Graph, _: Target) -> Found:
    """LayerNormalization has its first output only."""
    for node in graph.nodes("LayerNormalization"):
        if len(node.outputs) > 1:
            yield name_of(node), f"LayerNormalization with {len(node.outputs)} outputs: only the first is supported"


def topk(graph: Graph, _: Target) -> Found:
    """TopK is sorted and small."""
    for node in graph.nodes("TopK"):
        if attribute(node, "sorted", 1) != 1:
            yield name_of(node), "TopK with sorted=0: it must be 1"
        count = constant_of(input_of(node, 1))
        if count is not None and int(count.item()) > _MOST_TOPK:
            yield name_of(node), f"TopK of {int(count.item())}: K must be less than {_MOST_TOPK + 1}"


def onehot_depth(graph: Graph, _: Target) -> Found:
    """OneHot's depth is known when the engine is built."""
    for node in graph.nodes("OneHot"):
        depth = input_of(node, 1)
        if depth is None or not is_constant(depth):
            yield name_of(node), "depth of OneHot is computed at run time: make it an initializer"


def resize(graph: Graph, _: Target) -> Found:
    """Resize has a few modes."""
    for node in graph.nodes("Resize"):
        for name, allowed in _RESIZE.items():
            value = attribute(node, name, allowed[0])
            if value not in allowed:
                yield name_of(node), f"Resize with {name}={value}: expected one of {', '.join(map(str, allowed))}"


def pooling(graph: Graph, _: Target) -> Found:
    """Pooling has no dilation, and no indices."""
    for node in graph.nodes("MaxPool", "AveragePool", "LpPool"):
        if any(dilation != 1 for dilation in attribute(node, "dilations", ())):
            yield name_of(node), f"{node.op_type} with dilations: they must be 1"
        if len(node.outputs) > 1:
            yield name_of(node), f"{node.op_type} with indices: only its first output is supported"


def loop(graph: Graph, _: Target) -> Found:
    """What a loop carries keeps its shape."""
    for node in graph.nodes("Loop"):
        body = node.attributes["body"].as_graph()
        carried = list(zip(body.inputs[2:], body.outputs[1:], strict=False))
        for before, after in carried:
            if shape_of(before) is None or None in (shape_of(before) or ()) or shape_of(before) != shape_of(after):
                yield name_of(node), f"Loop carries {before.name} of a shape that may change: it must be fixed"


def attention(graph: Graph, _: Target) -> Found:
    """Attention is that of tensors of four dimensions, without a cache of its own."""
    for node in graph.nodes("Attention"):
        for place in range(4):
            value = input_of(node, place)
            shape = shape_of(value)
            if value is not None and (shape is None or len(shape) != 4):
                yield name_of(node), f"Attention with {value.name} of shape {_dims(value)}: Q, K, V and mask must be 4D"
        extra = [name for place, name in _ATTENTION_INPUTS.items() if input_of(node, place) is not None]
        extra += [name for place, name in _ATTENTION_OUTPUTS.items() if place < len(node.outputs)]
        extra += [name for name in ("softcap", "qk_matmul_output_mode") if attribute(node, name)]
        if extra:
            yield name_of(node), f"Attention with {', '.join(extra)}: not supported, take a mask and concatenate the cache"


def tensor_scatter(graph: Graph, _: Target) -> Found:
    """TensorScatter writes rows of a cache of four dimensions in place: the cache goes in and comes out at one address."""
    for node in graph.nodes("TensorScatter"):
        ranks = [len(shape_of(value) or ()) for value in node.inputs[:2]]
        if ranks != [4, 4] or attribute(node, "axis", -2) != -2:
            yield name_of(node), f"TensorScatter of ranks {ranks}, axis {attribute(node, 'axis', -2)}: expected 4, 4 and -2"
        cache = node.inputs[0]
        if cache is None or not cache.is_graph_input() or not graph.is_output(node.outputs[0]):
            yield name_of(node), "TensorScatter inside of the graph: its cache must be an input, and what it gives an output"


def rotary_positions(graph: Graph, _: Target) -> Found:
    """RotaryEmbedding's positions are INT64."""
    for node in graph.nodes("RotaryEmbedding"):
        positions = input_of(node, 3)
        if positions is not None and positions.dtype != ir.DataType.INT64:
            yield name_of(node), f"RotaryEmbedding with position_ids of {type_name(positions)}: they must be INT64"


def finite_constants(graph: Graph, _: Target) -> Found:
    """A constant that FP16 cannot hold becomes an infinity, and a mask of infinities makes rows that are not numbers."""
    for value in graph.model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.dtype != ir.DataType.FLOAT16 or tensor.size > 1 << 16:
            continue
        if not np.isfinite(tensor.numpy()).all():
            yield value.name or "", "an FP16 constant is not finite: keep it within 65504"


OPERATOR_RULES = (
    Rule("opset", opset),
    Rule("domain", domain),
    Rule("operator", operator),
    Rule("operand-type", operand_type),
    Rule("uint8", bytes_at_ports),
    Rule("fp64", double, refused=False),
    Rule("constant-axes", constant_axes),
    Rule("scatternd-reduction", scatternd_reduction),
    Rule("layernorm-outputs", layernorm_outputs),
    Rule("topk", topk),
    Rule("onehot-depth", onehot_depth),
    Rule("resize", resize),
    Rule("pooling", pooling),
    Rule("loop", loop),
    Rule("attention", attention),
    Rule("tensor-scatter", tensor_scatter),
    Rule("rotary-positions", rotary_positions),
    Rule("finite-constants", finite_constants, refused=False),
)


def _dims(value: ir.Value) -> str:
    return "?" if value.shape is None else f"[{', '.join(map(str, value.shape))}]"
