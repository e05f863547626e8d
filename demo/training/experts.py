"""Stage 1: the vision experts, each on dense drawn labels of its own: one on what things are, one on where they are.

Shape letters: K keyframes, C cameras, N patches of a camera's image, d width of the expert.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.demo.questions.ask import LARGEST_COUNT
from leo_edge.demo.training.drawing import Stacked
from leo_edge.demo.training.labels import LAMPS, channels_of
from leo_edge.demo.world.kinds import KINDS
from leo_edge.export.modeling.experts.base import TileEncoder

_KEYFRAMES_PER_STEP = 4
_SEMANTIC, _GEOMETRIC = ("class", "lamp", "colour", "status", "centre"), ("depth", "nearest", "edge", "centre")
# A lit lamp is in a few patches of a thousand.
_LAMP_WEIGHT, _LAMP_SHARE = 30.0, 0.02
# A camera shows none of most kinds, and seldom more than one.
_SOME_WEIGHT, _MORE_WEIGHT = 3.0, 3.0
_QUERIES_PER_KIND, _COUNT_HIDDEN = 2, 64


@dataclass(frozen=True)
class Progress:
    """What a stage reports: its name, how far it is (0 to 1), and its losses or scores by name."""

    stage: str
    done: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Seen:
    """What an expert learns from: tiles [K, C, S, S, 3], labels [K, C, R, columns, channels], counts [K, C, kinds] or -1."""

    tiles: Stacked
    labels: Stacked
    counts: npt.NDArray[np.int64]


class CountHead(nn.Module):
    """Counts by kind from what learned queries gather of the tokens, as CoTR gathers them: so that CoTR can count.

    Tokens' plain means say little: on trained experts' tokens, a network on them found half of the twos and a fifth of the
    fours, one on softmax-weighted means seven in ten and half.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        gathered = _QUERIES_PER_KIND * width
        self.queries = nn.Parameter(torch.randn(len(KINDS) * _QUERIES_PER_KIND, width) * 0.05)
        self.inner = nn.Parameter(torch.randn(len(KINDS), gathered, _COUNT_HIDDEN) * 0.2)
        self.bias = nn.Parameter(torch.zeros(len(KINDS), 1, _COUNT_HIDDEN))
        self.outer = nn.Parameter(torch.randn(len(KINDS), _COUNT_HIDDEN, LARGEST_COUNT + 1) * 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [..., N, d] -> scores of counts [..., kinds, numbers]."""
        flat = tokens.flatten(0, -3)
        weights = functional.softmax(self.queries @ flat.transpose(1, 2), dim=-1, dtype=torch.float32)  # [B, queries, N]
        gathered = (weights.to(flat.dtype) @ flat).unflatten(1, (len(KINDS), -1)).flatten(2).transpose(0, 1)  # [kinds, B, ..]
        hidden = functional.gelu(gathered @ self.inner + self.bias)
        return (hidden @ self.outer).float().transpose(0, 1).unflatten(0, tokens.shape[:-2])


class DenseHead(nn.Module):
    """A linear layer from a patch's token to its labels, and counts by kind."""

    def __init__(self, width: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.sizes = [channels_of(name).stop - channels_of(name).start for name in names]
        self.linear = nn.Linear(width, sum(self.sizes))
        self.count = CountHead(width)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens [..., N, d] -> a prediction [..., N, channels] by name, and of counts [..., kinds, numbers]."""
        parts = self.linear(tokens).float().split(self.sizes, dim=-1)
        return dict(zip(self.names, parts, strict=True)) | {"count": self.count(tokens)}


def head_of(expert: str, width: int) -> DenseHead:
    """Returns the head of an expert by its name: "semantics" learns classes, others depth and edges."""
    return DenseHead(width, _SEMANTIC if expert == "semantics" else _GEOMETRIC)


def dense_losses(predicted: dict[str, Tensor], labels: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Losses by name: of predictions [K, C, N, channels] on labels [K, C, N, all channels] uint8 and counts [K, C, kinds]."""
    binary = functional.binary_cross_entropy_with_logits
    patches = dict(predicted)
    losses = {"count": known_loss(patches.pop("count"), counts, 1 + rarity(counts))}
    for name, prediction in patches.items():
        target = labels[..., channels_of(name)].float() / (64 if name == "centre" else 255)
        if name == "class":
            # Objects and lamps are few among ground, sky and walls.
            weight = 0.3 + 3 * (target[..., : LAMPS.stop].sum(dim=-1) > 0.1).float()
            losses[name] = _share_loss(prediction, target, weight)
        elif name == "lamp":
            there = (target > _LAMP_SHARE).float()
            losses[name] = 20 * binary(prediction, there, weight=1 + (_LAMP_WEIGHT - 1) * there)
        elif name in ("colour", "status"):
            total = target.sum(dim=-1)
            losses[name] = _share_loss(prediction, target / total[..., None].clamp(min=1e-6), total * (total > 0.1))
        elif name == "centre":
            known = 1 - labels[..., channels_of("unsure")].float().clamp(max=1)
            losses[name] = 40 * binary(prediction, target.clamp(max=1), weight=known * (1 + 6 * target))
        else:
            losses[name] = 4 * functional.smooth_l1_loss(prediction, target, beta=0.1)
    return losses


def rarity(counts: Tensor) -> Tensor:
    """How much more than zeros counts [...] weigh."""
    return _SOME_WEIGHT * (counts > 0) + _MORE_WEIGHT * (counts > 1)


def known_loss(scores: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross-entropy of wanted [...] by scores [..., n], over what is known (not -1)."""
    losses = functional.cross_entropy(scores.flatten(0, -2), wanted.flatten(), ignore_index=-1, reduction="none")
    weight = weight.flatten() * (wanted.flatten() >= 0)
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def _share_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy with shares, weighted by patch."""
    loss = -(target * functional.log_softmax(prediction, dim=-1)).sum(dim=-1)
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def train_expert(
    name: str,
    encoder: TileEncoder,
    seen: Seen,
    *,
    keyframes: int,
    rate: float,
    seed: int,
    say: Callable[[Progress], None],
) -> DenseHead:
    """Trains an expert in place; returns its head.

    `keyframes` is how many presentations; the rate warms up, then follows a cosine to nothing.
    """
    device = next(encoder.parameters()).device
    torch.manual_seed(seed)
    head = head_of(name, encoder.expert.spec.width).to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    steps = max(1, keyframes // _KEYFRAMES_PER_STEP)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    random = np.random.default_rng(seed)
    # Keyframes with many of a kind are few, and counting is slow to learn.
    rich = 1 + (seen.counts > 1).sum(axis=(1, 2))
    share = rich / rich.sum()
    kept: dict[str, float] = {}
    started = time.monotonic()
    for step in range(steps):
        chosen = np.sort(random.choice(len(seen.tiles), _KEYFRAMES_PER_STEP, replace=False, p=share))
        losses = _losses(encoder, head, seen, chosen, device)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        for key, value in losses.items():
            figure = float(value.detach())
            kept[key] = 0.98 * kept.get(key, figure) + 0.02 * figure
        if step % 50 == 49 or step == steps - 1:
            say(Progress(f"expert {name}", (step + 1) / steps, kept | {"s": time.monotonic() - started}))
    return head


def _losses(
    encoder: TileEncoder, head: DenseHead, seen: Seen, chosen: npt.NDArray[np.int64], device: torch.device
) -> dict[str, Tensor]:
    tiles = torch.from_numpy(seen.tiles[chosen]).to(device)
    labels = torch.from_numpy(seen.labels[chosen]).to(device).flatten(2, 3)
    counts = torch.from_numpy(seen.counts[chosen]).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        tokens = encoder(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])
        return dense_losses(head(tokens), labels, counts)


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / max(1, min(200, steps // 10)))
    return float(warm * 0.5 * (1 + np.cos(np.pi * step / steps)))
