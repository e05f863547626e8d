"""runtime/choices.py: the likeliest choice, as scoring every one of them in full finds it, with fewer runs."""

from collections.abc import Sequence

import numpy as np
import pytest

from leo_edge.runtime.backend import Logits
from leo_edge.runtime.choices import choose
from leo_edge.runtime.errors import BackendError

VOCAB, STOP = 12, frozenset({0, 1})
CHOICES = (("a", (2,)), ("ab", (2, 3)), ("abc", (2, 3, 4)), ("x", (5, 6, 7)), ("xy", (5, 6, 8)), ("z", (9,)))


class RandomLm:
    """Logits that depend on all tokens so far, drawn from them."""

    context_len, label = 64, None

    def __init__(self, seed: int, sharpness: float = 2.0) -> None:
        self.seed, self.sharpness, self.num_runs = seed, sharpness, 0
        self.tokens: list[int] = [1, 1, 1]

    @property
    def length(self) -> int:
        return len(self.tokens)

    def logits(self, tokens: Sequence[int]) -> Logits:
        return (self.sharpness * np.random.default_rng([self.seed, *tokens]).standard_normal(VOCAB)).astype(np.float32)

    def prefill(self, *_: object, keep: int = 0, label: object = None) -> Logits:
        raise AssertionError((keep, label))

    def step(self, token_id: int) -> Logits:
        last: Logits = self.extend((token_id,))[0]
        return last

    def extend(self, token_ids: Sequence[int]) -> Logits:
        self.num_runs += 1
        rows = []
        for token_id in token_ids:
            self.tokens.append(token_id)
            rows.append(self.logits(self.tokens))
        return np.stack(rows)

    def rewind(self, length: int) -> None:
        del self.tokens[length:]


def full_scores(seed: int, choices: Sequence[tuple[str, tuple[int, ...]]], sharpness: float) -> list[float]:
    """Every choice's log probability from its definition: all its tokens, and the end where others go on."""
    scores = []
    for _, ids in choices:
        lm, tokens, total = RandomLm(seed, sharpness), [1, 1, 1], 0.0
        continued = any(other != ids and other[: len(ids)] == ids for _, other in choices)
        for token_id in ids:
            total += float(np.log(softmax(lm.logits(tokens))[token_id]))
            tokens.append(token_id)
        scores.append(total + float(np.log(softmax(lm.logits(tokens))[list(STOP)].sum())) * continued)
    return scores


def softmax(logits: Logits) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("sharpness", [1.0, 2.0, 6.0])
def test_it_is_the_one_that_scoring_all_in_full_finds(sharpness: float) -> None:
    found, few_runs = [], []
    for seed in range(60):
        lm, wanted = RandomLm(seed, sharpness), full_scores(seed, CHOICES, sharpness)
        chosen = choose(lm, lm.logits(lm.tokens), CHOICES, STOP)
        assert chosen.index == int(np.argmax(wanted))
        assert chosen.token_ids == CHOICES[chosen.index][1]
        assert chosen.in_time
        for score, exact in zip(chosen.scores, wanted, strict=True):
            assert score.log_prob == pytest.approx(exact) if score.exact else score.log_prob >= exact - 1e-9
        assert chosen.scores[chosen.index].exact
        found.append(chosen.index)
        few_runs.append(lm.num_runs)
    assert len(set(found)) > 1
    assert np.mean(few_runs) < len(CHOICES)


def test_choices_of_one_token_take_no_step() -> None:
    choices = (("yes", (2,)), ("no", (3,)))
    for seed in range(20):
        lm = RandomLm(seed)
        logits = lm.logits(lm.tokens)
        assert choose(lm, logits, choices, STOP).index == int(logits[3] > logits[2])
        assert lm.num_runs == 0


def test_once_it_is_late_the_best_so_far_is_taken() -> None:
    for seed in range(20):
        lm = RandomLm(seed)
        logits = lm.logits(lm.tokens)
        chosen = choose(lm, logits, CHOICES, STOP, is_late=lambda: True)
        assert lm.num_runs == 0
        assert chosen.token_ids[0] == max((2, 5, 9), key=lambda token_id: float(logits[token_id]))
        assert chosen.in_time == (chosen.token_ids == (9,))


def test_logits_that_are_no_numbers() -> None:
    with pytest.raises(BackendError, match="logits are not finite"):
        choose(RandomLm(0), np.full(VOCAB, np.nan, np.float32), CHOICES, STOP)
