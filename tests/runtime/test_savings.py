"""What a pipeline saves by what it did before: every answer is the one that it gives without, to the token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leo_edge.runtime.decode import Finish
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline, Savings, open_pipeline
from leo_edge.runtime.sampling import Sampling
from tests.conftest import MadeOnce

QUESTIONS = ("What is ahead?", "Is it safe to turn left?", "What is ahead of me?")


def frames(seed: int, cameras: int = 2) -> FrameSet:
    random = np.random.default_rng(seed)
    images = (random.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(cameras))
    channels = NUSCENES_CAMERAS[:cameras]
    return FrameSet.of(map(CameraFrame, channels, images), expected_channels=channels)


def plain(pipeline: Pipeline) -> Pipeline:
    return replace(pipeline, savings=Savings(prefix=False, speculation=False))


@pytest.fixture(scope="module", params=[("leo-tiny", False), ("leo-tiny", True), ("leo-mini-tiny", False)], ids=str)
def pipeline(request: pytest.FixtureRequest, tiny_bundles: MadeOnce) -> Pipeline:
    preset, standard = request.param
    return open_pipeline(tiny_bundles[preset], "ort", standard_graphs=standard)


def test_answers_are_the_same_with_and_without(pipeline: Pipeline) -> None:
    reused, accepted = 0, 0
    for seed in (0, 0, 1):  # a frame set that comes again, and another
        tokens = pipeline.encode(frames(seed))
        for question in QUESTIONS:
            saved = pipeline.ask(tokens, question, AskOptions(24))
            wanted = plain(pipeline).ask(tokens, question, AskOptions(24))
            again = pipeline.ask(tokens, question, AskOptions(24))
            assert saved.token_ids == again.token_ids == wanted.token_ids
            assert (saved.text, saved.finish) == (wanted.text, wanted.finish)
            assert wanted.num_reused_tokens == wanted.num_drafted_tokens == 0
            reused += saved.num_reused_tokens + again.num_reused_tokens
            accepted += again.num_accepted_tokens
            assert again.num_accepted_tokens > 0.5 * len(again.token_ids)
    assert accepted
    assert (reused > 0) == (pipeline.bundle.manifest.family == "leo")


class TestPrefix:
    @pytest.fixture
    def leo(self, tiny_bundles: MadeOnce) -> Pipeline:
        return open_pipeline(tiny_bundles["leo-tiny"], "ort")

    def test_a_second_question_keeps_all_cameras(self, leo: Pipeline) -> None:
        tokens = leo.encode(frames(0))
        leo.ask(tokens, QUESTIONS[0])
        second = leo.ask(tokens, QUESTIONS[1])
        assert second.num_reused_tokens >= second.num_visual_tokens
        assert second.num_reused_tokens < second.num_prompt_tokens

    def test_another_frame_set_keeps_the_system_text_only(self, leo: Pipeline) -> None:
        leo.ask(leo.encode(frames(0)), QUESTIONS[0])
        second = leo.ask(leo.encode(frames(1)), QUESTIONS[0])
        assert 0 < second.num_reused_tokens < second.num_prompt_tokens - second.num_visual_tokens

    def test_a_camera_that_was_not_encoded_anew_is_kept(self, leo: Pipeline) -> None:
        first, second = leo.encode(frames(0)), leo.encode(frames(1))
        whole = leo.ask(first, QUESTIONS[0]).num_prompt_tokens
        mixed = replace(second, cameras=(first.cameras[0], second.cameras[1]))
        answer = leo.ask(mixed, QUESTIONS[0])
        assert answer.num_visual_tokens / 2 < answer.num_reused_tokens < whole - answer.num_visual_tokens / 2
        assert answer.token_ids == plain(leo).ask(mixed, QUESTIONS[0]).token_ids

    def test_a_prompt_from_elsewhere_in_the_cache_is_not_taken_for_ours(self, leo: Pipeline) -> None:
        tokens = leo.encode(frames(0))
        wanted = leo.ask(tokens, QUESTIONS[0])
        other = leo.prepare(leo.encode(frames(1)), QUESTIONS[0], 8)
        leo.decoder.prefill(other.embeds, other.routing)
        again = leo.ask(tokens, QUESTIONS[0])
        assert again.num_reused_tokens == 0
        assert again.token_ids == wanted.token_ids

    def test_what_is_kept_wrongly_shows(self, leo: Pipeline) -> None:
        """The control: were another camera's tokens kept, the logits would be others."""
        prompts = [leo.prepare(leo.encode(frames(seed)), QUESTIONS[0], 8) for seed in (0, 1)]
        right = leo.decoder.prefill(prompts[1].embeds, {})
        leo.decoder.prefill(prompts[0].embeds, {})
        wrong = leo.decoder.prefill(prompts[1].embeds, {}, keep=len(prompts[1].embeds) - 8)
        assert np.abs(wrong - right).max() > 1e-2 * np.abs(right).max()


class TestChoices:
    @pytest.mark.parametrize("savings", [Savings(), Savings(prefix=False, speculation=False)])
    def test_the_answer_is_one_of_them(self, pipeline: Pipeline, savings: Savings) -> None:
        tokens = pipeline.encode(frames(2))
        options = AskOptions(choices=("yes", "no", "no idea"))
        answer = replace(pipeline, savings=savings).ask(tokens, QUESTIONS[1], options)
        assert answer.finish == Finish.CHOICE
        assert [score.text for score in answer.choices] == ["yes", "no", "no idea"]
        best = max(answer.choices, key=lambda score: score.log_prob)
        assert best.exact
        assert answer.text == best.text
        assert answer.token_ids == tuple(pipeline.tokenizer.encode(answer.text, special=False))
        assert answer.to_json()["choices"][0]["text"] == "yes"
        assert "choose" in [span.name for span in answer.spans]

    def test_the_choice_that_the_model_would_write_is_the_likeliest(self, pipeline: Pipeline) -> None:
        tokens = pipeline.encode(frames(2))
        written = pipeline.ask(tokens, QUESTIONS[1], AskOptions(1)).text
        if written.strip():
            assert pipeline.ask(tokens, QUESTIONS[1], AskOptions(choices=("#~", written))).text == written

    @pytest.mark.parametrize("choices", [("yes", "yes"), ("yes", "")])
    def test_choices_must_differ(self, choices: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="choices must be different texts, none of them empty"):
            AskOptions(choices=choices)


def test_drawn_answers_are_not_drafted(pipeline: Pipeline) -> None:
    tokens = pipeline.encode(frames(0))
    options = AskOptions(12, sampling=Sampling(temperature=1.0, seed=3))
    first, second = (pipeline.ask(tokens, QUESTIONS[0], options) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert second.num_drafted_tokens == 0
