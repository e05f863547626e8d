"""Choosing the next token from logits: the likeliest, or drawn with temperature and top-p (arXiv 1904.09751)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leo_edge.runtime.backend import Logits
from leo_edge.runtime.errors import BackendError


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 takes the likeliest token. The same seed and logits give the same tokens."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


class Sampler:
    """Draws one answer's tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def pick(self, logits: Logits) -> int:
        """Returns a token id for logits [V]. Of equal ones the lowest id wins when taking the likeliest."""
        best = int(np.argmax(logits))  # of NaNs the first, and of infinities
        if not np.isfinite(logits[best]):
            raise BackendError(f"logits are not finite ({logits[best]} for token {best}): export with --float fp32")
        if self._sampling.temperature == 0:
            return best
        with np.errstate(over="ignore"):  # hardly any temperature makes -inf of all but the likeliest, as it should
            weights = np.exp((logits.astype(np.float64) - float(logits[best])) / self._sampling.temperature)
        order = np.argsort(-weights, kind="stable")
        mass = np.cumsum(weights[order] / weights.sum())
        kept = order[: int(np.searchsorted(mass, self._sampling.top_p)) + 1]  # the token that crosses top_p stays in
        chances = weights[kept] / weights[kept].sum()
        return int(self._random.choice(kept, p=chances))
