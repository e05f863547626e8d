"""Weights to begin with, and weights as a checkpoint: the same keys both ways.

A training run begins from tensors drawn by key, like those of a random checkpoint, with a few exceptions: LoRA experts begin
as nothing, and CoTR's scores begin small.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from leo_edge.demo.training.student import Student
from leo_edge.export.checkpoint import SINGLE_NAME
from leo_edge.export.config import LeoMiniConfig
from leo_edge.export.llm_config import MMoEConfig
from leo_edge.export.modeling.experts import build_expert
from leo_edge.export.modeling.mmoe import MMoE
from leo_edge.export.random_checkpoint import random_tensor
from leo_edge.export.stages import expected_tensors
from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.new_directory import new_directory

Tensors = Mapping[str, Tensor]

# ConvNeXt's own 1e-6 is for networks many times as deep.
_LAYER_SCALE = 0.3


class FirstWeights:
    """Initial tensors of a config by key, the same for the same seed."""

    def __init__(self, config: LeoMiniConfig, seed: int) -> None:
        self._shapes, self._seed = expected_tensors(config), seed
        with torch.device("meta"):
            tokens = sum(build_expert(expert).spec.num_tokens for expert in config.experts)
        self._cotr_scale = (tokens * config.tiling.max_tiles) ** -0.5

    def read(self, key: str) -> Tensor:
        """Returns the tensor of a key."""
        shape = self._shapes[key]
        if key.endswith("layer_scale_parameter"):
            return torch.full(shape, _LAYER_SCALE)
        if key.endswith("lora_B.weight"):
            return torch.zeros(shape)
        if len(shape) == 1 and not key.endswith(".weight"):
            return torch.zeros(shape)
        if len(shape) == 1:
            return torch.ones(shape)
        value = random_tensor(key, shape, self._seed)
        if "rel_pos" in key or "pos" in key.rsplit(".", 1)[-1] or "position_embedding" in key:
            return value * 0.02 * shape[-1] ** 0.5
        if key == "language_model.model.embed_tokens.weight":
            return value * 0.5
        if key.startswith("cotr.token_proj"):
            return value * self._cotr_scale
        if key.startswith("cotr.query_proj"):
            return value / self._cotr_scale
        if key.startswith("cotr.text_proj"):
            return value / self._cotr_scale / 8
        return value


class GivenWeights:
    """Tensors that are in memory, read by key: those of some `given`, the rest from `otherwise`."""

    def __init__(self, given: Tensors, otherwise: FirstWeights | None = None) -> None:
        self._given, self._otherwise = given, otherwise

    def read(self, key: str) -> Tensor:
        """Returns the tensor of a key."""
        if key in self._given or self._otherwise is None:
            return self._given[key]
        return self._otherwise.read(key)


def checkpoint_tensors(student: Student) -> dict[str, Tensor]:
    """Returns the weights under the keys of a checkpoint (docs/checkpoints.md)."""
    student.checkpoint_modules()
    try:
        tensors = dict(_language_model(student))
        for name, encoder in student.encoders.items():
            own = encoder.expert.model.named_parameters()  # type: ignore[union-attr]
            tensors |= {f"vision_experts.{name}.{key}": value for key, value in own}
        tensors |= dict(student.fusion.named_parameters())
        return {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    finally:
        student.training_modules()


def write_checkpoint(directory: Path, raw: Mapping[str, Any], tokenizer_json: str, tensors: Tensors) -> None:
    """Writes config.json, tokenizer.json and float16 weights, whole or absent.

    Raises:
        BundleError: something is already at `directory`.
    """
    with new_directory(directory, BundleError) as temporary:
        (temporary / "config.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        (temporary / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        halves = {key: value.to(torch.float16) for key, value in tensors.items()}
        save_file(halves, temporary / SINGLE_NAME, metadata={"format": "pt"})
        (temporary / SINGLE_NAME).chmod(0o644)


def _language_model(student: Student) -> dict[str, Tensor]:
    """Llama's own names, and ours for MMoE."""
    llm, top = student.llm, "language_model."
    made = {
        f"{top}model.embed_tokens.weight": student.table,
        f"{top}model.norm.weight": llm.norm.weight,
        f"{top}lm_head.weight": llm.head.weight,
    }
    for i, layer in enumerate(llm.layers):
        prefix = f"{top}model.layers.{i}."
        made[f"{prefix}input_layernorm.weight"] = layer.attention_norm.weight  # type: ignore[assignment, union-attr]
        made[f"{prefix}post_attention_layernorm.weight"] = layer.mlp_norm.weight  # type: ignore[assignment, union-attr]
        attention, mlp = layer.attention, layer.mlp
        for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj")):
            made[f"{prefix}self_attn.{theirs}.weight"] = getattr(attention, ours).weight
        made[f"{prefix}mlp.gate_proj.weight"] = mlp.gate.weight  # type: ignore[union-attr, assignment]
        made[f"{prefix}mlp.up_proj.weight"] = mlp.up.weight  # type: ignore[union-attr, assignment]
        down = mlp.down  # type: ignore[union-attr]
        if isinstance(down, MMoE):
            assert student.router is not None
            made[f"{prefix}mlp.down_proj.weight"] = down.down.weight
            made |= {f"{prefix}mlp.mmoe.{key}": value for key, value in _mmoe(student, down, down.config, i).items()}
        else:
            made[f"{prefix}mlp.down_proj.weight"] = down.weight  # type: ignore[assignment, union-attr]
    return made


def _mmoe(student: Student, mmoe: MMoE, config: MMoEConfig, layer: int) -> dict[str, Tensor]:
    """Splits the stacked LoRA experts, and joins the router's first layer from its three parts."""
    assert student.router is not None
    names = ["general", *(f"experts.{e}" for e in range(config.num_experts))]
    rows = slice(layer * config.router_hidden_size, (layer + 1) * config.router_hidden_size)
    made = {
        "router.0.weight": torch.cat(
            [student.router.visual.weight[rows], student.router.text.weight[rows], mmoe.router_in.weight], dim=1
        ),
        "router.0.bias": student.router.text.bias[rows],
        "router.2.weight": mmoe.router_out.weight,
        "router.2.bias": mmoe.router_out.bias,
    }
    for i, name in enumerate(names):
        part = slice(i * config.rank, (i + 1) * config.rank)
        made[f"{name}.lora_A.weight"] = mmoe.lora_a.weight[part]
        made[f"{name}.lora_B.weight"] = mmoe.lora_b.weight[:, part]
    return made
