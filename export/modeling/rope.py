"""Rotary position embedding (RoFormer, arXiv 2104.09864), in the rotate-half form, with the scalings that transformers has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.weights import Recipe, constant
from leo_edge.runtime.errors import CheckpointError


class Rope(nn.Module):
    """Angles of a position: cos and sin [S, rotary_dim] from positions [S].

    `dynamic` recomputes the frequencies from the length of the sequence so far, as transformers does while it grows; the
    other types are constant tables. LongRoPE takes its long factors where the context is longer than the pretraining
    length, and then for every prompt, as vLLM does: a cache cannot hold keys rotated in two ways.
    """

    inv_freq: Tensor

    def __init__(self, config: LlmConfig, context_len: int) -> None:
        super().__init__()
        try:
            self.table, self.scaling = _frequencies(config, context_len)  # [rotary_dim / 2]
            self.dynamic_factor = float(config.rope.parameters["factor"]) if config.rope.kind == "dynamic" else None
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"llm_config's parameters of {config.rope.kind} RoPE are missing or of the wrong form ({error}): "
                f"got {dict(config.rope.parameters)}"
            ) from None
        self.rotary_dim = 2 * len(self.table)
        self.theta = config.rope.theta
        self.max_positions = config.max_position_embeddings
        self.register_buffer("inv_freq", torch.empty(len(self.table)), persistent=False)

    def recipes(self) -> dict[str, Recipe]:
        """The frequencies are a constant, not a weight."""
        return {"inv_freq": constant(self.table)}

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.to(torch.float32)[:, None] * self._frequencies_at(positions)[None, :]  # [S, rotary_dim / 2]
        angles = torch.cat([angles, angles], dim=-1)
        return torch.cos(angles) * self.scaling, torch.sin(angles) * self.scaling

    def _frequencies_at(self, positions: Tensor) -> Tensor:
        if self.dynamic_factor is None:
            return self.inv_freq
        length = torch.clamp(positions[-1:].to(torch.float32) + 1, min=float(self.max_positions))  # [1]
        stretch = self.dynamic_factor * length / self.max_positions - (self.dynamic_factor - 1)
        # base ** (-2i/d) with base = theta * stretch ** (d / (d - 2)): the table times a power of the stretch
        d = self.rotary_dim
        exponent = torch.log(self.inv_freq) * (d / (d - 2) / math.log(self.theta))
        return self.inv_freq * torch.pow(stretch, exponent)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first rotary_dim channels of each head: x [S, heads, head_dim], cos and sin [S, rotary_dim]."""
    rotary_dim = cos.shape[-1]
    turned, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    half = rotary_dim // 2
    swapped = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = turned * cos[:, None, :] + swapped * sin[:, None, :]
    return turned if rotary_dim == x.shape[-1] else torch.cat([turned, rest], dim=-1)


def _frequencies(config: LlmConfig, context_len: int) -> tuple[Tensor, float]:
    """Returns the inverse frequencies and the factor on cos and sin, from transformers' own functions."""
    rope = config.rope
    if rope.kind in ("default", "dynamic"):
        dim = int(config.head_dim * float(rope.parameters.get("partial_rotary_factor", 1.0)))
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
        return 1.0 / rope.theta**exponents, 1.0
    stand_in = LlamaConfig(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": rope.kind, "rope_theta": rope.theta, **rope.parameters},
    )
    with torch.device("cpu"):
        inv_freq, scaling = ROPE_INIT_FUNCTIONS[rope.kind](stand_in, torch.device("cpu"), seq_len=context_len)
    return inv_freq.to(torch.float32), float(scaling)
