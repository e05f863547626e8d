"""MMoE: the mixture of LoRA experts that takes the place of a down projection (LEO-MINI, arXiv 2504.04653, section 3.3).

Shape letters: S tokens, F its input width, D its output width, E special experts, r rank, R router width, N layers, M visual
tokens, T text tokens.

The E + 1 LoRA experts are one [F, r (E + 1)] and one [r (E + 1), D] matrix with a gate per token between them: no branch and
no gather. Of the router's first layer, the part that sees the prompt's visual and text means is the same for every token of
an answer, so it is a graph of its own (`RouterContext`), run once per question.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.export.llm_config import LlmConfig, MMoEConfig


class MMoE(nn.Module):
    """Equations (8) and (9): y = down(x) + general(x) + (1/k) * sum of the top-k special experts of x.

    Selection needs no softmax, which keeps the order of the router's scores.
    """

    def __init__(self, in_dim: int, out_dim: int, config: MMoEConfig, *, bias: bool) -> None:
        super().__init__()
        self.config = config
        width = config.rank * (config.num_experts + 1)
        self.down = nn.Linear(in_dim, out_dim, bias=bias)
        self.lora_a = nn.Linear(in_dim, width, bias=False)  # the general expert's rows first
        self.lora_b = nn.Linear(width, out_dim, bias=False)
        self.router_in = nn.Linear(in_dim, config.router_hidden_size, bias=False)
        self.router_out = nn.Linear(config.router_hidden_size, config.num_experts)

    def forward(self, x: Tensor, context: Tensor, use_special: Tensor) -> Tensor:
        """x [S, F], context [R], use_special [1] (1 with images, 0 for text alone) -> [S, D]."""
        scores = self.router_out(functional.gelu(self.router_in(x) + context))  # [S, E]
        gates = self.gates(scores, use_special)  # [S, E + 1]
        low = self.lora_a(x).reshape(x.shape[0], self.config.num_experts + 1, self.config.rank)
        mixed = (low * gates[:, :, None]).reshape(x.shape[0], -1)
        return self.down(x) + self.lora_b(mixed)

    def gates(self, scores: Tensor, use_special: Tensor) -> Tensor:
        """Gate of every LoRA expert: 1 for the general one, 1/k for the chosen special ones; all scaled by alpha / rank."""
        config = self.config
        chosen = torch.topk(scores, config.top_k, dim=-1).indices  # [S, k]
        experts = torch.arange(config.num_experts, device=scores.device)
        special = (chosen[:, :, None] == experts).to(scores.dtype).sum(dim=1) / config.top_k  # [S, E]
        general = torch.ones_like(special[:, :1])
        return torch.cat([general, special * use_special], dim=-1) * (config.lora_alpha / config.rank)


class RouterContext(nn.Module):
    """The part of every layer's router that the prompt decides: W_v mean(visual) + W_t mean(text) + b, for all N layers."""

    def __init__(self, llm: LlmConfig) -> None:
        super().__init__()
        assert llm.mmoe is not None
        self.num_layers = llm.num_layers
        width = llm.num_layers * llm.mmoe.router_hidden_size
        self.visual = nn.Linear(llm.hidden_size, width, bias=False)
        self.text = nn.Linear(llm.hidden_size, width)

    def forward(self, visual_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """visual_embeds [M, D], text_embeds [T, D] -> router_context [N, R]."""
        visual, text = (_mean(embeds) for embeds in (visual_embeds, text_embeds))
        context = self.visual(visual) + self.text(text)
        return context.reshape(self.num_layers, -1)


def _mean(embeds: Tensor) -> Tensor:
    """Mean over tokens [N, D] -> [D], in float32: FP16 cannot hold a sum over thousands."""
    return embeds.to(torch.float32).mean(dim=0).to(embeds.dtype)
