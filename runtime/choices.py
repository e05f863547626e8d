"""Answering with one of a few given texts: they are scored, not written.

Shape letters: V vocabulary, n tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.backend import Decoder, Logits
from leo_edge.runtime.errors import BackendError

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class ChoiceScore:
    """A choice's log probability; where `exact` is false, it is no more than this, and was not looked at further."""

    text: str
    log_prob: float
    exact: bool


@dataclass(frozen=True)
class Chosen:
    """The likeliest choice, its tokens, and every choice's score. `in_time` is false where the search was broken off."""

    index: int
    token_ids: Tokens
    scores: tuple[ChoiceScore, ...]
    in_time: bool


def choose(
    decoder: Decoder,
    logits: Logits,
    choices: Sequence[tuple[str, Tokens]],
    stop_ids: frozenset[int],
    *,
    is_late: Callable[[], bool] = lambda: False,
) -> Chosen:
    """Returns the likeliest of `choices`, texts with their tokens, after a prompt whose last logits [V] are `logits`.

    A choice's probability is that of an answer that begins with its tokens; where other choices go on from them, that of an
    answer that ends there. So no two choices share an answer, and none is favoured for being short.

    The search goes best first: a probability only falls as tokens are added, so what is complete and still the best is the
    likeliest of all. Choices that differ in their first token are mostly told apart by the prompt's own logits, without a step.
    Once `is_late` says so, the best so far is taken.
    """
    search = _Search(decoder, choices, stop_ids)
    search.expand((), 0.0, logits)
    while True:
        log_prob, tokens, index = search.best()
        late = index is None and is_late()
        if index is not None or late:
            break
        search.expand(tokens, log_prob, search.logits_after(tokens))
    if index is None:
        index = next(place for place, (_, ids) in enumerate(choices) if ids[: len(tokens)] == tokens)
    return Chosen(index, choices[index][1], search.scores(), not late)


class _Search:
    """Prefixes of the choices, best first. A complete choice has an index."""

    def __init__(self, decoder: Decoder, choices: Sequence[tuple[str, Tokens]], stop_ids: frozenset[int]) -> None:
        self._decoder, self._choices = decoder, choices
        self._stop_ids = sorted(stop_ids)
        self._prompt_len = decoder.length
        self._path: Tokens = ()
        self._open: list[tuple[float, Tokens, int]] = []
        self._bounds: dict[Tokens, float] = {}
        self._complete: dict[int, float] = {}

    def best(self) -> tuple[float, Tokens, int | None]:
        """Takes the likeliest prefix out."""
        negative, tokens, index = heapq.heappop(self._open)
        return -negative, tokens, None if index < 0 else index

    def expand(self, tokens: Tokens, log_prob: float, logits: Logits) -> None:
        """Puts in what follows a prefix, given the logits [V] after it."""
        log_probs = _log_softmax(logits)
        following = sorted(
            {ids[len(tokens)] for _, ids in self._choices if len(ids) > len(tokens) and ids[: len(tokens)] == tokens}
        )
        for index, (_, ids) in enumerate(self._choices):
            if ids == tokens:  # others go on from here
                self._put(log_prob + float(np.logaddexp.reduce(log_probs[self._stop_ids])), tokens, index)
        for token_id in following:
            longer = (*tokens, token_id)
            reached = [index for index, (_, ids) in enumerate(self._choices) if ids[: len(longer)] == longer]
            alone = len(reached) == 1 and self._choices[reached[0]][1] == longer
            self._put(log_prob + float(log_probs[token_id]), longer, reached[0] if alone else None)

    def logits_after(self, tokens: Tokens) -> Logits:
        """Returns the logits [V] after the prompt and a prefix, computing what the cache does not hold."""
        shared = 0
        while shared < min(len(tokens) - 1, len(self._path)) and tokens[shared] == self._path[shared]:
            shared += 1
        self._decoder.rewind(self._prompt_len + shared)
        self._path = tokens
        last: Logits = self._decoder.extend(tokens[shared:])[-1]
        return last

    def scores(self) -> tuple[ChoiceScore, ...]:
        """Returns each choice's log probability as far as it is known."""
        found = []
        for index, (text, ids) in enumerate(self._choices):
            known = (self._bounds[ids[:size]] for size in range(len(ids), 0, -1) if ids[:size] in self._bounds)
            exact = index in self._complete
            found.append(ChoiceScore(text, self._complete[index] if exact else next(known), exact))
        return tuple(found)

    def _put(self, log_prob: float, tokens: Tokens, index: int | None) -> None:
        if index is None:
            self._bounds[tokens] = log_prob
        else:
            self._complete[index] = log_prob
        heapq.heappush(self._open, (-log_prob, tokens, -1 if index is None else index))


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    highest = float(wide.max())
    if not np.isfinite(highest):
        raise BackendError(f"logits are not finite ({highest}): export with --float fp32")
    shifted = wide - highest
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
