"""runtime/sampling.py: the likeliest token, or draws whose frequencies are those of an independent computation."""

import math
from itertools import accumulate

import numpy as np
import pytest

from leo_edge.runtime.backend import Logits
from leo_edge.runtime.sampling import Sampler, Sampling

NUM_DRAWS = 4_000
LOGITS = np.array([1.0, -0.5, 2.0, 0.0, 2.5, -3.0], np.float32)


def expected_chances(logits: Logits, temperature: float, top_p: float) -> dict[int, float]:
    """Softmax, then the shortest run of likeliest tokens that holds at least top_p, one token after the other."""
    weights = [math.exp(float(logit) / temperature) for logit in logits]
    chances = {token: weight / sum(weights) for token, weight in enumerate(weights)}
    ordered = sorted(chances, key=lambda token: -chances[token])
    sums = list(accumulate(chances[token] for token in ordered))
    count = next((i + 1 for i, mass in enumerate(sums) if mass >= top_p), len(ordered))
    kept = sum(chances[token] for token in ordered[:count])
    return {token: chances[token] / kept for token in ordered[:count]}


def draws(logits: Logits, sampling: Sampling, count: int = NUM_DRAWS) -> list[int]:
    sampler = Sampler(sampling)
    return [sampler.pick(logits) for _ in range(count)]


def largest_deviation(drawn: list[int], chances: dict[int, float]) -> float:
    """Of all tokens, the largest distance of frequency from chance, in standard deviations of the frequency."""
    frequencies = np.bincount(drawn, minlength=len(LOGITS)) / len(drawn)
    spread = {token: math.sqrt(chance * (1 - chance) / len(drawn)) or 1e-9 for token, chance in chances.items()}
    return max(abs(float(frequencies[token]) - chance) / spread[token] for token, chance in chances.items())


class TestGreedy:
    def test_takes_the_likeliest(self) -> None:
        assert draws(LOGITS, Sampling(), 3) == [4, 4, 4]

    def test_top_p_and_seed_change_nothing(self) -> None:
        assert draws(LOGITS, Sampling(top_p=0.01, seed=9), 3) == [4, 4, 4]

    def test_of_equal_ones_the_first_wins(self) -> None:
        assert draws(np.array([0, 3, 3, 3], np.float32), Sampling(), 1) == [1]

    @pytest.mark.parametrize("logits", [[0.0, float("nan"), 1.0], [float("-inf")] * 3], ids=str)
    def test_logits_that_are_not_finite_are_an_error(self, logits: list[float]) -> None:
        with pytest.raises(Exception, match="finite"):
            draws(np.array(logits, np.float32), Sampling(), 1)


class TestDraw:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9, 1.0])
    def test_frequencies_are_the_expected_chances(self, temperature: float, top_p: float) -> None:
        drawn = draws(LOGITS, Sampling(temperature, top_p, seed=1))
        chances = expected_chances(LOGITS, temperature, top_p)
        assert set(drawn) <= set(chances)
        assert largest_deviation(drawn, chances) < 4

    def test_frequencies_tell_temperatures_and_nuclei_apart(self) -> None:
        drawn = draws(LOGITS, Sampling(1.0, 1.0, seed=1))
        assert largest_deviation(drawn, expected_chances(LOGITS, 1.2, 1.0)) > 4
        assert largest_deviation(drawn, expected_chances(LOGITS, 1.0, 0.8)) > 4

    @pytest.mark.parametrize("top_p", [0.1, 0.4, 0.5, 0.6, 0.8, 0.9, 0.97])
    def test_exactly_the_nucleus_is_drawn(self, top_p: float) -> None:
        nucleus = set(expected_chances(LOGITS, 1.0, top_p))
        assert nucleus < set(range(len(LOGITS)))
        assert set(draws(LOGITS, Sampling(1.0, top_p), 1000)) == nucleus

    @pytest.mark.parametrize(("top_p", "nucleus"), [(0.24, {0}), (0.26, {0, 1}), (0.5, {0, 1}), (0.51, {0, 1, 2})])
    def test_of_equal_tokens_the_first_are_in_the_nucleus(self, top_p: float, nucleus: set[int]) -> None:
        assert set(draws(np.zeros(4, np.float32), Sampling(1.0, top_p), 500)) == nucleus

    def test_of_many_equal_tokens_the_first_are_in_the_nucleus(self) -> None:
        drawn = draws(np.zeros(128, np.float32), Sampling(1.0, 0.5), 500)
        assert max(drawn) == 63

    def test_a_small_top_p_is_greedy(self) -> None:
        assert set(draws(LOGITS, Sampling(2.0, 0.01), 100)) == {4}

    def test_large_logits_do_not_overflow(self) -> None:
        assert set(draws(LOGITS + 10_000, Sampling(0.01), 100)) == {4}

    def test_tokens_that_cannot_come_do_not_come(self) -> None:
        assert set(draws(np.array([0, -math.inf, 0], np.float32), Sampling(1.0), 200)) == {0, 2}


class TestSeed:
    def test_same_seed_same_tokens(self) -> None:
        assert draws(LOGITS, Sampling(1.0, 0.9, seed=5), 50) == draws(LOGITS, Sampling(1.0, 0.9, seed=5), 50)

    def test_other_seed_other_tokens(self) -> None:
        assert draws(LOGITS, Sampling(1.0, 0.9, seed=5), 50) != draws(LOGITS, Sampling(1.0, 0.9, seed=6), 50)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-0.1, 1.0, 0), r"temperature must be 0 or more, got -0\.1"),
        ((math.inf, 1.0, 0), "temperature must be 0 or more, got inf"),
        ((math.nan, 1.0, 0), "temperature must be 0 or more, got nan"),
        ((1.0, 0.0, 0), r"top_p must be above 0 and at most 1, got 0\.0"),
        ((1.0, 1.01, 0), r"top_p must be above 0 and at most 1, got 1\.01"),
        ((1.0, math.nan, 0), "top_p must be above 0 and at most 1, got nan"),
        ((1.0, 1.0, -1), "seed must be 0 or more, got -1"),
    ],
)
def test_wrong_values(values: tuple[float, float, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Sampling(*values)
