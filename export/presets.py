"""Configs to make random checkpoints of: tiny ones with the real architecture, and the papers' full sizes."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_INTERNVIT_300M: Json = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "patch_size": 14,
    "image_size": 448,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "qk_normalization": False,
}
_SAM_L: Json = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_dim": 4096,
    "patch_size": 16,
    "image_size": 1024,
    "window_size": 14,
    "global_attn_indexes": [5, 11, 17, 23],
    "output_channels": 256,
    "qkv_bias": True,
    "use_rel_pos": True,
    "use_abs_pos": True,
}
_CLIP_L_336: Json = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "patch_size": 14,
    "image_size": 336,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "select_layer": -2,
}
_INTERNLM2_7B: Json = {
    "architectures": ["InternLM2ForCausalLM"],
    "vocab_size": 92553,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "bias": False,
}
_LLAMA3_8B: Json = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}


def _tiny_sam(image_px: int) -> Json:
    """One windowed and one global layer, with windows that do not divide the map, as in the full size."""
    return _SAM_L | {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "mlp_dim": 128,
        "image_size": image_px,
        "window_size": 5,
        "global_attn_indexes": [1],
        "output_channels": 32,
    }


def _tiny_vit(base: Json, image_px: int) -> Json:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    return base | sizes | {"image_size": image_px}


_TINY_LLM: Json = {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 4096,
}

_LEO: Json = {
    "model_type": "hybrid_chat",
    "downsample_ratio": 0.5,
    "downsample_ratio2": 4,
    "select_layer": -1,
    "template": "internlm2-chat",
    "ps_version": "v2",
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 6,
    "use_thumbnail": True,
}
_LEO_MINI: Json = {
    "model_type": "leo_mini",
    "mmoe_config": {"num_experts": 3, "top_k": 1, "rank": 16, "lora_alpha": 16.0, "router_hidden_size": 256},
    "cotr_config": {"num_queries": 64, "query_dim": 256, "proj_dim": 256},
    "force_image_size": 448,
    "template": "llama3",
    "max_dynamic_patch": 2,
    "use_thumbnail": False,
    "torch_dtype": "bfloat16",
}
_CLIP: Json = {"name": "clip", "model_type": "clip_vision_model"}
_SAM: Json = {"name": "sam", "model_type": "sam_vision_model"}
_INTERNVIT: Json = {"name": "internvit", "model_type": "intern_vit_6b"}

PRESETS: dict[str, Json] = {
    "leo-tiny": _LEO
    | {
        "vision_config_1": _tiny_vit(_INTERNVIT_300M, 112),
        "vision_config_2": _tiny_sam(256),
        "llm_config": _INTERNLM2_7B | _TINY_LLM,
        "force_image_size": 112,
    },
    "leo-7b": _LEO
    | {
        "vision_config_1": _INTERNVIT_300M,
        "vision_config_2": _SAM_L,
        "llm_config": _INTERNLM2_7B,
        "force_image_size": 448,
        "torch_dtype": "bfloat16",
    },
    "leo-mini-tiny": _LEO_MINI
    | {
        "vision_configs": [_CLIP | _tiny_vit(_CLIP_L_336, 112), _SAM | _tiny_sam(256)],
        "llm_config": _LLAMA3_8B | _TINY_LLM,
        "mmoe_config": {"num_experts": 3, "top_k": 1, "rank": 4, "lora_alpha": 4.0, "router_hidden_size": 32},
        "cotr_config": {"num_queries": 16, "query_dim": 32, "proj_dim": 32},
        "force_image_size": 112,
        "max_dynamic_patch": 6,
        "use_thumbnail": True,
        "torch_dtype": "float32",
    },
    "leo-mini-0.5b": _LEO_MINI
    | {
        "vision_configs": [_INTERNVIT | _INTERNVIT_300M, _CLIP | _CLIP_L_336],
        "llm_config": _LLAMA3_8B
        | {
            "vocab_size": 32000,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "intermediate_size": 4096,
        },
    },
    "leo-mini-8b": _LEO_MINI
    | {
        "vision_configs": [_CLIP | _CLIP_L_336, _INTERNVIT | _INTERNVIT_300M, _SAM | _SAM_L],
        "llm_config": _LLAMA3_8B,
    },
}
