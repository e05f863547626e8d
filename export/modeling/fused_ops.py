"""Operators of ONNX opset 23 and 24 that torch has no equal of, as torch operators: they trace on any device and also run.

https://onnx.ai/onnx/operators/ (RMSNormalization, Attention, TensorScatter)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript.onnx_opset import opset24 as op
from torch import Tensor


@torch.library.custom_op("leo_edge::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation over the last axis, in float32: x [S, D], weight [D] -> [S, D]."""
    wide = x.to(torch.float32)
    return (wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)).to(x.dtype) * weight


@torch.library.custom_op("leo_edge::attention", mutates_args=())
def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention with grouped heads.

    query [1, H, S, E], keys and values [1, K, C, E], mask [1, 1, S, C] bool -> [1, H, S, E].
    """
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    scores = (query @ keys.transpose(2, 3) * scale).to(torch.float32).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1).to(values.dtype) @ values


@torch.library.custom_op("leo_edge::scatter_cache", mutates_args=())
def scatter_cache(cache: Tensor, update: Tensor, start: Tensor) -> Tensor:
    """Writes update [1, K, S, E] into cache [1, K, C, E] from token `start` [1] on, and returns the whole."""
    written = cache.clone()
    first = int(start)
    written[:, :, first : first + update.shape[2]] = update
    return written


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@attention.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    return torch.empty_like(query)


@scatter_cache.register_fake
def _(cache: Tensor, update: Tensor, start: Tensor) -> Tensor:
    return torch.empty_like(cache)


def translations() -> dict[Any, Callable[..., Any]]:
    """How torch's exporter writes these operators."""
    return {
        torch.ops.leo_edge.rms_norm.default: lambda x, weight, eps: op.RMSNormalization(x, weight, axis=-1, epsilon=eps),
        torch.ops.leo_edge.attention.default: lambda query, keys, values, mask, scale: op.Attention(
            query, keys, values, mask, is_causal=0, scale=scale
        )[0],
        torch.ops.leo_edge.scatter_cache.default: lambda cache, update, start: op.TensorScatter(cache, update, start, axis=-2),
    }
