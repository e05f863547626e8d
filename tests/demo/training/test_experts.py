"""The experts' heads, on tokens whose counts are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leo_edge.demo.questions.ask import LARGEST_COUNT
from leo_edge.demo.training.experts import CountHead, known_loss
from leo_edge.demo.world.kinds import KINDS

_WIDTH, _TOKENS, _STEPS = 16, 49, 400


def _crowds(number: int) -> tuple[Tensor, Tensor]:
    """Tokens [number, N, d] of noise, of which some have one coordinate by kind raised; and how many, [number, kinds]."""
    counts = torch.randint(0, LARGEST_COUNT + 1, (number, len(KINDS))) * (torch.rand(number, len(KINDS)) < 0.5)
    order = torch.rand(number, _TOKENS).argsort(dim=1)
    kinds = torch.searchsorted(counts.cumsum(dim=1), order, right=True)  # len(KINDS) for those that are noise alone
    raised = nn.functional.one_hot(kinds, _WIDTH)
    raised[..., len(KINDS) :] = 0
    tokens = torch.randn(number, _TOKENS, _WIDTH) + 6 * raised
    return tokens, counts


def _share_right(own: bool) -> float:
    """Fits a head on counts (or, without `own`, on others' counts); returns how many of new ones it gets."""
    torch.manual_seed(0)
    head: nn.Module = CountHead(_WIDTH)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(_STEPS):
        tokens, counts = _crowds(32)
        loss = known_loss(head(tokens), counts if own else counts.roll(1, 0), torch.ones_like(counts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, counts = _crowds(200)
    return float((head(tokens).argmax(dim=-1) == counts).float().mean())


def test_a_count_head_learns_to_count_what_is_among_many_tokens() -> None:
    assert _share_right(own=True) > 0.75


def test_it_learns_nothing_from_others_counts() -> None:
    assert _share_right(own=False) < 0.65  # zeros are most frequent


def test_what_is_not_known_has_no_loss() -> None:
    scores, counts = torch.randn(2, 3, 5), torch.tensor([[0, -1, 2], [-1, -1, 4]])
    changed = scores.clone()
    changed[counts < 0] = 100.0
    weight = torch.rand(2, 3) + 0.1
    assert known_loss(changed, counts, weight) == known_loss(scores, counts, weight)
    known = counts >= 0
    losses = -torch.log_softmax(scores, dim=-1)[known, counts[known]]
    torch.testing.assert_close(known_loss(scores, counts, weight), (losses * weight[known]).sum() / weight[known].sum())
