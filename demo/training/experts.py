"""Stage 1: the vision experts, each on dense drawn labels of its own: one on what things are, one on where they are.

Shape letters: K keyframes, C cameras, N patches of a camera's image, d width of the expert.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.demo.training.drawing import Stacked
from leo_edge.demo.training.labels import channels_of
from leo_edge.export.modeling.experts.base import TileEncoder

_KEYFRAMES_PER_STEP = 4
_SEMANTIC, _GEOMETRIC = ("class", "colour", "status", "centre"), ("depth", "nearest", "edge", "centre")


@dataclass(frozen=True)
class Progress:
    """What a stage reports: its name, how far it is (0 to 1), and its losses or scores by name."""

    stage: str
    done: float
    figures: dict[str, float]


class DenseHead(nn.Module):
    """A linear layer from a patch's token to its labels."""

    def __init__(self, width: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.sizes = [channels_of(name).stop - channels_of(name).start for name in names]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens [..., d] -> a prediction [..., channels] by name."""
        parts = self.linear(tokens).float().split(self.sizes, dim=-1)
        return dict(zip(self.names, parts, strict=True))


def head_of(expert: str, width: int) -> DenseHead:
    """Returns the head of an expert by its name: "semantics" learns classes, others depth and edges."""
    return DenseHead(width, _SEMANTIC if expert == "semantics" else _GEOMETRIC)


def dense_losses(predicted: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Losses of the predictions [K, C, N, channels] on labels [K, C, N, all channels] uint8, by name."""
    losses = {}
    for name, prediction in predicted.items():
        target = labels[..., channels_of(name)].float() / (64 if name == "centre" else 255)
        if name == "class":
            # Objects and lamps are few among ground, sky and walls.
            weight = 0.3 + 3 * target[..., :11].sum(dim=-1)
            losses[name] = _share_loss(prediction, target, weight)
        elif name in ("colour", "status"):
            total = target.sum(dim=-1)
            losses[name] = _share_loss(prediction, target / total[..., None].clamp(min=1e-6), total * (total > 0.1))
        elif name == "centre":
            known = 1 - labels[..., channels_of("unsure")].float().clamp(max=1)
            weight = known * (1 + 6 * target)
            loss = functional.binary_cross_entropy_with_logits(prediction, target.clamp(max=1), reduction="none")
            losses[name] = 8 * (loss * weight).mean()
        else:
            losses[name] = 4 * functional.smooth_l1_loss(prediction, target, beta=0.1)
    return losses


def _share_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy with shares, weighted by patch."""
    loss = -(target * functional.log_softmax(prediction, dim=-1)).sum(dim=-1)
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def train_expert(
    name: str,
    encoder: TileEncoder,
    tiles: Stacked,
    labels: Stacked,
    *,
    keyframes: int,
    rate: float,
    seed: int,
    say: Callable[[Progress], None],
) -> DenseHead:
    """Trains an expert in place on tiles [K, C, S, S, 3] and labels [K, C, R, columns, channels]; returns its head.

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
    kept: dict[str, float] = {}
    started = time.monotonic()
    for step in range(steps):
        chosen = np.sort(random.choice(len(tiles), _KEYFRAMES_PER_STEP, replace=False))
        batch = torch.from_numpy(tiles[chosen]).to(device)
        wanted = torch.from_numpy(labels[chosen]).to(device).flatten(2, 3)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            tokens = encoder(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
            losses = dense_losses(head(tokens), wanted)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        for key, value in losses.items():
            figure = float(value.detach())
            kept[key] = 0.98 * kept.get(key, figure) + 0.02 * figure
        if step % 50 == 49 or step == steps - 1:
            say(Progress(f"expert {name}", (step + 1) / steps, kept | {"s": time.monotonic() - started}))
    return head


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / max(1, min(200, steps // 10)))
    return float(warm * 0.5 * (1 + np.cos(np.pi * step / steps)))
