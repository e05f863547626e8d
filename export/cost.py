"""What a bundle costs to run: FLOPs and bytes, counted from its graphs for given sizes of their symbolic dimensions.

Counted are the products, at 2 FLOP per multiply-add, as the graph states them: MatMul, Gemm, Conv, Einsum and Attention, the
last over all keys that it is given, masked or not, which in an opset-24 graph is the whole cache. Left out is everything in
`UNCOUNTED`: elementwise arithmetic and biases, norms, softmax (that inside Attention too), reductions, quantization, lookups
and moves of data. Any other operator is an error, so nothing that costs is counted as nothing.

Shapes come from onnxscript's constant folding with onnx's shape inference: with all input sizes known, it computes whatever a
graph computes shapes with. onnx.shape_inference alone, data propagation on, stops at Range and refuses dynamic-NTK RoPE. No
weight is read: 0.6 s and 130 MB, libraries included, for the graph of a 7B language model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnxscript import optimizer

from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.manifest import BundleManifest

Shape = tuple[int, ...]

_ELEMENTWISE = (
    "Abs Add And Cast Ceil Clip Cos Div Equal Erf Exp Floor Gelu Greater GreaterOrEqual Identity Less LessOrEqual Log Max Min "
    "Mul Neg Not Or Pow Reciprocal Relu Round Sigmoid Sin Sqrt Sub Tanh Where"
)
_ROWWISE = (
    "CumSum DequantizeLinear LayerNormalization QuantizeLinear RMSNormalization ReduceMax ReduceMean ReduceMin ReduceSum "
    "Softmax TopK"
)
_MOVES = (
    "Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND Pad Range Reshape ScatterElements ScatterND "
    "Shape Size Slice Split Squeeze TensorScatter Tile Transpose Trilu Unsqueeze"
)
UNCOUNTED = frozenset(f"{_ELEMENTWISE} {_ROWWISE} {_MOVES}".split())


class CostError(LeoEdgeError):
    """A graph's cost cannot be told: a dimension has no size, or an operator or a shape is not known."""


@dataclass(frozen=True)
class GraphCost:
    """One run of a graph. `by_op` holds the FLOPs of every operator that is counted.

    weight_bytes: all initializers that are used, as stored.
    input_bytes, output_bytes: the ports. A cache that is updated in place (opset 24) is among both at its full length.
    """

    by_op: Mapping[str, int]
    weight_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def flops(self) -> int:
        """FLOPs of all operators."""
        return sum(self.by_op.values())


@dataclass(frozen=True)
class Workload:
    """What is asked of a bundle: one question about one frame set.

    text_tokens: all of the prompt that is not visual, question_tokens: the question alone, on which fusion may depend.
    cache_len: tokens that an opset-24 cache has room for; None takes the bundle's context length, the most there can be.
    """

    num_cameras: int
    tiles_per_camera: int
    text_tokens: int
    question_tokens: int
    cache_len: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_cameras", "tiles_per_camera", "text_tokens", "question_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class StageCost:
    """One stage of the pipeline: a graph, run once per `per` ("frame set", "question" or "token") with sizes `dims`.

    A vision stage is all tiles of the frame set in one run. "prefill" and "decode" are two uses of the graph "llm".
    """

    stage: str
    graph: str
    per: str
    dims: Mapping[str, int]
    cost: GraphCost


def num_visual_tokens(manifest: BundleManifest, num_cameras: int, tiles_per_camera: int) -> int:
    """Returns how many visual embeddings the prompt holds."""
    units = num_cameras * (tiles_per_camera if manifest.fuse.unit == "tile" else 1)
    return manifest.fuse.num_tokens * units


def bundle_costs(bundle: Bundle, workload: Workload) -> tuple[StageCost, ...]:
    """Counts every stage, in the order of the data. Decoding is counted for the first token after the prompt.

    Cutting tiles is not among them: the host does it, unless an engine has the graph `tiles`, and then its cost depends on the
    size of the cameras' images (`count_graph` with sizes H, W, Y and X counts it).

    Raises:
        CostError: a graph has an operator that is not known, or a dimension that this workload does not decide.
    """
    manifest = bundle.manifest
    sizes = _sizes(manifest, workload)
    prompt_len = sizes["V_all"] + workload.text_tokens
    stages = [(f"vision.{expert.name}", f"vision.{expert.name}", "frame set", sizes) for expert in manifest.experts]
    stages.append(("fuse", "fuse", "question" if manifest.fuse.uses_text else "frame set", sizes))
    if manifest.decoder.routed:
        stages.append(("router", "router", "question", sizes))
    stages.append(("prefill", "llm", "question", sizes | {"S": prompt_len, "P": 0}))
    stages.append(("decode", "llm", "token", sizes | {"S": 1, "P": prompt_len}))
    return tuple(_stage_cost(bundle, *stage) for stage in stages)


def _sizes(manifest: BundleManifest, workload: Workload) -> dict[str, int]:
    """Returns the sizes that do not depend on how the language model is used."""
    sizes = {
        "T": workload.num_cameras * workload.tiles_per_camera,
        "I": workload.num_cameras,
        "L": workload.question_tokens,
        "V_all": num_visual_tokens(manifest, workload.num_cameras, workload.tiles_per_camera),
        "C": workload.cache_len or manifest.decoder.context_len,
        "Q": 1,
    }
    return sizes | {f"M_{expert.name}": workload.tiles_per_camera * expert.num_tokens for expert in manifest.experts}


def _stage_cost(bundle: Bundle, stage: str, graph: str, per: str, sizes: Mapping[str, int]) -> StageCost:
    spec = bundle.manifest.graphs[graph]
    symbols = dict.fromkeys(dim for port in spec.inputs for dim in port.shape if isinstance(dim, str))
    dims = {symbol: sizes[symbol] for symbol in symbols if symbol in sizes}
    return StageCost(stage, graph, per, dims, count_graph(bundle.path(spec.file), dims))


def count_graph(path: Path, dims: Mapping[str, int]) -> GraphCost:
    """Counts an ONNX file, without reading its weights. `dims` gives a size to every symbolic dimension of the inputs.

    Raises:
        CostError: see `count_model`.
    """
    return count_model(ir.load(path), dims)


def count_model(model: ir.Model, dims: Mapping[str, int]) -> GraphCost:
    """Counts a graph, which is left as it is; its weights need a type and a shape, but no data.

    Raises:
        CostError: a dimension of an input is not in `dims`, an operator is not known, or its shapes cannot be inferred.
    """
    weights = [(_static_shape(value), value.dtype) for value in model.graph.initializers.values() if value.uses()]
    sized = _with_sizes(model, dims)
    graph = sized.graph
    by_op: Counter[str] = Counter()
    for node in graph:
        if flops := _node_flops(node):
            by_op[node.op_type] += flops
    ports = [
        [(_static_shape(value), value.dtype) for value in values]
        for values in (graph.inputs[: len(model.graph.inputs)], graph.outputs)
    ]
    return GraphCost(dict(by_op), *(sum(_num_bytes(*tensor) for tensor in tensors) for tensors in (weights, *ports)))


def _with_sizes(model: ir.Model, dims: Mapping[str, int]) -> ir.Model:
    """Returns a copy of the model in which every shape is a tuple of numbers.

    What could be a weight becomes an input, so that folding neither reads it nor computes with it.
    """
    sized = model.clone()
    graph = sized.graph
    _set_input_sizes(graph, dims)
    for node in graph:
        for output in node.outputs:
            output.shape = None
    for name, value in list(graph.initializers.items()):
        if not _may_be_sizes(value):
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    optimizer.fold_constants(sized, onnx_shape_inference=True)
    return sized


def _may_be_sizes(value: ir.Value) -> bool:
    """Whether an initializer may be what a shape is computed with: whole numbers, held in the graph's own file."""
    whole = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    return whole and value.const_value is not None and not isinstance(value.const_value, ir.ExternalTensor)


def _set_input_sizes(graph: ir.Graph, dims: Mapping[str, int]) -> None:
    missing: dict[str, None] = {}
    for value in graph.inputs:
        if value.shape is None:
            raise CostError(f"input {value.name} of graph {graph.name} has no shape: export the bundle again")
        sizes = [dim if isinstance(dim, int) else dims.get(str(dim.value)) for dim in value.shape]
        missing |= {str(dim): None for dim, size in zip(value.shape, sizes, strict=True) if size is None}
        value.shape = ir.Shape(sizes)
    if missing:
        raise CostError(
            f"no size for {', '.join(missing)} of graph {graph.name}: got {', '.join(dims) or 'none'}, "
            "give one to every symbolic dimension of its inputs"
        )
    negative = [f"{name} = {size}" for name, size in dims.items() if size < 0]
    if negative:
        raise CostError(f"sizes must be at least 0, got {', '.join(negative)}")


def _node_flops(node: ir.Node) -> int:
    """Returns the FLOPs of one node."""
    standard = node.domain in ("", "ai.onnx")
    if standard and node.op_type in UNCOUNTED:
        return 0
    count = _PRODUCTS.get(node.op_type)
    if not standard or count is None:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise CostError(f"do not know what operator {name} costs (node {node.name}): add it to leo_edge.export.cost")
    return count(node)


def _matmul(node: ir.Node) -> int:
    """[..., M, K] x [..., K, N]."""
    return 2 * math.prod(_shape(node, node.outputs[0])) * _shape(node, node.inputs[0])[-1]


def _gemm(node: ir.Node) -> int:
    """[M, K] x [K, N], the first perhaps stored as [K, M]."""
    transposed = node.attributes.get_int("transA", 0)
    return 2 * math.prod(_shape(node, node.outputs[0])) * _shape(node, node.inputs[0])[0 if transposed else 1]


def _conv(node: ir.Node) -> int:
    """Weight [out, in / groups, ...]: every output element is a product over all of it but the first axis."""
    return 2 * math.prod(_shape(node, node.outputs[0])) * math.prod(_shape(node, node.inputs[1])[1:])


def _einsum(node: ir.Node) -> int:
    """Two operands: one multiply-add for every combination of all their indices."""
    equation = (node.attributes.get_string("equation") or "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        raise CostError(f"do not know what Einsum {equation!r} costs (node {node.name}): expected two terms without '...'")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        sizes |= dict(zip(term, _shape(node, value), strict=True))
    return 2 * math.prod(sizes.values())


def _attention(node: ir.Node) -> int:
    """query [B, H, S, E], keys [B, K, C, E], values [B, K, C, F], perhaps behind past keys [B, K, P, E]."""
    query, keys, values = (_shape(node, value) for value in node.inputs[:3])
    if not len(query) == len(keys) == len(values) == 4:
        raise CostError(f"do not know what Attention on {len(query)} axes costs (node {node.name}): expected 4")
    past = node.inputs[4] if len(node.inputs) > 4 else None
    length = keys[2] + (_shape(node, past)[2] if past is not None else 0)
    return 2 * math.prod(query[:3]) * length * (query[3] + values[3])


_PRODUCTS: dict[str, Callable[[ir.Node], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "Einsum": _einsum,
    "Attention": _attention,
}


def _shape(node: ir.Node, value: ir.Value | None) -> Shape:
    if value is None or value.shape is None or not value.shape.is_static():
        found = None if value is None else value.shape
        name = None if value is None else value.name
        raise CostError(f"cannot tell what {node.op_type} {node.name} costs: its {name} has the shape {found}")
    return value.shape.numpy()


def _static_shape(value: ir.Value) -> Shape:
    if value.shape is None or not value.shape.is_static():
        raise CostError(f"cannot tell how many bytes {value.name} takes: its shape is {value.shape}")
    return value.shape.numpy()


def _num_bytes(shape: Shape, dtype: ir.DataType | None) -> int:
    assert dtype is not None
    return math.ceil(math.prod(shape) * dtype.itemsize)
