"""A decoder-only language model that is InternLM2, Llama, Qwen2 or Phi-3 by configuration, written to be traced.

Shape letters: S new tokens, P past tokens, L = P + S, C cache capacity, H query heads, K key-value heads, G = H / K, E head
width, D hidden width, F feed-forward width, V vocabulary, N layers, R router width, Q rows whose logits are wanted.

One prompt at a time and no batch axis: a vehicle asks one question after another. Two forms of one model:

- plain (opset 20): every operator is plain, the past comes in token-major, [P, K, E], and only the new rows go out; P may be
  more than the tokens that there are (a length bucket, for CUDA graphs): rows from the first new position on are not seen;
- fused (opset 24): RMSNormalization, Attention and TensorScatter; the cache [1, K, C, E] goes in, is updated in place and
  goes out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.modeling import fused_ops
from leo_edge.export.modeling.mmoe import MMoE
from leo_edge.export.modeling.rope import Rope, rotate

Cache = tuple[Tensor, Tensor]  # keys and values of one layer
# A position that no token has: a row of the past that holds none yet.
_NEVER = 1 << 40


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, in float32."""

    def __init__(self, dim: int, eps: float, *, fused: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps, self.fused = eps, fused

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return fused_ops.rms_norm(x, self.weight, self.eps)
        wide = x.to(torch.float32)
        return (wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Causal self-attention with grouped key-value heads."""

    def __init__(self, config: LlmConfig, *, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.fused = fused
        self.q = nn.Linear(config.hidden_size, config.num_heads * config.head_dim, bias=config.qkv_bias)
        self.k = nn.Linear(config.hidden_size, config.num_kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v = nn.Linear(config.hidden_size, config.num_kv_heads * config.head_dim, bias=config.qkv_bias)
        self.out = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=config.out_bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, start: Tensor, mask: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """x [S, D], cos and sin [S, rotary], start [1] -> [S, D] and the cache that goes out.

        `mask` tells what may be seen: plain, a sum term [S, L]; fused, booleans [1, 1, S, C].
        """
        query = rotate(self.q(x).reshape(-1, self.num_heads, self.head_dim), cos, sin)  # [S, H, E]
        key = rotate(self.k(x).reshape(-1, self.num_kv_heads, self.head_dim), cos, sin)  # [S, K, E]
        value = self.v(x).reshape(-1, self.num_kv_heads, self.head_dim)
        if self.fused:
            cache = _scatter(cache[0], key, start), _scatter(cache[1], value, start)
            attended = self._attend_fused(query, cache, mask)
        else:
            attended = self._attend_plain(query, torch.cat([cache[0], key]), torch.cat([cache[1], value]), mask)
            cache = key, value
        return self.out(attended), cache

    def _attend_plain(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """query [S, H, E], keys and values [L, K, E], mask [S, L] -> [S, H * E]: one product per KV head."""
        groups = self.num_heads // self.num_kv_heads
        query = query.reshape(-1, self.num_kv_heads, groups, self.head_dim).permute(1, 2, 0, 3)  # [K, G, S, E]
        query = query.reshape(self.num_kv_heads, -1, self.head_dim) * self.head_dim**-0.5  # [K, G * S, E]
        scores = query @ keys.permute(1, 2, 0)  # [K, G * S, L]
        scores = scores.reshape(self.num_kv_heads, groups, -1, keys.shape[0]) + mask
        weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        weights = weights.reshape(self.num_kv_heads, -1, keys.shape[0])
        attended = weights @ values.permute(1, 0, 2)  # [K, G * S, E]
        attended = attended.reshape(self.num_kv_heads, groups, -1, self.head_dim).permute(2, 0, 1, 3)
        return attended.reshape(-1, self.num_heads * self.head_dim)

    def _attend_fused(self, query: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """query [S, H, E], cache [1, K, C, E], mask [1, 1, S, C] -> [S, H * E]."""
        query = query.permute(1, 0, 2)[None].contiguous()  # [1, H, S, E]
        attended = fused_ops.attention(query, cache[0], cache[1], mask, self.head_dim**-0.5)
        return attended[0].permute(1, 0, 2).reshape(-1, self.num_heads * self.head_dim)


class FeedForward(nn.Module):
    """Gated feed-forward layer; its down projection is an MMoE where the config has one."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        dims, bias = (config.hidden_size, config.intermediate_size), config.mlp_bias
        self.gate = nn.Linear(*dims, bias=bias)
        self.up = nn.Linear(*dims, bias=bias)
        self.down: nn.Linear | MMoE
        if config.mmoe is None:
            self.down = nn.Linear(dims[1], dims[0], bias=bias)
        else:
            self.down = MMoE(dims[1], dims[0], config.mmoe, bias=bias)
        self.activation = ACT2FN[config.activation]

    def forward(self, x: Tensor, routing: tuple[Tensor, Tensor] | None) -> Tensor:
        """x [S, D], routing (context [R], use_special [1]) -> [S, D]."""
        hidden = self.activation(self.gate(x)) * self.up(x)
        if isinstance(self.down, MMoE):
            assert routing is not None
            return self.down(hidden, *routing)
        return self.down(hidden)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, config: LlmConfig, *, fused: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, fused=fused)
        self.attention = Attention(config, fused=fused)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, fused=fused)
        self.mlp = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        start: Tensor,
        mask: Tensor,
        past: Cache,
        routing: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Cache]:
        attended, cache = self.attention(self.attention_norm(x), cos, sin, start, mask, past)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x), routing), cache


class Llm(nn.Module):
    """The decoder without its embedding table, whose rows are looked up on the host."""

    def __init__(self, config: LlmConfig, *, context_len: int, fused: bool) -> None:
        super().__init__()
        self.config, self.fused = config, fused
        self.rope = Rope(config, context_len)
        self.layers = nn.ModuleList(Block(config, fused=fused) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, fused=fused)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        logit_rows: Tensor,
        cache: list[Cache],
        router_context: Tensor | None = None,
        use_special: Tensor | None = None,
    ) -> tuple[Tensor, list[Cache]]:
        """embeds [S, D], positions [S], rows [Q], cache of N layers, router_context [N, R] -> logits [Q, V], float32, cache."""
        cos, sin = (table.to(embeds.dtype) for table in self.rope(positions))
        masks = self.masks(positions, cache[0][0], embeds.dtype)
        hidden, grown = embeds, []
        for i, (layer, past) in enumerate(zip(self.layers, cache, strict=True)):
            routing = None if router_context is None or use_special is None else (router_context[i], use_special)
            mask = masks[self.config.windows[i]]
            hidden, new = layer(hidden, cos, sin, positions[:1], mask, past, routing)
            grown.append(new)
        return self.head(self.norm(hidden.index_select(0, logit_rows))).to(torch.float32), grown

    def masks(self, positions: Tensor, keys: Tensor, dtype: torch.dtype) -> dict[int | None, Tensor]:
        """One mask per window width: a key is seen from its own position on, for as long as the window reaches."""
        slots = torch.arange(keys.shape[2 if self.fused else 0], device=positions.device)
        if not self.fused:
            slots = torch.cat([torch.where(slots < positions[:1], slots, _NEVER), positions])
        masks = {}
        for window in dict.fromkeys(self.config.windows):
            seen = slots[None, :] <= positions[:, None]
            if window is not None:
                seen = seen & (slots[None, :] > positions[:, None] - window)
            # TensorRT's parser wants Attention's mask in four dimensions.
            masks[window] = seen[None, None] if self.fused else torch.where(seen, 0.0, torch.finfo(torch.float16).min).to(dtype)
        return masks


def _scatter(cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    """Writes new [S, K, E] into cache [1, K, C, E] from token `start` [1] on."""
    return fused_ops.scatter_cache(cache, new.permute(1, 0, 2)[None].contiguous(), start)
