"""export/cost.py: counts equal closed forms, on hand-written graphs, on the tiny presets and at full size without weights.

Shape letters: T tiles, N tokens, D width, F feed-forward width, H heads, E head width, S new tokens, L keys, Q reduced tokens.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import onnx_ir
import pytest
import torch

from leo_edge.export.config import LeoConfig, LeoMiniConfig, ModelConfig, parse_config
from leo_edge.export.cost import (
    UNCOUNTED,
    CostError,
    GraphCost,
    Workload,
    bundle_costs,
    count_graph,
    count_model,
)
from leo_edge.export.exporter import ExportOptions, export_bundle
from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.presets import PRESETS
from leo_edge.export.stages import StageOptions, build_stages
from leo_edge.export.trace import TracedGraph, trace
from leo_edge.runtime.bundle import Bundle, open_bundle
from tests.conftest import MadeOnce

Save = Callable[..., Path]

WORKLOAD = Workload(num_cameras=6, tiles_per_camera=3, text_tokens=150, question_tokens=42)
NUM_TILES = 18


# Closed forms, from a config and nothing else.


def products(rows: int, *dims: tuple[int, int]) -> int:
    """FLOPs of `rows` row vectors through matrices of these sizes."""
    return 2 * rows * sum(n * m for n, m in dims)


def attention(queries: int, keys: int, width: int) -> int:
    """FLOPs of scores and weighted sum over all heads."""
    return 4 * queries * keys * width


def vit_flops(settings: Mapping[str, Any], num_layers: int) -> int:
    """One tile through InternViT or CLIP at their own input size: a class token, square attention."""
    width, ffn, patch = settings["hidden_size"], settings["intermediate_size"], settings["patch_size"]
    patches = (settings["image_size"] // patch) ** 2
    tokens = patches + 1
    layer = products(tokens, (width, 4 * width), (width, 2 * ffn)) + attention(tokens, tokens, width)
    return products(patches, (3 * patch**2, width)) + num_layers * layer


def sam_flops(settings: Mapping[str, Any], tile_px: int, *, pad_windows: bool = True) -> int:
    """One tile through SAM: resize, windows padded to a multiple of their side, decomposed relative positions, neck."""
    width, ffn, out = settings["hidden_size"], settings["mlp_dim"], settings["output_channels"]
    patch, image_px = settings["patch_size"], settings["image_size"]
    side = image_px // patch
    total = products(side**2, (3 * patch**2, width), (width, out), (9 * out, out))
    if tile_px != image_px:
        total += 2 * products(3 * (tile_px + image_px), (tile_px, image_px))  # each pass with two matrices
    for layer in range(settings["num_hidden_layers"]):
        window = side if layer in settings["global_attn_indexes"] else settings["window_size"]
        count = math.ceil(side / window) ** 2 if pad_windows else (side / window) ** 2
        tokens = round(count * window**2)
        total += products(tokens, (width, 4 * width)) + attention(tokens, window**2, width)
        total += 2 * products(tokens, (window, width))  # every query meets `window` rows and `window` columns
        total += products(side**2, (width, 2 * ffn))
    return total


def llm_flops(llm: LlmConfig, num_new: int, num_keys: int) -> int:
    """The language model on `num_new` tokens that attend to `num_keys`; its head sees the last token alone."""
    width, ffn, attended = llm.hidden_size, llm.intermediate_size, llm.num_heads * llm.head_dim
    layer = products(num_new, (width, 2 * attended + 2 * llm.num_kv_heads * llm.head_dim), (width, 3 * ffn))
    layer += attention(num_new, num_keys, attended)
    if llm.mmoe is not None:
        ranks, router = llm.mmoe.rank * (llm.mmoe.num_experts + 1), llm.mmoe.router_hidden_size
        layer += products(num_new, (ffn + width, ranks), (ffn, router), (router, llm.mmoe.num_experts))
    return llm.num_layers * layer + products(1, (width, llm.vocab_size))


def leo_fuse_flops(config: LeoConfig, widths: tuple[int, int], num_tokens: int) -> int:
    """LEO's two projectors on one tile, half of its `num_tokens` each."""
    hidden, ratios = config.llm.hidden_size, (round(1 / config.downsample_ratio), config.downsample_ratio2)
    inputs = [width * ratio**2 for width, ratio in zip(widths, ratios, strict=True)]
    return products(num_tokens // 2, *((dim + hidden, hidden) for dim in inputs))


def cotr_flops(config: LeoMiniConfig, experts: Mapping[int, int], num_images: int, question_tokens: int) -> int:
    """CoTR and projector. `experts`: tokens per image by token width."""
    queries, proj, hidden = config.cotr.num_queries, config.cotr.proj_dim, config.llm.hidden_size
    total = products(question_tokens, (hidden, proj))
    for width, tokens in experts.items():
        total += products(queries, (config.cotr.query_dim, proj)) + products(num_images * tokens, (width, proj))
        total += products(num_images * queries, (proj, tokens), (tokens, width))
    middle = config.projector_hidden_size or hidden
    return total + products(num_images * queries, (sum(experts), middle), (middle, hidden))


def settings_of(config: ModelConfig, name: str) -> Mapping[str, Any]:
    return next(expert.settings for expert in config.experts if expert.name == name)


# Hand-written graphs.


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a graph in onnx's text form, opset 24 unless told."""

    def write(text: str, opset: str = '"": 24') -> Path:
        model = onnx.parser.parse_model(f"<ir_version: 11, opset_import: [{opset}]>\n{text}")
        onnx.save(model, tmp_path / "graph.onnx")
        return tmp_path / "graph.onnx"

    return write


LINEAR = "linear (float[T, 3] x) => (float[T, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }"


def test_linear_is_two_flop_per_weight_and_row(save: Save) -> None:
    cost = count_graph(save(LINEAR), {"T": 5})
    assert cost == GraphCost({"MatMul": 2 * 5 * 3 * 2}, weight_bytes=24, input_bytes=60, output_bytes=40)
    assert cost.flops == 60


def test_batched_matmul_counts_every_product(save: Save) -> None:
    path = save("g (float[B, 2, 7, 3] x, float[2, 3, N] w) => (float[B, 2, 7, N] y) { y = MatMul(x, w) }")
    assert count_graph(path, {"B": 4, "N": 5}).flops == 2 * 4 * 2 * 7 * 3 * 5


@pytest.mark.parametrize(("inner", "shape"), [("transA = 0", "5, 3"), ("transA = 1", "3, 5")])
def test_gemm_knows_which_axis_is_summed(save: Save, inner: str, shape: str) -> None:
    path = save(f"g (float[{shape}] x, float[7, 3] w) => (float[M, N] y) {{ y = Gemm<{inner}, transB = 1>(x, w) }}")
    assert count_graph(path, {}).by_op == {"Gemm": 2 * 5 * 3 * 7}


def test_convolution_counts_kernel_groups_and_stride(save: Save) -> None:
    path = save(
        "g (float[T, 6, 32, 32] x, float[8, 3, 5, 5] w) => (float[T, 8, A, B] y)"
        "{ y = Conv<group = 2, strides = [4, 4], kernel_shape = [5, 5]>(x, w) }"
    )
    assert count_graph(path, {"T": 2}).by_op == {"Conv": 2 * 2 * 8 * 7 * 7 * 3 * 5 * 5}


def test_einsum_counts_every_combination_of_indices(save: Save) -> None:
    path = save(
        'g (float[B, 4, 5, 6] x, float[4, 7, 6] w) => (float[B, 4, 5, 7] y) { y = Einsum<equation = "bhwc,hkc->bhwk">(x, w) }'
    )
    assert count_graph(path, {"B": 3}).by_op == {"Einsum": 2 * 3 * 4 * 5 * 6 * 7}


def test_attention_counts_query_heads_over_the_whole_cache(save: Save) -> None:
    path = save(
        "g (float[1, 8, S, 16] q, float[1, 2, C, 16] k, float[1, 2, C, 12] v, bool[S, C] m) => (float[1, 8, S, 12] y)"
        "{ y = Attention(q, k, v, m) }"
    )
    assert count_graph(path, {"S": 5, "C": 64}).by_op == {"Attention": 2 * 8 * 5 * 64 * (16 + 12)}


def test_attention_behind_past_keys_counts_them_too(save: Save) -> None:
    path = save(
        "g (float[1, 8, S, 16] q, float[1, 8, S, 16] k, float[1, 8, S, 16] v, float[1, 8, P, 16] pk, float[1, 8, P, 16] pv)"
        "=> (float[1, 8, S, 16] y, float[1, 8, A, 16] nk, float[1, 8, A, 16] nv) { y, nk, nv = Attention(q, k, v, , pk, pv) }"
    )
    assert count_graph(path, {"S": 5, "P": 59}).by_op == {"Attention": attention(5, 64, 8 * 16)}


def test_shapes_that_the_graph_computes_are_followed(save: Save) -> None:
    path = save(
        """g (float[S, 4] x, float[P, 4] past) => (float[4] y) <int64 zero = {0}, int64 one = {1}> {
            both = Concat<axis = 0>(past, x)  shape = Shape<start = 0, end = 1>(both)  length = Squeeze(shape)
            slots = Range(zero, length, one)  row = Cast<to = 1>(slots)  y = MatMul(row, both)
        }"""
    )
    assert count_graph(path, {"S": 5, "P": 7}).by_op == {"MatMul": 2 * (5 + 7) * 4}


def test_products_of_weights_alone_are_counted(save: Save) -> None:
    path = save(
        "g (float[T, 2] x) => (float[T, 2] y) <float[2, 1] a = {1, 2}, float[1, 2] b = {1, 2}>"
        "{ w = MatMul(a, b)  y = MatMul(x, w) }"
    )
    assert count_graph(path, {"T": 3}).flops == 2 * 2 * 1 * 2 + 2 * 3 * 2 * 2


def test_int8_weights_take_a_byte_each_and_cost_the_same(save: Save) -> None:
    path = save(
        "g (float[T, 3] x) => (float[T, 2] y) <int8[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] s = {1, 1}, float one = {1}>"
        "{ xq = QuantizeLinear<output_dtype = 3>(x, one)  xf = DequantizeLinear(xq, one)"
        "  wf = DequantizeLinear<axis = 1>(w, s)  y = MatMul(xf, wf) }"
    )
    assert count_graph(path, {"T": 5}) == GraphCost({"MatMul": 60}, weight_bytes=6 + 8 + 4, input_bytes=60, output_bytes=40)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = onnx_ir.from_proto(onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["": 24]>\n{LINEAR}'))
    before = onnx_ir.to_proto(model).SerializeToString()
    assert count_model(model, {"T": 1}).flops * 4 == count_model(model, {"T": 4}).flops
    assert onnx_ir.to_proto(model).SerializeToString() == before


def test_missing_size_is_named(save: Save) -> None:
    path = save("g (float[T, 3] x, float[3, N] w) => (float[T, N] y) { y = MatMul(x, w) }")
    with pytest.raises(CostError, match="no size for N of graph g: got T, give one to every"):
        count_graph(path, {"T": 5})


def test_negative_size_is_refused(save: Save) -> None:
    with pytest.raises(CostError, match="at least 0, got T = -1"):
        count_graph(save(LINEAR), {"T": -1})


def test_unknown_operator_is_named(save: Save) -> None:
    path = save("g (float[3, 3] x) => (float y) { [node_det] y = Det(x) }")
    with pytest.raises(CostError, match="what operator Det costs"):
        count_graph(path, {})


def test_known_name_of_another_domain_is_no_known_operator(save: Save) -> None:
    path = save("g (float[3, 3] x) => (float[3, 3] y) { y = com.microsoft.Gelu(x) }", '"": 24, "com.microsoft": 1')
    with pytest.raises(CostError, match=r"what operator com\.microsoft\.Gelu costs"):
        count_graph(path, {})


def test_shape_that_depends_on_data_is_an_error(save: Save) -> None:
    path = save("g (float[4, 4] x, int64[2] to, float[4, 4] w) => (float[A, B] y) { r = Reshape(x, to)  y = MatMul(r, w) }")
    with pytest.raises(CostError, match=r"cannot tell what MatMul .* costs"):
        count_graph(path, {})


def test_einsum_of_three_terms_is_refused(save: Save) -> None:
    path = save('g (float[2, 2] x) => (float[2, 2] y) { y = Einsum<equation = "ab,bc,cd->ad">(x, x, x) }')
    with pytest.raises(CostError, match="Einsum 'ab,bc,cd->ad' costs"):
        count_graph(path, {})


def test_uncounted_operators_exist() -> None:
    assert all(onnx.defs.has(name) for name in UNCOUNTED)
    assert not onnx.defs.has("Matmul"), "this test would find no misspelling"


# The tiny presets, one per opset.


@pytest.fixture(scope="module")
def leo(tiny_checkpoints: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("leo") / "bundle"
    export_bundle(tiny_checkpoints["leo-tiny"], directory, ExportOptions(opset=24), lambda _: None)
    return open_bundle(directory)


@pytest.fixture(scope="module")
def leo_mini(tiny_bundles: MadeOnce) -> Bundle:
    return open_bundle(tiny_bundles["leo-mini-tiny"])


def flops_by_stage(bundle: Bundle, workload: Workload = WORKLOAD) -> dict[str, int]:
    return {stage.stage: stage.cost.flops for stage in bundle_costs(bundle, workload)}


def test_leo_costs_what_its_config_says(leo: Bundle) -> None:
    config = parse_config(PRESETS["leo-tiny"])
    assert isinstance(config, LeoConfig)
    cache_len, prompt_len = leo.manifest.decoder.context_len, NUM_TILES * 32 + 150
    assert flops_by_stage(leo) == {
        "vision.internvit": NUM_TILES * vit_flops(settings_of(config, "internvit"), num_layers=3),
        "vision.sam": NUM_TILES * sam_flops(settings_of(config, "sam"), tile_px=112),
        "fuse": NUM_TILES * leo_fuse_flops(config, (64, 32), num_tokens=32),
        "prefill": llm_flops(config.llm, prompt_len, cache_len),
        "decode": llm_flops(config.llm, 1, cache_len),
    }


def test_leo_mini_costs_what_its_config_says(leo_mini: Bundle) -> None:
    config = parse_config(PRESETS["leo-mini-tiny"])
    assert isinstance(config, LeoMiniConfig)
    assert config.llm.mmoe is not None
    prompt_len = 6 * 16 + 150
    router = products(1, (2 * config.llm.hidden_size, config.llm.num_layers * config.llm.mmoe.router_hidden_size))
    assert flops_by_stage(leo_mini) == {
        "vision.clip": NUM_TILES * vit_flops(settings_of(config, "clip"), num_layers=2),
        "vision.sam": NUM_TILES * sam_flops(settings_of(config, "sam"), tile_px=112),
        "fuse": cotr_flops(config, {64: 3 * 64, 32: 3 * 256}, num_images=6, question_tokens=42),
        "router": router,
        "prefill": llm_flops(config.llm, prompt_len, prompt_len),
        "decode": llm_flops(config.llm, 1, prompt_len + 1),
    }


def test_closed_forms_of_other_models_do_not_fit(leo_mini: Bundle) -> None:
    """The negative control: a layer more, windows without padding, no MMoE, another question."""
    config = parse_config(PRESETS["leo-mini-tiny"])
    found = flops_by_stage(leo_mini)
    plain = replace(config.llm, mmoe=None)
    assert found["vision.clip"] != NUM_TILES * vit_flops(settings_of(config, "clip"), num_layers=3)
    assert found["vision.sam"] != NUM_TILES * sam_flops(settings_of(config, "sam"), tile_px=112, pad_windows=False)
    assert found["decode"] != llm_flops(plain, 1, 6 * 16 + 151)
    assert found["fuse"] != flops_by_stage(leo_mini, replace(WORKLOAD, question_tokens=43))["fuse"]


def test_stages_say_when_they_run(leo: Bundle, leo_mini: Bundle) -> None:
    assert [stage.per for stage in bundle_costs(leo, WORKLOAD)] == [*["frame set"] * 3, "question", "token"]
    assert [stage.per for stage in bundle_costs(leo_mini, WORKLOAD)] == [*["frame set"] * 2, *["question"] * 3, "token"]


def test_weight_bytes_are_those_of_the_parameters(leo: Bundle, leo_mini: Bundle) -> None:
    for bundle in (leo, leo_mini):
        for stage in bundle_costs(bundle, WORKLOAD):
            beside = stage.cost.weight_bytes - 4 * bundle.manifest.graphs[stage.graph].num_parameters
            assert 0 <= beside < 1024, f"{stage.stage}: shapes, indices and constants take {beside} bytes"


def test_decoding_reads_the_cache_and_writes_one_row(leo_mini: Bundle) -> None:
    decode = bundle_costs(leo_mini, WORKLOAD)[-1].cost
    row_bytes = 2 * 3 * 2 * 16 * 4  # keys and values, 3 layers, 2 heads of 16, float32
    routing_bytes = (3 * 32 + 1) * 4
    assert decode.input_bytes == 246 * row_bytes + 128 * 4 + 2 * 8 + routing_bytes  # a position, and a row for logits
    assert decode.output_bytes == row_bytes + 320 * 4


def test_cache_length_decides_what_fused_attention_costs(leo: Bundle) -> None:
    config = parse_config(PRESETS["leo-tiny"])
    assert flops_by_stage(leo, replace(WORKLOAD, cache_len=1024))["decode"] == llm_flops(config.llm, 1, 1024)


def test_weights_need_not_be_there(leo_mini: Bundle, tmp_path: Path) -> None:
    (tmp_path / "llm.onnx").write_bytes(leo_mini.path("llm.onnx").read_bytes())
    sizes = {"S": 1, "P": 245 + 1, "Q": 1}
    assert count_graph(tmp_path / "llm.onnx", sizes) == count_graph(leo_mini.path("llm.onnx"), sizes)


def test_workload_needs_a_camera() -> None:
    with pytest.raises(ValueError, match="num_cameras must be at least 1, got 0"):
        replace(WORKLOAD, num_cameras=0)


# Full size, without weights: the numbers that planning goes by.


def traced(preset: str, stage_name: str) -> tuple[ModelConfig, TracedGraph]:
    config = parse_config(PRESETS[preset])
    options = StageOptions(torch.float16, context_len=4096, fused=False)
    stage = next(stage for stage in build_stages(config, options) if stage.name == stage_name)
    return config, trace(stage, opset=20)


def test_closed_forms_give_the_numbers_of_the_plan() -> None:
    config = parse_config(PRESETS["leo-7b"])
    assert vit_flops(settings_of(config, "internvit"), num_layers=24) == pytest.approx(0.73e12, rel=0.01)
    assert sam_flops(settings_of(config, "sam"), tile_px=448) == pytest.approx(2.9e12, rel=0.05)
    assert llm_flops(config.llm, 3072, 3072) == pytest.approx(47e12, rel=0.02)
    assert llm_flops(config.llm, 3072, 3072) / 3072 == pytest.approx(15.4e9, rel=0.02)


@pytest.mark.slow
def test_internvit_300m_costs_what_its_config_says() -> None:
    config, graph = traced("leo-7b", "vision.internvit")
    assert count_model(graph.model, {"T": 1}).flops == vit_flops(settings_of(config, "internvit"), num_layers=24)


@pytest.mark.slow
def test_sam_l_costs_what_its_config_says() -> None:
    config, graph = traced("leo-7b", "vision.sam")
    assert count_model(graph.model, {"T": 1}).flops == sam_flops(settings_of(config, "sam"), tile_px=448)


@pytest.mark.slow
def test_llm_7b_costs_what_its_config_says() -> None:
    config, graph = traced("leo-7b", "llm")
    start_ns = time.perf_counter_ns()
    cost = count_model(graph.model, {"S": 3072, "P": 0})
    elapsed_s = (time.perf_counter_ns() - start_ns) / 1e9
    assert cost.flops == llm_flops(config.llm, 3072, 3072)
    assert cost.weight_bytes == pytest.approx(2 * 7.36e9, rel=0.001)  # float16, all but the embedding table
    assert elapsed_s < 10, f"counting must stay quick, took {elapsed_s:.1f} s"  # 0.5 s where it was written
