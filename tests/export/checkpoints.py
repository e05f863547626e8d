"""Small LEO and LEO-MINI checkpoints: transformers' modules with random weights, stored under the keys of the published layout.

What a checkpoint is made of stays at hand as modules and tensors, so that a test can compose them by itself and compare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    InternVLVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SamVisionConfig,
)
from transformers.models.internvl.modeling_internvl import InternVLVisionModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from leo_edge.export.byte_tokenizer import byte_tokenizer
from leo_edge.export.config import parse_config

Json = dict[str, Any]
Tensors = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)

TILE_PX, VOCAB_SIZE = 64, 320

VIT: Json = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": 8,
    "image_size": TILE_PX,
    "layer_norm_eps": 1e-6,
}
# Its input is larger than a tile, as in LEO. One windowed and one global layer; windows of 5 do not divide the map of 16 x 16.
SAM: Json = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "mlp_dim": 48,
    "patch_size": 8,
    "image_size": 2 * TILE_PX,
    "window_size": 5,
    "global_attn_indexes": [1],
    "output_channels": 8,
}
CLIP: Json = VIT | {"num_hidden_layers": 3, "patch_size": 16, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"}
CONVNEXT: Json = {"image_size": TILE_PX, "patch_size": 4, "num_stages": 3, "hidden_sizes": [16, 24, 32], "depths": [1, 2, 1]}
LLM: Json = {
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE: Json = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DYNAMIC_ROPE: Json = {"rope_type": "dynamic", "rope_theta": 1000000.0, "factor": 2.0}
# InternLM2 is a Llama but for its names, and for q, k and v in one matrix; transformers has no class for it.
LLMS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "InternLM2ForCausalLM": (LlamaConfig, LlamaForCausalLM),
    "LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM),
    "Qwen2ForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
    "Phi3ForCausalLM": (Phi3Config, Phi3ForCausalLM),
}

# Parts of names that differ: transformers' and the published checkpoints'.
INTERNVIT_NAMES = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_": "ls",
}
INTERNLM2_NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


@dataclass(frozen=True)
class TensorDict:
    """Tensors by key, read as a checkpoint is."""

    tensors: Mapping[str, Tensor]

    def read(self, key: str) -> Tensor:
        """Returns the tensor stored under `key`."""
        return self.tensors[key]


@dataclass(frozen=True)
class LeoModel:
    """The parts of a LEO checkpoint, and its config.json."""

    vit: InternVLVisionModel
    sam: SamVisionEncoder
    mlp1: nn.Sequential
    mlp2: nn.Sequential
    llm: PreTrainedModel
    config: Json

    def tensors(self) -> Tensors:
        """The weights under LEO's keys."""
        return (
            internvit_tensors(self.vit, "vision_model_1.")
            | prefixed(self.sam, "vision_model_2.")
            | prefixed(self.mlp1, "mlp1.")
            | prefixed(self.mlp2, "mlp2.")
            | llm_tensors(self.llm, self.config["llm_config"]["architectures"][0])
        )


@dataclass(frozen=True)
class LeoMiniModel:
    """The parts of a LEO-MINI checkpoint, and its config.json. `own` are CoTR, projector and MMoE under their keys."""

    clip: CLIPVisionModel
    sam: SamVisionEncoder
    llm: PreTrainedModel
    own: Tensors
    config: Json

    def tensors(self) -> Tensors:
        """The weights under LEO-MINI's keys."""
        experts = prefixed(self.clip, "vision_experts.clip.") | prefixed(self.sam, "vision_experts.sam.")
        return experts | llm_tensors(self.llm, "LlamaForCausalLM") | self.own


def build_leo(architecture: str, *, seed: int = 0, **llm_settings: Any) -> LeoModel:
    """Builds LEO around a small language model of the given architecture, with `llm_settings` on top."""
    generator = torch.Generator().manual_seed(seed)
    dim = LLM["hidden_size"]
    vit = build_vit(generator)
    sam = build_sam(SAM, generator)
    llm = build_llm(architecture, generator, **llm_settings)
    config: Json = {
        "model_type": "hybrid_chat",
        "vision_config_1": VIT | {"qkv_bias": True, "qk_normalization": False},
        "vision_config_2": SAM,
        "llm_config": llm_config(llm, architecture),
        "downsample_ratio": 0.5,
        "downsample_ratio2": 4,
        "select_layer": -1,
        "force_image_size": TILE_PX,
        "template": "internlm2-chat",
        "ps_version": "v2",
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 6,
        "use_thumbnail": True,
    }
    mlp1 = randomize(_leo_projector(4 * VIT["hidden_size"], dim), generator)
    mlp2 = randomize(_leo_projector(16 * SAM["output_channels"], dim), generator)
    return LeoModel(vit, sam, mlp1, mlp2, llm, config)


def build_leo_mini(*, seed: int = 0, top_k: int = 1) -> LeoMiniModel:
    """Builds LEO-MINI with CLIP and SAM as experts and a Llama whose down projections become MMoE layers."""
    generator = torch.Generator().manual_seed(seed)
    sam_settings = SAM | {"image_size": TILE_PX}
    clip, sam = build_clip(generator), build_sam(sam_settings, generator)
    llm = build_llm("LlamaForCausalLM", generator)
    config: Json = {
        "model_type": "leo_mini",
        "vision_configs": [
            {"name": "clip", "model_type": "clip_vision_model", "select_layer": -2, **CLIP},
            {"name": "sam", "model_type": "sam_vision_model", **sam_settings},
        ],
        "llm_config": llm_config(llm, "LlamaForCausalLM"),
        "mmoe_config": {"num_experts": 3, "top_k": top_k, "rank": 4, "lora_alpha": 6.0, "router_hidden_size": 24},
        "cotr_config": {"num_queries": 6, "query_dim": 12, "proj_dim": 10},
        "projector_hidden_size": 40,
        "force_image_size": TILE_PX,
        "template": "llama3",
        "max_dynamic_patch": 6,
        "use_thumbnail": True,
    }
    own = draw_all(_leo_mini_shapes(config), generator)
    for name in [name for name in own if name.startswith("cotr.") and "_proj." in name]:
        own[name] *= 0.1  # scores are sums over hundreds of tokens: without this every softmax would pick one token
    return LeoMiniModel(clip, sam, llm, own, config)


def build_vit(generator: torch.Generator, **settings: Any) -> InternVLVisionModel:
    """Builds a small InternViT with random weights."""
    settings = {"attention_bias": True, "use_mean_pooling": True} | settings
    return randomize(InternVLVisionModel(InternVLVisionConfig(**VIT, **settings)), generator)


def build_sam(settings: Json, generator: torch.Generator) -> SamVisionEncoder:
    """Builds a small SAM image encoder with random weights."""
    return randomize(SamVisionEncoder(SamVisionConfig(**settings)), generator)


def build_clip(generator: torch.Generator) -> CLIPVisionModel:
    """Builds a small CLIP vision transformer with random weights."""
    return randomize(CLIPVisionModel(CLIPVisionConfig(**CLIP)), generator)


def build_convnext(generator: torch.Generator) -> ConvNextModel:
    """Builds a small ConvNeXt with random weights."""
    return randomize(ConvNextModel(ConvNextConfig(**CONVNEXT)), generator)


def build_llm(architecture: str, generator: torch.Generator, **settings: Any) -> PreTrainedModel:
    """Builds a small language model with random weights."""
    config_type, model_type = LLMS[architecture]
    return randomize(model_type(config_type(**(LLM | settings))), generator)


def randomize(module: M, generator: torch.Generator) -> M:
    """Draws all parameters anew, for inference."""
    for name, parameter in module.named_parameters():
        parameter.data = draw(name, tuple(parameter.shape), generator)
        parameter.requires_grad = False
    nn.Module.eval(module)
    return module


def draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws one tensor: biases around 0, norms and layer scales around 1, matrices that keep their input's size.

    A language model's attention is twice as sharp, so that answers vary. Larger embeddings would, tied to the head, make
    each token repeat itself.
    """
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.1 * noise + (0.0 if name.endswith("bias") else 1.0)
    if "embed_tokens" in name:
        return 0.2 * noise
    gain = 2.0 if name.startswith("model.layers.") and "self_attn" in name else 1.0
    return gain * noise / math.sqrt(math.prod(shape[1:])) if name.endswith("weight") else 0.5 * noise


def draw_all(shapes: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> Tensors:
    """Draws tensors by name."""
    return {name: draw(name, shape, generator) for name, shape in shapes.items()}


def prefixed(module: nn.Module, prefix: str) -> Tensors:
    """Returns a module's parameters under transformers' own names behind a prefix."""
    return {prefix + name: parameter.detach() for name, parameter in module.named_parameters()}


def llm_config(llm: PreTrainedModel, architecture: str) -> Json:
    """Returns the `llm_config` of a checkpoint that holds this language model."""
    raw: Json = llm.config.to_dict() | {"architectures": [architecture]}
    if architecture == "InternLM2ForCausalLM":
        del raw["mlp_bias"]
        raw["bias"] = raw.pop("attention_bias")
    return raw


def llm_tensors(llm: PreTrainedModel, architecture: str) -> Tensors:
    """Returns a language model's weights; a tied head, which is the embedding table, is not among them."""
    tensors = prefixed(llm, "language_model.")
    return internlm2_tensors(tensors, llm.config) if architecture == "InternLM2ForCausalLM" else tensors


def internlm2_tensors(llama: Tensors, config: PreTrainedConfig) -> Tensors:
    """Returns a Llama's weights under InternLM2's names, with q, k and v grouped by KV head in wqkv."""
    made: Tensors = {}
    for key, tensor in llama.items():
        if "q_proj" in key:
            query, key_rows, value = (llama[key.replace("q_proj", f"{part}_proj")] for part in "qkv")
            made[key.replace("self_attn.q_proj", "attention.wqkv")] = _grouped(query, key_rows, value, config.head_dim)
        elif "k_proj" not in key and "v_proj" not in key:
            made[_renamed(key, INTERNLM2_NAMES)] = tensor
    return made


def internvit_tensors(vit: InternVLVisionModel, prefix: str) -> Tensors:
    """Returns InternViT's weights under the names of LEO's checkpoints, where q, k and v are one matrix."""
    tensors = prefixed(vit, prefix)
    made: Tensors = {}
    for key, tensor in tensors.items():
        if "q_proj" in key:
            parts = [tensors[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            made[_renamed(key.replace("attention.q_proj", "attn.qkv"), INTERNVIT_NAMES)] = torch.cat(parts)
        elif "k_proj" not in key and "v_proj" not in key:
            made[_renamed(key, INTERNVIT_NAMES)] = tensor
    return made


def write_checkpoint(directory: Path, config: Json, tensors: Tensors, *, num_shards: int = 1) -> Path:
    """Writes config.json, tokenizer.json and the weights, in one file or in shards with an index. Returns `directory`."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    byte_tokenizer(parse_config(config)).save(str(directory / "tokenizer.json"))
    if num_shards == 1:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, directory / "model.safetensors")
        return directory
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        keys = sorted(tensors)[shard::num_shards]
        save_file({key: tensors[key].contiguous() for key in keys}, directory / name)
        weight_map |= dict.fromkeys(keys, name)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return directory


def mmoe_shapes(llm: Json, mmoe: Json) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of every layer's MMoE tensors by key."""
    dim, width = llm["hidden_size"], llm["intermediate_size"]
    rank, hidden = mmoe["rank"], mmoe["router_hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(llm["num_hidden_layers"]):
        prefix = f"language_model.model.layers.{layer}.mlp.mmoe."
        for expert in ["general", *(f"experts.{e}" for e in range(mmoe["num_experts"]))]:
            shapes[f"{prefix}{expert}.lora_A.weight"] = (rank, width)
            shapes[f"{prefix}{expert}.lora_B.weight"] = (dim, rank)
        shapes[f"{prefix}router.0.weight"] = (hidden, 2 * dim + width)
        shapes[f"{prefix}router.0.bias"] = (hidden,)
        shapes[f"{prefix}router.2.weight"] = (mmoe["num_experts"], hidden)
        shapes[f"{prefix}router.2.bias"] = (mmoe["num_experts"],)
    return shapes


def _grouped(query: Tensor, key: Tensor, value: Tensor, head_dim: int) -> Tensor:
    """Rows of q, k and v in wqkv's order: for each KV head its query heads, then its key head, then its value head."""
    queries, keys, values = (torch.split(rows, head_dim) for rows in (query, key, value))
    count = len(queries) // len(keys)
    made: list[Tensor] = []
    for group in range(len(keys)):
        made += [*queries[group * count : (group + 1) * count], keys[group], values[group]]
    return torch.cat(made)


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for theirs, published in names.items():
        key = key.replace(theirs, published)
    return key


def _leo_mini_shapes(config: Json) -> dict[str, tuple[int, ...]]:
    cotr, dim = config["cotr_config"], config["llm_config"]["hidden_size"]
    widths = (CLIP["hidden_size"], SAM["output_channels"])
    shapes: dict[str, tuple[int, ...]] = {}
    for i, width in enumerate(widths):
        shapes[f"cotr.queries.{i}"] = (cotr["num_queries"], cotr["query_dim"])
        shapes |= _linear(f"cotr.query_proj.{i}", cotr["query_dim"], cotr["proj_dim"])
        shapes |= _linear(f"cotr.token_proj.{i}", width, cotr["proj_dim"])
    shapes |= _linear("cotr.text_proj", dim, cotr["proj_dim"])
    shapes |= _linear("projector.0", sum(widths), config["projector_hidden_size"])
    shapes |= _linear("projector.2", config["projector_hidden_size"], dim)
    return shapes | mmoe_shapes(config["llm_config"], config["mmoe_config"])


def _linear(name: str, in_dim: int, out_dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def _leo_projector(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))
