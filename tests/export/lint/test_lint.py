"""export/lint: for every rule a graph that breaks it and the line that it gets, and graphs that break none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from leo_edge.export.lint.graph import TARGETS, Graph
from leo_edge.export.lint.lint import RULES, lint_graph, target_named
from leo_edge.runtime.errors import LeoEdgeError

FLOAT = ir.DataType.FLOAT
X = "float[2,4] x"


def parsed(text: str, opset: int = 20, *, domains: str = "") -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}{domains}]>\nagraph {text}')


def lines(text: str, opset: int = 20, target: str = "jetpack6.2", domains: str = "") -> list[str]:
    found = lint_graph("g", parsed(text, opset, domains=domains), [TARGETS[target]])
    return [finding.line().removeprefix(f"{target}: g: ") for finding in found]


ATTENTION = "float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v"
GOOD_GEMM = """
    xq = QuantizeLinear(x, sx, zx)
    xd = DequantizeLinear(xq, sx, zx)
    wd = DequantizeLinear<axis=1>(w, sw)
    y = MatMul(xd, wd)
"""
INT8 = "<float sx = {0.1}, int8 zx = {0}, int8[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] sw = {0.1,0.2,0.3}>"
GEMM = f"({X}) => (float[2,3] y) {INT8} {{{GOOD_GEMM}}}"

BROKEN = {
    "opset": (
        f"({X}) => (float[2,4] y) {{ y = Abs(x) }}",
        "graph: opset 21, TensorRT 10.3 reads up to 20: export with a lower one",
    ),
    "domain": (
        f"({X}) => (float[2,4] y) {{ y = com.microsoft.FastGelu(x) }}",
        "y: com.microsoft::FastGelu needs a plugin: write it in standard operators",
    ),
    "operator": (
        f"({X}) => (uint8[2,4] y, float s, uint8 z) {{ y, s, z = DynamicQuantizeLinear(x) }}",
        "y: DynamicQuantizeLinear is not supported by TensorRT 10.3: write it in others",
    ),
    "operand-type": (
        "(int64[4] x) => (int64[4] y) <int64[4] e = {2,2,2,2}> { y = Pow(x, e) }",
        "y: Pow of INT64 is not supported, only of BF16 FP16 FP32: cast before it",
    ),
    "uint8": (
        "(uint8[4] x) => (int64[1] y) { y = Shape(x) }",
        "y: Shape reads UINT8 x: Cast must be the only reader of bytes",
    ),
    "fp64": (
        f"({X}) => (float[2,4] y) {{ d = Cast<to=11>(x)\n y = Cast<to=1>(d) }}",
        "d: FP64 d is computed in FP32: write it so",
    ),
    "constant-axes": (
        f"({X}, int64[1] axes) => (float[2,1] y) {{ y = ReduceSum(x, axes) }}",
        "y: axes of ReduceSum are computed at run time: make them an initializer",
    ),
    "scatternd-reduction": (
        f'({X}, int64[1,2] i, float[1] u) => (float[2,4] y) {{ y = ScatterND<reduction="none">(x, i, u) }}',
        'y: ScatterND with the attribute reduction="none": take the attribute away',
    ),
    "layernorm-outputs": (
        f"({X}, float[4] w) => (float[2,4] y, float[2,1] m) {{ y, m = LayerNormalization(x, w) }}",
        "y: LayerNormalization with 2 outputs: only the first is supported",
    ),
    "topk": (
        "(float[5000] x) => (float[4000] y, int64[4000] i) <int64[1] k = {4000}> { y, i = TopK(x, k) }",
        "y: TopK of 4000: K must be less than 3840",
    ),
    "onehot-depth": (
        "(int64[2] x, int64 depth) => (float[2,n] y) <float[2] v = {0.0, 1.0}> { y = OneHot(x, depth, v) }",
        "y: depth of OneHot is computed at run time: make it an initializer",
    ),
    "resize": (
        '(float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1.0,1.0,2.0,2.0}> { y = Resize<mode="cubic">(x, , s) }',
        "y: Resize with mode=cubic: expected one of nearest, linear",
    ),
    "pooling": (
        "(float[1,1,8,8] x) => (float[1,1,4,4] y) { y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x) }",
        "y: MaxPool with dilations: they must be 1",
    ),
    "loop": (
        """(int64 n, bool c, float[m] x) => (float[k] y) {
            y = Loop(n, c, x) <body = b (int64 i, bool ci, float[p] xi) => (bool co, float[r] xo) {
                co = Identity(ci)
                xo = Concat<axis=0>(xi, xi)
            }>
        }""",
        "y: Loop carries xi of a shape that may change: it must be fixed",
    ),
    "attention": (
        f"({ATTENTION}, bool[4,4] mask) => (float[1,2,4,8] y) {{ y = Attention(q, k, v, mask) }}",
        "y: Attention with mask of shape [4, 4]: Q, K, V and mask must be 4D",
    ),
    "tensor-scatter": (
        "(float[1,8,4] c, float[1,1,4] u, int64[1] i) => (float[1,8,4] y) { y = TensorScatter<axis=-2>(c, u, i) }",
        "y: TensorScatter of ranks [3, 3], axis -2: expected 4, 4 and -2",
    ),
    "rotary-positions": (
        "(float[1,2,4,8] x, float[16,4] a, float[16,4] b, int32[1,4] p) => (float[1,2,4,8] y)"
        " { y = RotaryEmbedding(x, a, b, p) }",
        "y: RotaryEmbedding with position_ids of INT32: they must be INT64",
    ),
    "quantized-type": (
        f"({X}) => (float[2,4] y) <float s = {{0.1}}> {{ q = QuantizeLinear(x, s)\n y = DequantizeLinear(q, s) }}",
        "q: QuantizeLinear with UINT8: expected INT8, with zero points of it",
    ),
    "zero-point": (
        f"({X}) => (float[2,4] y) <float s = {{0.1}}, int8 z = {{3}}> {{"
        "q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z) }",
        "q: zero point 3: it must be 0, quantize symmetrically",
    ),
    "scale": (
        f"({X}, float s) => (float[2,4] y) <int8 z = {{0}}> {{ q = QuantizeLinear(x, s, z)\n y = DequantizeLinear(q, s, z) }}",
        "q: the scale is computed at run time: calibrate, and make it an initializer",
    ),
    "per-tensor-activation": (
        f"({X}) => (float[2,4] y) <float[4] s = {{0.1,0.2,0.3,0.4}}, int8[4] z = {{0,0,0,0}}> {{"
        "q = QuantizeLinear<axis=1>(x, s, z)\n y = DequantizeLinear<axis=1>(q, s, z) }",
        "q: x is no constant and has a scale per channel: give it one scale",
    ),
    "weight-axis": (
        GEMM.replace("<axis=1>(w, sw)", "<axis=0>(w, sw4)").replace("<float sx", "<float[4] sw4 = {0.1,0.2,0.3,0.4}, float sx"),
        "wd: scales along axis 0 of a weight of MatMul: expected axis 1",
    ),
    "both-inputs": (
        GEMM.replace("MatMul(xd, wd)", "MatMul(x, wd)"),
        "y: MatMul of an INT8 weight and FP32: it is computed in float, quantize its input",
    ),
    "float-output": (
        f"({X}) => (float[2,3] o) {INT8} {{{GOOD_GEMM} r = QuantizeLinear(y, sx, zx)\n o = DequantizeLinear(r, sx, zx) }}",
        "r: the output of y is quantized: quantize the input of what reads it",
    ),
    "float-norms": (
        f"({X}) => (float[2,4] y) {INT8} {{q = QuantizeLinear(x, sx, zx)\n d = DequantizeLinear(q, sx, zx)\n y = Softmax(d) }}",
        "y: Softmax reads quantized values: keep its input float",
    ),
    "paired": (
        f"({X}) => (int8[4,2] y) {INT8} {{ q = QuantizeLinear(x, sx, zx)\n y = Transpose<perm=[1,0]>(q) }}",
        "q: INT8 goes into Transpose: DequantizeLinear must read it",
    ),
}
OPSETS = {"opset": 21, "attention": 24, "tensor-scatter": 24, "rotary-positions": 24, "operand-type": 20}


def parsed_lines(rule: str) -> list[str]:
    text, _ = BROKEN[rule]
    opset = OPSETS.get(rule, 20)
    target = "jetpack7.2" if opset == 24 else "jetpack6.2"
    return lines(text, opset, target, ', "com.microsoft" : 1' if rule == "domain" else "")


@pytest.mark.parametrize("rule", BROKEN)
def test_a_graph_that_breaks_a_rule_gets_its_line(rule: str) -> None:
    assert f"{BROKEN[rule][1]} [{rule}]" in parsed_lines(rule)


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    built_by_hand = {"finite-constants", "scale-type", "int4-block"}
    assert {rule.name for rule in RULES} == set(BROKEN) | built_by_hand


def with_constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], text: str, opset: int = 20) -> ir.Model:
    """A graph in which an input becomes an initializer, for types that the text form cannot hold."""
    model = parsed(text, opset)
    value = next(value for value in model.graph.inputs if value.name == name)
    model.graph.inputs.remove(value)
    value.const_value = ir.tensor(array, name=name, dtype=value.dtype)
    model.graph.initializers[name] = value
    return model


def only(model: ir.Model, rule: str, target: str = "jetpack7.2") -> list[str]:
    return [finding.message for finding in lint_graph("g", model, [TARGETS[target]]) if finding.rule == rule]


def test_constants_beyond_fp16() -> None:
    text = "(float16[2] x, float16[2] c) => (float16[2] y) { y = Add(x, c) }"
    assert only(with_constant("c", np.array([1, np.inf], np.float16), text), "finite-constants") == [
        "an FP16 constant is not finite: keep it within 65504"
    ]
    assert only(with_constant("c", np.array([1, 65504], np.float16), text), "finite-constants") == []


def test_a_scale_of_another_type() -> None:
    text = "(float16[2] x, float s, int8 z) => (int8[2] y) { y = QuantizeLinear(x, s, z) }"
    assert only(parsed(text, 21), "scale-type") == ["FP16 with a scale of FP32: both must have one type"]


@pytest.mark.parametrize(("block", "wrong"), [(128, False), (32, True)])
def test_int4_in_blocks(block: int, wrong: bool) -> None:
    import ml_dtypes

    rows = 256 // block
    text = f"""(float[2,256] x, int4[256,3] w, float[{rows},3] s) => (float[2,3] y) {{
        d = DequantizeLinear<axis=0, block_size={block}>(w, s)
        y = MatMul(x, d)
    }}"""
    model = with_constant("w", np.ones((256, 3), ml_dtypes.int4), text, 21)
    value = next(value for value in model.graph.inputs if value.name == "s")
    value.const_value = ir.tensor(np.ones((rows, 3), np.float32), name="s")
    model.graph.inputs.remove(value)
    model.graph.initializers["s"] = value
    message = f"INT4 with blocks of {block} along axis 0: expected constant weights, 128, axis 0"
    assert only(model, "int4-block") == ([message] if wrong else [])


@pytest.mark.parametrize("target", TARGETS)
def test_a_well_quantized_product_breaks_none(target: str) -> None:
    assert lines(GEMM, target=target) == []


def test_scales_per_channel_must_say_their_axis() -> None:
    assert lines(GEMM.replace("<axis=1>", "")) == ["wd: scales per channel without the attribute axis: state it [weight-axis]"]


def test_scales_must_be_positive() -> None:
    assert lines(GEMM.replace("{0.1,0.2,0.3}", "{0.1,-0.2,0.3}")) == [
        "wd: a scale is zero, negative or not finite: it must be positive [scale]"
    ]


def test_a_gathered_stack_of_int8_weights_cannot_have_scales_per_channel() -> None:
    text = f"""({X}, int64 i) => (float[2,3] y)
        <int8[2,4,3] w = {{{",".join(["1"] * 24)}}}, float[3] sw = {{0.1,0.2,0.3}}> {{
        one = Gather(w, i)
        d = DequantizeLinear<axis=1>(one, sw)
        y = MatMul(x, d)
    }}"""
    assert "d: one is no constant and has a scale per channel: give it one scale [per-tensor-activation]" in lines(text)


def test_attention_with_a_cache_of_its_own() -> None:
    text = f"({ATTENTION}, bool[1,1,4,8] m, float[1,2,4,8] a, float[1,2,4,8] b) => (float[1,2,4,8] y, pk, pv)"
    found = lines(f"{text} {{ y, pk, pv = Attention<softcap=5.0>(q, k, v, m, a, b) }}", 24, "jetpack7.2")
    message = "y: Attention with past_key, past_value, present_key, present_value, softcap: not supported, "
    assert f"{message}take a mask and concatenate the cache [attention]" in found


def test_a_cache_is_written_in_place_from_input_to_output() -> None:
    ports = "(float[1,2,8,4] c, float[1,2,1,4] u, int64[1] i) => (float[1,2,8,4] y)"
    good = f"{ports} {{ y = TensorScatter<axis=-2>(c, u, i) }}"
    copied = f"{ports} {{ d = Abs(c)\n y = TensorScatter<axis=-2>(d, u, i) }}"
    kept = f"{ports} {{ d = TensorScatter<axis=-2>(c, u, i)\n y = Abs(d) }}"
    assert lines(good, 24, "jetpack7.2") == []
    message = "TensorScatter inside of the graph: its cache must be an input, and what it gives an output [tensor-scatter]"
    assert lines(copied, 24, "jetpack7.2") == [f"y: {message}"]
    assert lines(kept, 24, "jetpack7.2") == [f"d: {message}"]


def test_targets_differ_in_what_they_take() -> None:
    text = "(float[2,4] x, float[4] w) => (float[2,4] y) { y = RMSNormalization(x, w) }"
    assert "y: RMSNormalization is not supported by TensorRT 10.3: write it in others [operator]" in lines(text, 24)
    assert lines(text, 24, "jetpack7.2") == lines(text, 24, "trt11") == []


def test_no_such_target() -> None:
    with pytest.raises(LeoEdgeError, match=r"no target 'orin': expected one of jetpack6\.2, jetpack7\.2, trt11"):
        target_named("orin")


def test_nodes_of_branches_are_seen() -> None:
    text = """(bool c, float[2,4] x) => (float[2,4] y) {
        y = If(c) <then_branch = t () => (float[2,4] a) { a = Det(x) }, else_branch = e () => (float[2,4] b) { b = Abs(x) }>
    }"""
    assert any("Det is not supported" in line for line in lines(text))
    assert Graph("g", parsed(text)).opset == 20
