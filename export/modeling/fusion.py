"""The two ways from expert tokens to visual embeddings: LEO's interleaved fusion and LEO-MINI's CoTR.

Shape letters: T tiles, I images, B images, N_i tokens of expert i and d_i their width, Q reduced tokens, L text tokens, P
projection width, D hidden width of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.export.config import CoTRConfig, LeoConfig


def unshuffle_vit(x: Tensor, ratio: int, *, swap_back: bool) -> Tensor:
    """Pixel unshuffle of LEO's ViT branch: [T, W, H, C] -> [T, W / r, H / r, C r^2]. `swap_back` is ps_version v2."""
    t, w, h, c = x.shape
    x = x.reshape(t, w, h // ratio, c * ratio).permute(0, 2, 1, 3)
    x = x.reshape(t, h // ratio, w // ratio, c * ratio * ratio)
    return x.permute(0, 2, 1, 3) if swap_back else x


def unshuffle_sam(x: Tensor, ratio: int) -> Tensor:
    """Pixel unshuffle of LEO's SAM branch: [T, H, W, C] -> [T, H / r, W / r, C r^2], channels in torch's order."""
    return functional.pixel_unshuffle(x.permute(0, 3, 1, 2), ratio).permute(0, 2, 3, 1)


def leo_projector(in_dim: int, out_dim: int) -> nn.Sequential:
    """LayerNorm - Linear - GELU - Linear, children 0 to 3."""
    return nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))


class LeoFusion(nn.Module):
    """LEO's post-adaptation fusion: even tokens from InternViT, odd ones from SAM."""

    def __init__(self, config: LeoConfig, widths: tuple[int, int]) -> None:
        super().__init__()
        self.ratios = round(1 / config.downsample_ratio), config.downsample_ratio2
        self.swap_back = config.ps_version == "v2"
        self.mlp1 = leo_projector(widths[0] * self.ratios[0] ** 2, config.llm.hidden_size)
        self.mlp2 = leo_projector(widths[1] * self.ratios[1] ** 2, config.llm.hidden_size)

    def forward(self, vit: Tensor, sam: Tensor) -> Tensor:
        """vit [T, N_1, d_1], sam [T, N_2, d_2] -> [T, N, D]."""
        vit = unshuffle_vit(_as_map(vit), self.ratios[0], swap_back=self.swap_back)
        sam = unshuffle_sam(_as_map(sam), self.ratios[1])
        even, odd = self.mlp1(vit.flatten(1, 2)), self.mlp2(sam.flatten(1, 2))
        return torch.stack([even, odd], dim=2).flatten(1, 2)


class CoTR(nn.Module):
    """Conditional Token Reduction (LEO-MINI, arXiv 2504.04653, equations 2 to 7).

    Equations 3, 4 and 5 are one product with the sum of all projected tokens of all experts and of the text, taken once. It
    runs over hundreds of tokens, which FP16 cannot hold, so the scores are computed in float32.
    """

    def __init__(self, config: CoTRConfig, widths: tuple[int, ...], text_dim: int) -> None:
        super().__init__()
        self.widths = widths
        self.queries = nn.ParameterList(nn.Parameter(torch.empty(config.num_queries, config.query_dim)) for _ in widths)
        self.query_proj = nn.ModuleList(nn.Linear(config.query_dim, config.proj_dim) for _ in widths)
        self.token_proj = nn.ModuleList(nn.Linear(width, config.proj_dim) for width in widths)
        self.text_proj = nn.Linear(text_dim, config.proj_dim)

    def forward(self, tokens: list[Tensor], text: Tensor) -> Tensor:
        """tokens of each expert [B, N_i, d_i], text [L, D] -> [B, Q, d_1 + ... + d_m]."""
        projected = [proj(x).to(torch.float32) for proj, x in zip(self.token_proj, tokens, strict=True)]  # [B, N_i, P]
        shared = self.text_proj(text).to(torch.float32).sum(dim=0)[None]  # [1, P]
        for x in projected:
            shared = shared + x.sum(dim=1)  # [B, P]
        reduced = []
        for i, (x, width) in enumerate(zip(projected, self.widths, strict=True)):
            query = self.query_proj[i](self.queries[i]).to(torch.float32)  # [Q, P]
            scores = (query[None] + shared[:, None]) @ x.transpose(1, 2) / width**0.5  # [B, Q, N_i]
            weights = functional.softmax(scores, dim=-1).to(tokens[i].dtype)
            reduced.append(weights @ tokens[i])
        return torch.cat(reduced, dim=-1)


class LeoMiniFusion(nn.Module):
    """CoTR and the projector: tokens of each expert [I, N_i, d_i] and the question's embeddings [L, D] -> [I, Q, D]."""

    def __init__(self, config: CoTRConfig, widths: tuple[int, ...], hidden: int, out_dim: int) -> None:
        super().__init__()
        self.cotr = CoTR(config, widths, out_dim)
        self.projector = nn.Sequential(nn.Linear(sum(widths), hidden), nn.GELU(), nn.Linear(hidden, out_dim))

    def forward(self, tokens: list[Tensor], text: Tensor) -> Tensor:
        return self.projector(self.cotr(tokens, text))


def _as_map(tokens: Tensor) -> Tensor:
    """[T, N, d] -> [T, sqrt(N), sqrt(N), d]."""
    side = int(tokens.shape[1] ** 0.5)
    assert side * side == tokens.shape[1]
    return tokens.reshape(-1, side, side, tokens.shape[2])
