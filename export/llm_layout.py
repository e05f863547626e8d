"""Where a checkpoint keeps the language model: key names by architecture, fused projections, MMoE.

Shape letters as in modeling/llm.py; R router width, r LoRA rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leo_edge.export.llm_config import LlmConfig, MMoEConfig
from leo_edge.export.modeling.llm import Llm
from leo_edge.export.weights import Recipe, Recipes, Shape, Source, renamed, rows


@dataclass(frozen=True)
class Names:
    """Key names of one family, `{i}` being the layer."""

    embedding: str = "model.embed_tokens.weight"
    norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    attention: str = "model.layers.{i}.self_attn."
    mlp: str = "model.layers.{i}.mlp."
    attention_norm: str = "model.layers.{i}.input_layernorm.weight"
    mlp_norm: str = "model.layers.{i}.post_attention_layernorm.weight"
    out: str = "o_proj"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


_INTERNLM2 = Names(
    embedding="model.tok_embeddings.weight",
    head="output.weight",
    attention="model.layers.{i}.attention.",
    mlp="model.layers.{i}.feed_forward.",
    attention_norm="model.layers.{i}.attention_norm.weight",
    mlp_norm="model.layers.{i}.ffn_norm.weight",
    out="wo",
    gate="w1",
    up="w3",
    down="w2",
)


def llm_names(config: LlmConfig) -> Names:
    """Returns the key names of the config's architecture."""
    return _INTERNLM2 if config.architecture == "InternLM2ForCausalLM" else Names()


def embedding_recipe(config: LlmConfig, prefix: str) -> Recipe:
    """The token embedding table [V, D]."""
    return renamed(prefix + llm_names(config).embedding, (config.vocab_size, config.hidden_size))


def llm_recipes(llm: Llm, prefix: str) -> Recipes:
    """How each parameter of `Llm` is made from the tensors under `prefix`."""
    config, names = llm.config, llm_names(llm.config)
    head = embedding_recipe(config, prefix) if config.tied else renamed(prefix + names.head, llm.head.weight.shape)
    made: Recipes = {
        "norm.weight": renamed(prefix + names.norm, (config.hidden_size,)),
        "head.weight": head,
    }
    made |= {f"rope.{name}": recipe for name, recipe in llm.rope.recipes().items()}
    for i in range(config.num_layers):
        layer = {
            "attention_norm.weight": renamed(prefix + names.attention_norm.format(i=i), (config.hidden_size,)),
            "mlp_norm.weight": renamed(prefix + names.mlp_norm.format(i=i), (config.hidden_size,)),
            **_attention(config, names, prefix + names.attention.format(i=i)),
            **_mlp(config, names, prefix + names.mlp.format(i=i)),
        }
        made |= {f"layers.{i}.{name}": recipe for name, recipe in layer.items()}
    return made


def router_recipes(config: LlmConfig, prefix: str) -> Recipes:
    """How `RouterContext` is made: the visual and text columns of every layer's first router layer, stacked [N R, D]."""
    assert config.mmoe is not None
    keys = [f"{prefix}{llm_names(config).mlp.format(i=i)}mmoe.router.0." for i in range(config.num_layers)]
    dim, stored = config.hidden_size, _router_shape(config, config.mmoe)
    weights = tuple(Source(key + "weight", stored) for key in keys)
    biases = tuple(Source(key + "bias", stored[:1]) for key in keys)
    width = config.num_layers * config.mmoe.router_hidden_size
    return {
        "visual.weight": Recipe((width, dim), weights, lambda *w: torch.cat([x[:, :dim] for x in w])),
        "text.weight": Recipe((width, dim), weights, lambda *w: torch.cat([x[:, dim : 2 * dim] for x in w])),
        "text.bias": Recipe((width,), biases, lambda *b: torch.cat(b)),
    }


def _attention(config: LlmConfig, names: Names, prefix: str) -> Recipes:
    """Recipes of q, k, v and out of one layer."""
    d, e = config.hidden_size, config.head_dim
    q_rows, kv_rows = config.num_heads * e, config.num_kv_heads * e
    made = _linear("attention.out", f"{prefix}{names.out}", (d, q_rows), bias=config.out_bias)
    for leaf, tail in [("weight", (d,))] + ([("bias", ())] if config.qkv_bias else []):
        stored: Shape = (q_rows + 2 * kv_rows, *tail)
        if config.architecture == "InternLM2ForCausalLM":
            parts = [_grouped_rows(config, f"{prefix}wqkv.{leaf}", stored, part) for part in "qkv"]
        elif config.architecture == "Phi3ForCausalLM":
            bounds = [0, q_rows, q_rows + kv_rows, q_rows + 2 * kv_rows]
            parts = [rows(f"{prefix}qkv_proj.{leaf}", stored, bounds[n], bounds[n + 1]) for n in range(3)]
        else:
            shapes = [(q_rows, *tail), (kv_rows, *tail), (kv_rows, *tail)]
            parts = [renamed(f"{prefix}{part}_proj.{leaf}", shape) for part, shape in zip("qkv", shapes, strict=True)]
        made |= {f"attention.{part}.{leaf}": recipe for part, recipe in zip("qkv", parts, strict=True)}
    return made


def _grouped_rows(config: LlmConfig, key: str, stored: Shape, part: str) -> Recipe:
    """Rows of q, k or v in InternLM2's wqkv: per KV head its G query heads, then its key head, then its value head."""
    groups = config.num_heads // config.num_kv_heads
    heads = {"q": slice(0, groups), "k": slice(groups, groups + 1), "v": slice(groups + 1, groups + 2)}[part]

    def pick(wqkv: Tensor) -> Tensor:
        grouped = wqkv.reshape(config.num_kv_heads, groups + 2, config.head_dim, *wqkv.shape[1:])
        return grouped[:, heads].reshape(-1, *wqkv.shape[1:])

    count = (groups if part == "q" else 1) * config.num_kv_heads * config.head_dim
    return Recipe((count, *stored[1:]), (Source(key, stored),), pick)


def _mlp(config: LlmConfig, names: Names, prefix: str) -> Recipes:
    """Recipes of gate, up and down of one layer."""
    d, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
    down = "mlp.down" if config.mmoe is None else "mlp.down.down"
    made = _linear(down, f"{prefix}{names.down}", (d, f), bias=bias)
    if config.architecture == "Phi3ForCausalLM":
        fused = f"{prefix}gate_up_proj.weight"
        made |= {"mlp.gate.weight": rows(fused, (2 * f, d), 0, f), "mlp.up.weight": rows(fused, (2 * f, d), f, 2 * f)}
    else:
        made |= _linear("mlp.gate", f"{prefix}{names.gate}", (f, d), bias=bias)
        made |= _linear("mlp.up", f"{prefix}{names.up}", (f, d), bias=bias)
    if config.mmoe is not None:
        made |= {f"mlp.down.{name}": recipe for name, recipe in _mmoe(config, config.mmoe, f"{prefix}mmoe.").items()}
    return made


def _mmoe(config: LlmConfig, mmoe: MMoEConfig, prefix: str) -> Recipes:
    """Recipes of one layer's LoRA experts, stacked with the general one first, and of the router's part that sees x."""
    d, f = config.hidden_size, config.intermediate_size
    experts = [f"{prefix}general."] + [f"{prefix}experts.{e}." for e in range(mmoe.num_experts)]
    width = mmoe.rank * len(experts)
    return {
        "lora_a.weight": Recipe(
            (width, f),
            tuple(Source(f"{key}lora_A.weight", (mmoe.rank, f)) for key in experts),
            lambda *parts: torch.cat(parts),
        ),
        "lora_b.weight": Recipe(
            (d, width),
            tuple(Source(f"{key}lora_B.weight", (d, mmoe.rank)) for key in experts),
            lambda *parts: torch.cat(parts, dim=1),
        ),
        "router_in.weight": Recipe(
            (mmoe.router_hidden_size, f),
            (Source(f"{prefix}router.0.weight", _router_shape(config, mmoe)),),
            lambda weight: weight[:, 2 * d :],
        ),
        **_linear("router_out", f"{prefix}router.2", (mmoe.num_experts, mmoe.router_hidden_size), bias=True),
    }


def _router_shape(config: LlmConfig, mmoe: MMoEConfig) -> Shape:
    """Shape of a router's first layer, whose columns are the visual mean, the text mean and x, in this order."""
    return mmoe.router_hidden_size, 2 * config.hidden_size + config.intermediate_size


def _linear(name: str, key: str, shape: Shape, *, bias: bool) -> Recipes:
    made = {f"{name}.weight": renamed(f"{key}.weight", shape)}
    return made | {f"{name}.bias": renamed(f"{key}.bias", shape[:1])} if bias else made
