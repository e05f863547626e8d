"""export/config.py and llm_config.py: config.json of both families, in the spellings that published checkpoints have."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from leo_edge.export.config import (
    CAMERA_LINE,
    LEO_MINI_SYSTEM_MESSAGE,
    CoTRConfig,
    LeoConfig,
    LeoMiniConfig,
    parse_config,
)
from leo_edge.export.llm_config import LlmConfig, MMoEConfig, RopeConfig
from leo_edge.export.presets import PRESETS
from leo_edge.runtime.errors import CheckpointError
from leo_edge.runtime.tiles import TilingConfig

Json = dict[str, Any]

LLM: Json = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
}
# The least that each family needs.
LEO: Json = {
    "model_type": "hybrid_chat",
    "vision_config_1": {"hidden_size": 32, "image_size": 448},
    "vision_config_2": {"hidden_size": 16},
    "llm_config": LLM | {"architectures": ["InternLM2ForCausalLM"]},
}
MINI: Json = {
    "model_type": "leo_mini",
    "vision_configs": [{"name": "clip", "model_type": "clip_vision_model", "hidden_size": 32}],
    "llm_config": LLM,
}


def leo(**fields: object) -> LeoConfig:
    config = parse_config(LEO | fields)
    assert isinstance(config, LeoConfig)
    return config


def mini(**fields: object) -> LeoMiniConfig:
    config = parse_config(MINI | fields)
    assert isinstance(config, LeoMiniConfig)
    return config


def llm(architecture: str = "LlamaForCausalLM", **fields: object) -> LlmConfig:
    return LlmConfig.parse(LLM | {"architectures": [architecture]} | fields)


class TestLeo:
    def test_every_field_is_read(self) -> None:
        config = leo(
            vision_config_1={"hidden_size": 32, "image_size": 224},
            vision_config_2={"hidden_size": 16, "resample": "bilinear", "window_size": 14},
            downsample_ratio=0.25,
            downsample_ratio2=8,
            select_layer=-2,
            force_image_size=336,
            template="phi3-chat",
            ps_version="v1",
            min_dynamic_patch=2,
            max_dynamic_patch=12,
            use_thumbnail=False,
            system_message="Drive.",
            camera_line="{camera} <image> ",
        )
        internvit, sam = config.experts
        assert (internvit.name, internvit.kind, internvit.select_layer) == ("internvit", "internvit", -2)
        assert internvit.settings == {"hidden_size": 32, "image_size": 224}
        assert (sam.name, sam.kind, sam.select_layer, sam.resample) == ("sam", "sam", -1, "bilinear")
        assert sam.settings == {"hidden_size": 16, "window_size": 14}
        assert (config.downsample_ratio, config.downsample_ratio2, config.ps_version) == (0.25, 8, "v1")
        assert config.tiling == TilingConfig(tile_px=336, min_tiles=2, max_tiles=12, use_thumbnail=False)
        assert (config.template, config.system_message, config.camera_line) == ("phi3-chat", "Drive.", "{camera} <image> ")

    def test_defaults_are_those_of_the_published_code(self) -> None:
        config = leo()
        assert (config.downsample_ratio, config.downsample_ratio2, config.ps_version) == (0.5, 4, "v2")
        assert [expert.select_layer for expert in config.experts] == [-1, -1]
        assert config.tiling == TilingConfig(tile_px=448, min_tiles=1, max_tiles=6, use_thumbnail=True)
        assert config.template == "internlm2-chat"
        assert config.system_message == (
            "You are LEO, a multimodal large language model developed by Waterloo WISE lab. "
            "You are a helpful and harmless AI assistant"
        )
        assert config.image_tokens == ("<img>", "<IMG_CONTEXT>", "</img>")
        assert config.camera_line == CAMERA_LINE

    def test_null_is_as_good_as_absent(self) -> None:
        optional = ("downsample_ratio", "select_layer", "force_image_size", "template", "ps_version", "use_thumbnail")
        assert leo(**dict.fromkeys(optional)) == leo()

    def test_tiles_are_as_large_as_the_first_expert_sees_unless_forced(self) -> None:
        assert leo(vision_config_1={"image_size": 112}).tiling.tile_px == 112
        assert leo(vision_config_1={"image_size": 112}, force_image_size=224).tiling.tile_px == 224

    def test_one_tile_without_dynamic_image_size(self) -> None:
        tiling = leo(dynamic_image_size=False, max_dynamic_patch=6).tiling
        assert (tiling.min_tiles, tiling.max_tiles) == (1, 1)

    def test_unmerged_lora_is_refused(self) -> None:
        assert leo(use_backbone_lora=0, use_llm_lora=0) == leo()
        for name in ("use_backbone_lora", "use_llm_lora"):
            with pytest.raises(CheckpointError, match=f"config.json has {name} = 16: merge the LoRA adapter"):
                leo(**{name: 16})

    @pytest.mark.parametrize("ratio", [0.3, 0, -0.5, 2.5])
    def test_ratio_that_is_not_one_over_a_whole_number(self, ratio: float) -> None:
        with pytest.raises(CheckpointError, match=rf"downsample_ratio must be one over a whole number, got {ratio}"):
            leo(downsample_ratio=ratio)


class TestLeoMini:
    def test_every_field_is_read(self) -> None:
        config = mini(
            vision_configs=[
                {"name": "a", "model_type": "clip_vision_model", "select_layer": -2, "hidden_size": 32},
                {"model_type": "sam_vision_model", "resample": "bilinear", "torch_dtype": "bfloat16"},
            ],
            mmoe_config={"num_experts": 4, "top_k": 2, "rank": 8, "lora_alpha": 16, "router_hidden_size": 24},
            cotr_config={"num_queries": 6, "query_dim": 12, "proj_dim": 10},
            projector_hidden_size=40,
            force_image_size=224,
            image_token="<|image|>",
            system_message="Drive.",
        )
        clip, sam = config.experts
        assert (clip.name, clip.kind, clip.select_layer, clip.settings) == ("a", "clip_vision_model", -2, {"hidden_size": 32})
        assert (sam.name, sam.select_layer, sam.resample, sam.settings) == ("sam_vision_model", -1, "bilinear", {})
        assert config.llm.mmoe == MMoEConfig(num_experts=4, top_k=2, rank=8, lora_alpha=16.0, router_hidden_size=24)
        assert config.cotr == CoTRConfig(num_queries=6, query_dim=12, proj_dim=10)
        assert (config.projector_hidden_size, config.tiling.tile_px) == (40, 224)
        assert (config.image_tokens, config.system_message) == (("", "<|image|>", ""), "Drive.")

    def test_defaults_are_the_papers(self) -> None:
        config = mini()
        assert config.cotr == CoTRConfig(num_queries=64, query_dim=256, proj_dim=256)
        assert config.llm.mmoe is None
        assert (config.template, config.system_message) == ("llama3", LEO_MINI_SYSTEM_MESSAGE)
        assert (config.projector_hidden_size, config.tiling.tile_px) == (None, 336)
        experts = mini(mmoe_config={"rank": 16}).llm.mmoe
        assert experts == MMoEConfig(num_experts=3, top_k=1, rank=16, lora_alpha=16.0, router_hidden_size=256)

    @pytest.mark.parametrize("section", ["mmoe_config", "cotr_config"])
    def test_misspelt_field_of_our_own_sections(self, section: str) -> None:
        with pytest.raises(CheckpointError, match=rf"{section} in config.json has unknown fields \['ranks'\]: expected \["):
            mini(**{section: {"ranks": 1}})

    @pytest.mark.parametrize(
        ("configs", "expected"),
        [
            ([], r"must hold experts with different names, got \[\]"),
            ([{"model_type": "sam"}, {"model_type": "sam"}], r"different names, got \['sam', 'sam'\]"),
            (["clip"], r"vision_configs\[0\] in config.json must be an object, got 'clip'"),
            ([{"name": "clip"}], "has no model_type: expected a str"),
        ],
    )
    def test_experts_that_cannot_be_told_apart(self, configs: list[object], expected: str) -> None:
        with pytest.raises(CheckpointError, match=expected):
            mini(vision_configs=configs)

    @pytest.mark.parametrize("mmoe", [{"top_k": 4, "num_experts": 3}, {"top_k": 0}, {"rank": 0}, {"router_hidden_size": 0}])
    def test_impossible_mixture(self, mmoe: Json) -> None:
        with pytest.raises(CheckpointError, match=r"mmoe_config\."):
            mini(mmoe_config=mmoe)


class TestLlm:
    def test_sizes_have_transformers_names(self) -> None:
        config = llm(head_dim=16, hidden_act="gelu", mlp_bias=True, tie_word_embeddings=True)
        assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers) == (1000, 64, 96, 4)
        assert (config.num_heads, config.num_kv_heads, config.head_dim) == (8, 2, 16)
        assert (config.rms_norm_eps, config.max_position_embeddings, config.activation) == (1e-5, 2048, "gelu")
        assert config.mlp_bias
        assert config.tied

    @pytest.mark.parametrize("absent", ["drop", "null"])
    def test_heads_are_all_kv_heads_and_share_the_width_unless_said(self, absent: str) -> None:
        raw = LLM | {"head_dim": None, "num_key_value_heads": None}
        config = LlmConfig.parse({k: v for k, v in raw.items() if v is not None} if absent == "drop" else raw)
        assert (config.num_kv_heads, config.head_dim) == (8, 8)

    @pytest.mark.parametrize(
        ("architecture", "fields", "qkv", "out"),
        [
            ("LlamaForCausalLM", {}, False, False),
            ("LlamaForCausalLM", {"attention_bias": True}, True, True),
            ("InternLM2ForCausalLM", {"bias": True}, True, True),
            ("InternLM2ForCausalLM", {"bias": False}, False, False),
            ("Qwen2ForCausalLM", {}, True, False),
            ("Phi3ForCausalLM", {}, False, False),
        ],
    )
    def test_attention_biases_by_architecture(self, architecture: str, fields: Json, qkv: bool, out: bool) -> None:
        config = llm(architecture, **fields)
        assert (config.qkv_bias, config.out_bias) == (qkv, out)

    def test_heads_that_do_not_divide(self) -> None:
        with pytest.raises(CheckpointError, match="8 attention heads do not divide into 3 KV heads"):
            llm(num_key_value_heads=3)

    def test_layer_types_of_another_number_of_layers(self) -> None:
        with pytest.raises(CheckpointError, match="layer_types"):
            llm("Qwen2ForCausalLM", sliding_window=9, use_sliding_window=True, layer_types=["full_attention"])


class TestRope:
    def test_before_transformers_5(self) -> None:
        assert llm(rope_theta=1e6).rope == RopeConfig(1e6, "default", {})
        assert llm().rope == RopeConfig(10000.0, "default", {})
        assert llm(rope_scaling=None).rope.kind == "default"
        old = llm(rope_theta=1000000, rope_scaling={"type": "dynamic", "factor": 2.0})
        assert old.rope == RopeConfig(1e6, "dynamic", {"factor": 2.0})

    def test_of_transformers_5(self) -> None:
        new = llm(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0})
        assert new.rope == llm(rope_theta=1e6, rope_scaling={"type": "dynamic", "factor": 2.0}).rope

    def test_llama_3_1(self) -> None:
        scaling = {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        config = llm(rope_theta=5e5, rope_scaling=scaling | {"rope_type": "llama3", "type": "llama3"})
        assert config.rope == RopeConfig(5e5, "llama3", scaling)

    def test_phi_3_calls_longrope_su(self) -> None:
        scaling = {"type": "su", "long_factor": [2.0], "short_factor": [1.0]}
        rope = llm("Phi3ForCausalLM", rope_scaling=scaling, original_max_position_embeddings=1024).rope
        assert rope.kind == "longrope"
        assert rope.parameters == {"long_factor": [2.0], "short_factor": [1.0], "original_max_position_embeddings": 1024}

    def test_partial_rotary_factor_beside_the_scaling(self) -> None:
        assert llm("Phi3ForCausalLM", partial_rotary_factor=0.5).rope.parameters == {"partial_rotary_factor": 0.5}

    def test_unknown_type(self) -> None:
        with pytest.raises(CheckpointError, match="unknown rope_type 'mrope' in llm_config: expected one of default, linear"):
            llm(rope_scaling={"type": "mrope"})


class TestWindows:
    def test_phi_3_has_one_for_all_layers(self) -> None:
        assert llm("Phi3ForCausalLM", sliding_window=9).windows == (9, 9, 9, 9)
        assert llm("Phi3ForCausalLM", sliding_window=None).windows == (None,) * 4

    def test_qwen2_has_them_from_a_layer_on_if_switched_on(self) -> None:
        fields = {"sliding_window": 9, "max_window_layers": 3}
        assert llm("Qwen2ForCausalLM", **fields).windows == (None,) * 4
        assert llm("Qwen2ForCausalLM", use_sliding_window=False, **fields).windows == (None,) * 4
        assert llm("Qwen2ForCausalLM", use_sliding_window=True, **fields).windows == (None, None, None, 9)

    def test_qwen2_layer_types_win(self) -> None:
        kinds = ["sliding_attention", "full_attention"] * 2
        config = llm("Qwen2ForCausalLM", sliding_window=9, use_sliding_window=True, max_window_layers=4, layer_types=kinds)
        assert config.windows == (9, None, 9, None)


def without(name: str) -> Callable[[Json], object]:
    return lambda raw: raw.pop(name)


def with_llm(**fields: object) -> Callable[[Json], object]:
    return lambda raw: raw["llm_config"].update(fields)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without("model_type"), "config.json has no model_type: expected a str"),
        (without("vision_config_1"), "config.json has no vision_config_1: expected a dict"),
        (without("llm_config"), "config.json has no llm_config: expected a dict"),
        (lambda raw: raw["llm_config"].pop("vocab_size"), "llm_config in config.json has no vocab_size"),
        (lambda raw: raw.update(force_image_size="448"), "force_image_size in config.json is '448', expected a int"),
        (lambda raw: raw.update(select_layer=True), "select_layer in config.json is True, expected a int"),
        (lambda raw: raw.update(use_thumbnail=1), "use_thumbnail in config.json is 1, expected a bool"),
        (lambda raw: raw.update(downsample_ratio="half"), "downsample_ratio in config.json is 'half', expected a float"),
        (lambda raw: raw.update(ps_version="v3"), "ps_version must be 'v1' or 'v2', got 'v3'"),
        (lambda raw: raw.update(camera_line="{camera}"), "camera_line in config.json must hold <image> once, got '{camera}'"),
        (lambda raw: raw.update(max_dynamic_patch=0), "the tiling in config.json is not possible: "),
        (with_llm(vocab_size="many"), "vocab_size"),
        (with_llm(rms_norm_eps="small"), "rms_norm_eps"),
        (with_llm(hidden_act="swish2"), "unknown hidden_act 'swish2': expected one of silu, "),
        (with_llm(architectures="InternLM2ForCausalLM"), "unknown llm_config.architectures"),
        (with_llm(architectures=7), "architectures"),
        (with_llm(num_attention_heads=0), "num_attention_heads"),
    ],
)
def test_bad_field_is_named(change: Callable[[Json], object], expected: str) -> None:
    raw = copy.deepcopy(LEO)
    change(raw)
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        parse_config(raw)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_config(preset: str) -> None:
    family = LeoConfig if PRESETS[preset]["model_type"] == "hybrid_chat" else LeoMiniConfig
    assert isinstance(parse_config(PRESETS[preset]), family)


def test_unknown_model_type_says_which_are_known() -> None:
    with pytest.raises(CheckpointError, match=r"unknown model_type 'llava' in config.json: expected 'hybrid_chat' \(LEO\) or "):
        parse_config({"model_type": "llava"})
