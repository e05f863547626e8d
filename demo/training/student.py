"""The model to be trained: the very modules that are exported, filled from a checkpoint, run on batches and with gradients.

Shape letters: B questions, K keyframes, C cameras, N tokens of one expert and camera, d_i width of expert i, Q reduced
tokens, P projection width, L tokens of a question, S tokens of a sequence, D hidden width, V vocabulary, E special experts,
R router width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.demo.training.sequence import PromptParts
from leo_edge.export.config import LeoMiniConfig
from leo_edge.export.modeling.experts.base import TileEncoder
from leo_edge.export.modeling.fusion import LeoMiniFusion
from leo_edge.export.modeling.llm import Block, Llm
from leo_edge.export.modeling.mmoe import MMoE, RouterContext
from leo_edge.export.modeling.rope import rotate
from leo_edge.export.stages import FlatFusion, FlatLlm, StageOptions, build_stages, embedding_of
from leo_edge.export.weights import TensorReader, load_module

# CoTR's sums over hundreds of tokens are trained as means, and as a sum over a question of this many tokens.
_TYPICAL_QUESTION = 8


@dataclass(frozen=True)
class Fused:
    """Visual embeddings [B, C, Q, D] and the mean of the question's embeddings [B, D]."""

    visual: Tensor
    text_mean: Tensor


class Student(nn.Module):
    """A LEO-MINI of any config. `text` False leaves CoTR's text conditioning out (an ablation)."""

    def __init__(self, config: LeoMiniConfig, reader: TensorReader, *, text: bool = True) -> None:
        super().__init__()
        self.config = config
        options = StageOptions(torch.float32, config.llm.max_position_embeddings, fused=False, fold=False)
        self.encoders = nn.ModuleDict()
        self.router: RouterContext | None = None
        for stage in build_stages(config, options):
            load_module(stage.module, stage.recipes, reader, torch.float32)
            module = stage.module.requires_grad_(True)
            if isinstance(module, TileEncoder):
                self.encoders[stage.name.removeprefix("vision.")] = module
            elif isinstance(module, FlatFusion):
                self.fusion: LeoMiniFusion = module.fusion
            elif isinstance(module, FlatLlm):
                self.llm: Llm = module.llm
            else:
                assert isinstance(module, RouterContext)
                self.router = module
        self.table = nn.Parameter(embedding_of(config).build(reader).to(torch.float32))
        self._rescale_cotr(1.0)
        if not text:
            for parameter in self.fusion.cotr.text_proj.parameters():
                parameter.requires_grad_(False).zero_()

    def encoder(self, name: str) -> TileEncoder:
        """Returns a vision expert by its name."""
        encoder = self.encoders[name]
        assert isinstance(encoder, TileEncoder)
        return encoder

    @property
    def num_tokens(self) -> int:
        """How many tokens of one camera CoTR's sum runs over."""
        return self.config.tiling.max_tiles * sum(self.encoder(name).expert.spec.num_tokens for name in self.encoders)

    @property
    def cotr_scale(self) -> float:
        """One over the root of how many tokens CoTR's sum runs over."""
        return float(self.num_tokens**-0.5)

    def _rescale_cotr(self, direction: float) -> None:
        """Turns CoTR's weights for sums into weights for means (direction 1) or back (-1): the scores stay the same."""
        scale = self.cotr_scale**direction
        cotr = self.fusion.cotr
        factors: list[tuple[nn.Module, float]] = [
            (cotr.token_proj, 1 / scale),
            (cotr.query_proj, scale),
            (cotr.text_proj, scale * _TYPICAL_QUESTION**direction),
        ]
        with torch.no_grad():
            for module, factor in factors:
                for parameter in module.parameters():
                    parameter.mul_(factor)

    def checkpoint_modules(self) -> None:
        """Puts the weights into the form of a checkpoint; `training_modules` takes it back."""
        self._rescale_cotr(-1.0)

    def training_modules(self) -> None:
        """Puts the weights into the form that is trained."""
        self._rescale_cotr(1.0)

    def fuse(self, tokens: list[Tensor], counts: list[int], question: Tensor, length: Tensor) -> Fused:
        """CoTR and projector: tokens [K, C, N, d_i], question [B, L] ids, padded, length [B].

        The first counts[0] questions are about keyframe 0, the next counts[1] about keyframe 1, and so on.
        """
        cotr = self.fusion.cotr
        seen = (torch.arange(question.shape[1], device=question.device) < length[:, None])[..., None]
        embeds = self.table[question] * seen  # [B, L, D]
        text = (cotr.text_proj(embeds) * seen).sum(dim=1) / _TYPICAL_QUESTION  # [B, P]
        projected = [proj(x) for proj, x in zip(cotr.token_proj, tokens, strict=True)]  # [K, C, N, P]
        shared = torch.stack([x.sum(dim=2) for x in projected]).sum(dim=0) / self.num_tokens  # [K, C, P]
        reduced = []
        for i, x in enumerate(projected):
            query = cotr.query_proj[i](cotr.queries[i])  # [Q, P]
            scores = (query + shared[:, :, None]) @ x.transpose(2, 3)  # [K, C, Q, N]
            mine = [self._reduce(i, *each) for each in zip(scores, x, tokens[i], text.split(counts), strict=True)]
            reduced.append(torch.cat(mine))
        visual = self.fusion.projector(torch.cat(reduced, dim=-1))
        return Fused(visual, embeds.sum(dim=1) / length[:, None])

    def _reduce(self, expert: int, scores: Tensor, x: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
        """One keyframe's questions: scores [C, Q, N], x [C, N, P], tokens [C, N, d_i], text [B, P] -> [B, C, Q, d_i]."""
        asked = (text @ x.flatten(0, 1).T).unflatten(1, x.shape[:2])  # [B, C, N]
        weights = functional.softmax((scores + asked[:, :, None]).float() / self.fusion.cotr.widths[expert] ** 0.5, dim=-1)
        return weights.to(x.dtype) @ tokens.to(x.dtype)

    def fuse_questions(self, tokens: list[Tensor], counts: list[int], questions: list[list[int]]) -> Fused:
        """`fuse` of questions as token ids of different lengths."""
        longest = max(len(ids) for ids in questions)
        padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in questions], device=self.table.device)
        length = torch.tensor([len(ids) for ids in questions], device=self.table.device)
        return self.fuse(tokens, counts, padded, length)

    def sequences(self, parts: PromptParts, tails: list[list[int]], fused: Fused) -> Tensor:
        """Returns embeddings [B, S, D]: the prompt's head with the visual embeddings in place, then the tails, padded."""
        longest = max(len(tail) for tail in tails)
        ids = torch.tensor([[*tail, *[0] * (longest - len(tail))] for tail in tails], device=self.table.device)
        head = self.table[torch.tensor(parts.head, device=self.table.device)].expand(len(tails), -1, -1)
        pieces, end = [], 0
        for camera, (start, length) in enumerate(parts.spans):
            pieces += [head[:, end:start], fused.visual[:, camera].to(head.dtype)]
            end = start + length
        return torch.cat([*pieces, head[:, end:], self.table[ids]], dim=1)

    @torch.inference_mode()
    def greedy(
        self, tokens: list[Tensor], counts: list[int], questions: list[list[int]], parts: PromptParts, most_tokens: int
    ) -> list[list[int]]:
        """Returns the likeliest answers' token ids, without the stop token. Every step runs the whole sequence: no cache."""
        fused = self.fuse_questions(tokens, counts, questions)
        rows = [[*ids, *parts.suffix] for ids in questions]
        prompts, running = [len(row) for row in rows], set(range(len(rows)))
        for _ in range(most_tokens):
            hidden, _, _ = self.hidden(self.sequences(parts, rows, fused), fused, len(parts.head))
            last = torch.tensor([len(row) - 1 for row in rows], device=hidden.device)
            picked = self.llm.head(hidden[torch.arange(len(rows)), last]).argmax(dim=-1).tolist()
            running = {i for i in running if picked[i] != parts.stop_id}
            for i in running:
                rows[i].append(picked[i])
            if not running:
                break
        return [row[count:] for row, count in zip(rows, prompts, strict=True)]

    def hidden(self, embeds: Tensor, fused: Fused, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the language model on sequences [B, S, D].

        Returns the last hidden states from `start` on, MMoE's balance loss, and all hidden states after half of the layers.
        """
        context = self._router_context(fused)
        cos, sin = self.llm.rope(torch.arange(embeds.shape[1], device=embeds.device))
        hidden, balance, middle = embeds, embeds.new_zeros(()), embeds
        for i, layer in enumerate(self.llm.layers):
            assert isinstance(layer, Block)
            first = start if i == len(self.llm.layers) - 1 else 0
            hidden = hidden[:, first:] + _attend(layer, hidden, cos, sin, first)
            mlp, normed = layer.mlp, layer.mlp_norm(hidden)
            inner = mlp.activation(mlp.gate(normed)) * mlp.up(normed)
            if isinstance(mlp.down, MMoE):
                added, loss = mix(mlp.down, inner, context[:, i])
                hidden, balance = hidden + added, balance + loss / len(self.llm.layers)
            else:
                hidden = hidden + mlp.down(inner)
            if i + 1 == len(self.llm.layers) // 2:
                middle = hidden
        return self.llm.norm(hidden), balance, middle

    def _router_context(self, fused: Fused) -> Tensor:
        """Returns what the prompt adds to every layer's router, [B, layers, R]."""
        if self.router is None:
            return fused.text_mean
        context = self.router.visual(fused.visual.mean(dim=(1, 2))) + self.router.text(fused.text_mean)
        return context.unflatten(1, (len(self.llm.layers), -1))


def _attend(layer: Block, hidden: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    """Causal attention over [B, S, D], of the positions from `first` on."""
    attention, x = layer.attention, layer.attention_norm(hidden)
    groups = attention.num_heads // attention.num_kv_heads
    query = rotate(attention.q(x[:, first:]).unflatten(2, (attention.num_heads, -1)), cos[first:], sin[first:])
    key = rotate(attention.k(x).unflatten(2, (attention.num_kv_heads, -1)), cos, sin)
    value = attention.v(x).unflatten(2, (attention.num_kv_heads, -1))
    query, key, value = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))  # [B, heads, S, E]
    key, value = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (key, value))
    # For sequences this short, faster than torch's fused kernel on a CPU.
    length = x.shape[1]
    later = torch.full((length - first, length), float("-inf"), dtype=value.dtype, device=x.device).triu(first + 1)
    scores = query @ key.transpose(2, 3) * attention.head_dim**-0.5 + later
    weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return attention.out((weights @ value).transpose(1, 2).flatten(2))


def mix(mmoe: MMoE, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 8 and 9 on x [B, S, F] with context [B, R] -> [B, S, D], and the balance loss.

    The choice of experts has no gradient; as a straight-through estimate it gets that of the router's probabilities. The loss
    is that of the Switch Transformer (arXiv 2101.03961, equation 4): E * sum over experts of chosen share * mean probability.
    """
    count, config = mmoe.config.num_experts, mmoe.config
    scores = mmoe.router_out(functional.gelu(mmoe.router_in(x) + context[:, None]))  # [B, S, E]
    flat = scores.flatten(0, 1).float()
    gates = mmoe.gates(flat, flat.new_ones(1))  # [B * S, E + 1]
    probabilities = functional.softmax(flat, dim=-1)
    share = (gates[:, 1:].detach() > 0).float().mean(dim=0) / config.top_k
    balance = count * (share * probabilities.mean(dim=0)).sum()
    scale = config.lora_alpha / config.rank / config.top_k
    special = gates[:, 1:] + (probabilities - probabilities.detach()) * scale
    gates = torch.cat([gates[:, :1], special], dim=1).unflatten(0, x.shape[:2]).to(x.dtype)
    low = mmoe.lora_a(x).unflatten(2, (count + 1, config.rank)) * gates[..., None]
    return mmoe.down(x) + mmoe.lora_b(low.flatten(2).to(x.dtype)), balance
