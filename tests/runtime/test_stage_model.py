"""runtime/stage_model.py: what is learned from finished work, and that neither luck nor an outlier makes wild numbers of it."""

from __future__ import annotations

import numpy as np
import pytest

from leo_edge.runtime.spans import Span
from leo_edge.runtime.stage_model import AskWork, EncodeWork, StageModel, Work, first_that_fits

VISION = (4.0, 10.0)  # fixed, per tile
PREFILL = (5.0, 0.1)
TOKEN_MS = 8.0


def span(name: str, duration_ms: float) -> Span:
    return Span(name, 0, round(duration_ms * 1e6))


def encode_spans(work: EncodeWork, factor: float = 1.0) -> list[Span]:
    return [span("convert", 2.0 * work.cameras * factor), span("vision.a", (VISION[0] + VISION[1] * work.tiles) * factor)]


def ask_spans(work: AskWork, factor: float = 1.0) -> list[Span]:
    times = {
        "prompt": 0.5 * work.cameras,
        "fuse": 1.0 * work.cameras,
        "prefill": PREFILL[0] + PREFILL[1] * work.prompt_tokens,
        "decode": TOKEN_MS * work.answer_tokens,
    }
    return [span(name, duration_ms * factor) for name, duration_ms in times.items()]


def true_ms(work: Work) -> float:
    spans = encode_spans(work.encode) if work.encode.cameras else []
    return sum(s.duration_ms for s in (*spans, *(s for ask in work.asks for s in ask_spans(ask))))


def work_of(cameras: int, tiles: int, prompt: int = 300, answer: int = 8, questions: int = 1) -> Work:
    return Work(EncodeWork(cameras, tiles), (AskWork(cameras, prompt, answer),) * questions)


def learn(model: StageModel, work: Work, factor: float = 1.0) -> None:
    model.observe_encode(work.encode, encode_spans(work.encode, factor))
    for ask in work.asks:
        model.observe_ask(ask, ask_spans(ask, factor))


def test_nothing_is_predicted_of_what_was_hardly_seen() -> None:
    model, work = StageModel(), work_of(6, 18)
    for _ in range(2):
        learn(model, work)
        assert model.predict(work) is None
    learn(model, work)
    assert model.predict_ms(work) == pytest.approx(true_ms(work))
    assert model.predict_ms(Work(EncodeWork(0, 0), work.asks)) == pytest.approx(true_ms(Work(EncodeWork(0, 0), work.asks)))


def test_other_work_is_predicted_from_two_amounts_with_noise_and_outliers() -> None:
    model, random = StageModel(), np.random.default_rng(0)
    for number in range(24):
        factor = float(np.exp(random.normal(0, 0.03))) * (10 if number % 6 == 0 else 1)
        learn(model, work_of(6, 18, 700, 16) if number % 2 else work_of(3, 6, 300, 6), factor)
    for unseen in (work_of(6, 12, 500, 10), work_of(1, 2, 150, 4), work_of(6, 18, 700, 16, questions=3)):
        assert model.predict_ms(unseen) == pytest.approx(true_ms(unseen), rel=0.15)


def test_an_outlier_among_few_and_amounts_that_hardly_differ_give_no_wild_numbers() -> None:
    model = StageModel()
    for prompt, factor in ((700, 1.0), (703, 3.0), (706, 1.0), (702, 1.0)):
        learn(model, work_of(6, 18, prompt), factor)
    for unseen in (work_of(6, 6, 300), work_of(6, 36, 1400)):
        predicted = model.predict_ms(unseen)
        assert predicted is not None
        assert 0.5 * true_ms(unseen) < predicted < 2 * true_ms(unseen)


def test_one_amount_alone_does_not_promise_that_half_the_work_takes_half_the_time() -> None:
    model, work = StageModel(), work_of(6, 18)
    for _ in range(4):
        learn(model, work)
    whole, half = model.predict(work), model.predict(work_of(6, 9))
    assert whole is not None and half is not None  # noqa: PT018
    assert half["vision.a"] / whole["vision.a"] == pytest.approx(0.6)


def test_stages_of_one_name_are_told_apart_and_unknown_ones_are_constant() -> None:
    model = StageModel()
    for _ in range(3):
        model.observe_encode(EncodeWork(1, 4), [span("fuse", 4)])
        model.observe_ask(AskWork(1, 10, 2), [span("fuse", 7), span("warp", 3)])
    assert model.predict(work_of(1, 4, 10, 2)) == pytest.approx({"fuse": 4, "ask.fuse": 7, "warp": 3})


def test_the_margin_comes_from_errors_and_stays_within_bounds() -> None:
    model = StageModel()
    assert model.margin == 1.2
    for ratio in (1.0, 1.0, 1.0, 1.0):
        model.observe_whole(100, 100 * ratio)
    assert model.margin == 1.05
    for _ in range(10):
        model.observe_whole(100, 130)
    assert model.margin == pytest.approx(1.3)
    for _ in range(20):
        model.observe_whole(100, 10000)
    assert model.margin == 2.0


def test_the_first_that_fits_is_chosen_and_noise_does_not_swing() -> None:
    model = StageModel()
    works = [work_of(6, 18), work_of(6, 6), work_of(6, 6, answer=2)]
    assert first_that_fits(model, works, 100) is None
    for _ in range(3):
        learn(model, works[0])
        learn(model, works[1])
    times = [1.2 * true_ms(work) for work in works]
    for left_ms, wanted in ((times[0] + 1, 0), (times[0] - 1, 1), (times[1] - 1, 2), (1.0, 2)):
        level, predicted = first_that_fits(model, works, left_ms) or (None, [])
        assert level == wanted
        assert predicted == pytest.approx(times)
    for left_ms, wanted in ((times[0] + 1, 1), (times[0] / 0.9 + 1, 0)):
        assert (first_that_fits(model, works, left_ms, level=1, spare=0.9) or (None,))[0] == wanted


def test_work_is_checked() -> None:
    with pytest.raises(ValueError, match="cameras and tiles must be at least 0, got -1 and 3"):
        EncodeWork(-1, 3)
    with pytest.raises(ValueError, match="a question has a prompt"):
        AskWork(1, 0, 3)
