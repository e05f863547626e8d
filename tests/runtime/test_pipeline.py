"""runtime/pipeline.py: what an answer depends on and what not, on real bundles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.errors import BackendError, ContextOverflowError, PromptError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline, open_pipeline
from leo_edge.runtime.sampling import Sampling
from tests.conftest import MadeOnce

QUESTION = "What is ahead?"
PRESETS = ("leo-tiny", "leo-mini-tiny")


@pytest.fixture(scope="module", params=PRESETS)
def pipeline(request: pytest.FixtureRequest, tiny_bundles: MadeOnce) -> Pipeline:
    return open_pipeline(tiny_bundles[request.param])


@pytest.fixture(scope="module")
def mini(tiny_bundles: MadeOnce) -> Pipeline:
    return open_pipeline(tiny_bundles["leo-mini-tiny"])


@pytest.fixture(scope="module")
def six() -> FrameSet:
    """Noise: flat images make random weights say the same whatever is asked."""
    random = np.random.default_rng(0)
    images = (random.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in NUSCENES_CAMERAS)
    return FrameSet.of([CameraFrame(channel, image) for channel, image in zip(NUSCENES_CAMERAS, images, strict=True)])


def with_images(frame_set: FrameSet, **images: np.ndarray) -> FrameSet:  # type: ignore[type-arg]
    """The same set with other images for some cameras."""
    frames = [replace(f, image=images.get(f.channel, f.image)) for f in frame_set.frames.values()]
    return FrameSet.of(frames, expected_channels=frame_set.channels)


class TestEncodeOnceAskMany:
    def test_answers_do_not_depend_on_what_was_asked_before(self, pipeline: Pipeline, six: FrameSet) -> None:
        tokens = pipeline.encode(six)
        first = pipeline.ask(tokens, QUESTION)
        other = pipeline.ask(tokens, "Is it safe to turn left?")
        again = pipeline.ask(tokens, QUESTION)
        assert first.token_ids == again.token_ids
        assert first.token_ids != other.token_ids

    def test_encoding_again_changes_nothing(self, pipeline: Pipeline, six: FrameSet) -> None:
        answers = [pipeline.ask(pipeline.encode(six), QUESTION) for _ in range(2)]
        assert answers[0].token_ids == answers[1].token_ids

    def test_each_camera_counts(self, pipeline: Pipeline, six: FrameSet) -> None:
        black = np.zeros_like(six.frames["CAM_BACK"].image)
        answers = [
            pipeline.ask(pipeline.encode(frames), QUESTION, AskOptions(max_new_tokens=1))
            for frames in (six, with_images(six, CAM_BACK=black))
        ]
        spans = [pipeline.encode(frames).cameras[3] for frames in (six, with_images(six, CAM_BACK=black))]
        assert spans[0].channel == "CAM_BACK"
        assert any(not np.array_equal(spans[0].by_expert[name], spans[1].by_expert[name]) for name in spans[0].by_expert)
        assert answers[0].num_visual_tokens == answers[1].num_visual_tokens

    def test_fusion_runs_once_where_it_does_not_depend_on_the_question(self, pipeline: Pipeline, six: FrameSet) -> None:
        tokens = pipeline.encode(six)
        fused_early = pipeline.bundle.manifest.family == "leo"
        assert ("fuse" in [span.name for span in tokens.spans]) == fused_early
        assert all((camera.fused is not None) == fused_early for camera in tokens.cameras)


class TestCameras:
    def test_the_order_of_cameras_is_the_prompts(self, pipeline: Pipeline, six: FrameSet) -> None:
        turned = FrameSet.of(six.frames.values(), expected_channels=NUSCENES_CAMERAS[::-1])
        tokens = pipeline.encode(turned)
        assert [camera.channel for camera in tokens.cameras] == list(NUSCENES_CAMERAS[::-1])
        assert pipeline.ask(tokens, QUESTION).token_ids != pipeline.ask(pipeline.encode(six), QUESTION).token_ids

    def test_cameras_of_different_shape_are_fused_as_each_would_be_alone(self, pipeline: Pipeline, six: FrameSet) -> None:
        """One fusion takes cameras with equally many tiles; mixing sizes must not mix cameras up."""
        random = np.random.default_rng(0)
        square, tall = (random.integers(0, 256, shape, dtype=np.uint8) for shape in ((300, 300, 3), (900, 300, 3)))
        mixed = pipeline.encode(with_images(six, CAM_FRONT_LEFT=square, CAM_BACK=tall))
        counts = [camera.num_tiles for camera in mixed.cameras]
        assert len(set(counts)) > 1
        text = pipeline.table.lookup(np.arange(5)) if pipeline.bundle.manifest.fuse.uses_text else None
        together = pipeline._fuse(list(mixed.cameras), text)
        for camera, embeds in zip(mixed.cameras, together, strict=True):
            np.testing.assert_allclose(embeds, pipeline._fuse([camera], text)[0], atol=1e-3)

    def test_a_missing_camera_is_in_the_answer(self, pipeline: Pipeline, six: FrameSet) -> None:
        five = FrameSet.of([f for f in six.frames.values() if f.channel != "CAM_BACK"])
        answer = pipeline.ask(pipeline.encode(five), QUESTION)
        assert answer.missing == ("CAM_BACK",)
        assert "CAM_BACK" not in answer.camera_stamps_ns

    def test_ages_count_from_the_moment_that_was_asked_about(self, mini: Pipeline, six: FrameSet) -> None:
        frames = [replace(f, stamp_ns=i * 1_000_000) for i, f in enumerate(six.frames.values())]
        tokens = mini.encode(FrameSet.of(frames, stamp_ns=10_000_000))
        options = AskOptions(max_new_tokens=1)
        assert mini.ask(tokens, QUESTION, options).age_ms["CAM_FRONT"] == pytest.approx(10)
        later = mini.ask(tokens, QUESTION, options, now_ns=110_000_000)
        assert later.age_ms["CAM_FRONT"] == pytest.approx(110)
        assert later.age_ms["CAM_BACK_RIGHT"] == pytest.approx(105)


class TestNoImage:
    def test_text_alone_has_an_answer(self, pipeline: Pipeline, six: FrameSet) -> None:
        answer = pipeline.ask(None, QUESTION)
        assert answer.num_visual_tokens == 0
        assert answer.token_ids != pipeline.ask(pipeline.encode(six), QUESTION).token_ids

    def test_only_the_general_expert_works(self, mini: Pipeline) -> None:
        """With the special experts switched on, the same prompt gets other logits."""
        embeds = mini.table.lookup(np.arange(3, 20))
        routing = mini._route([], embeds)
        assert routing["use_special"].tolist() == [0.0]
        alone = mini.decoder.prefill(embeds, routing)
        mixed = mini.decoder.prefill(embeds, routing | {"use_special": np.ones(1, np.float32)})
        assert np.abs(alone - mixed).max() > 1e-3
        assert np.abs(alone - mini.decoder.prefill(embeds, routing)).max() == 0


class TestAsking:
    def test_text_streams_as_it_is_decoded(self, pipeline: Pipeline, six: FrameSet) -> None:
        pieces: list[str] = []
        answer = pipeline.ask(pipeline.encode(six), QUESTION, on_text=pieces.append)
        assert "".join(pieces) == answer.text == pipeline.tokenizer.decode(list(answer.token_ids))
        assert len([piece for piece in pieces if piece]) > 1

    def test_a_seed_decides_a_drawn_answer(self, mini: Pipeline, six: FrameSet) -> None:
        tokens = mini.encode(six)
        drawn = [mini.ask(tokens, QUESTION, AskOptions(sampling=Sampling(2.0, 0.9, seed))).token_ids for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_a_deadline_ends_the_answer(self, mini: Pipeline, six: FrameSet) -> None:
        tokens = mini.encode(six)
        answer = mini.ask(tokens, QUESTION, AskOptions(max_new_tokens=500, deadline_ms=0.001))
        assert (len(answer.token_ids), answer.finish.value, answer.deadline_met) == (1, "deadline", False)
        assert mini.ask(tokens, QUESTION, AskOptions(max_new_tokens=1, deadline_ms=60_000)).deadline_met is True

    def test_every_stage_has_a_span(self, pipeline: Pipeline, six: FrameSet) -> None:
        tokens = pipeline.encode(six)
        names = [span.name for span in tokens.spans + pipeline.ask(tokens, QUESTION).spans]
        wanted = {"tiles", "prompt", "fuse", "prefill", "decode"} | {
            f"vision.{e.name}" for e in pipeline.bundle.manifest.experts
        }
        assert wanted <= set(names)
        assert ("router" in names) == pipeline.bundle.manifest.decoder.routed

    def test_a_prompt_beyond_the_context_says_how_to_fit(self, mini: Pipeline, six: FrameSet) -> None:
        with pytest.raises(ContextOverflowError, match=r"prompt \d+ \+ max_new_tokens 32 = \d+ tokens, .* --context-len \d+"):
            mini.ask(mini.encode(six), "Why? " * 1000)

    def test_an_empty_question_is_refused(self, mini: Pipeline) -> None:
        with pytest.raises(PromptError, match="empty"):
            mini.ask(None, " ")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
            ({"deadline_ms": 0.0}, "deadline_ms must be above 0, got 0.0"),
            ({"stop_strings": ("",)}, "a stop string must not be empty"),
        ],
    )
    def test_impossible_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AskOptions(**options)  # type: ignore[arg-type]


class TestOpening:
    def test_an_unknown_backend(self, tiny_bundles: MadeOnce) -> None:
        with pytest.raises(BackendError, match="unknown backend 'abacus': expected one of auto, trt, ort, ort-cuda, ort-trt"):
            open_pipeline(tiny_bundles["leo-tiny"], "abacus")

    def test_a_bundle_that_is_open_already(self, tiny_bundles: MadeOnce) -> None:
        bundle = open_bundle(tiny_bundles["leo-tiny"])
        assert open_pipeline(bundle).bundle is bundle

    def test_threads_do_not_change_the_answer(self, tiny_bundles: MadeOnce, six: FrameSet) -> None:
        answers = []
        for threads in (1, 2):
            pipeline = open_pipeline(tiny_bundles["leo-tiny"], threads=threads)
            answers.append(pipeline.ask(pipeline.encode(six), QUESTION).token_ids)
        assert answers[0] == answers[1]


def test_a_single_camera(mini: Pipeline) -> None:
    frame = CameraFrame("CAM_FRONT", np.full((90, 160, 3), 128, np.uint8), stamp_ns=0)
    tokens = mini.encode(FrameSet.of([frame], expected_channels=["CAM_FRONT"]))
    assert mini.ask(tokens, QUESTION).missing == ()


def test_fewer_tiles_than_the_bundle_would_cut(pipeline: Pipeline, six: FrameSet) -> None:
    whole, fewer = pipeline.encode(six), pipeline.encode(six, max_tiles=1)
    assert {camera.num_tiles for camera in whole.cameras} == {3}  # 160 x 90 is cut into 2 x 1 tiles and a thumbnail
    assert {camera.num_tiles for camera in fewer.cameras} == {1}
    assert pipeline.ask(fewer, QUESTION).text
    same = pipeline.encode(six, max_tiles=99)
    for name, array in whole.cameras[0].by_expert.items():
        assert np.array_equal(same.cameras[0].by_expert[name], array)


def test_fewer_visual_tokens_are_evenly_spread(tiny_bundles: MadeOnce, six: FrameSet) -> None:
    leo = open_pipeline(tiny_bundles["leo-tiny"])
    tokens = leo.encode(six)
    everything = leo.prepare(tokens, QUESTION, 1)
    start, length = everything.prompt.image_spans[0]
    half = leo.prepare(tokens, QUESTION, 1, max_visual_tokens=length // 2)
    half_start, half_length = half.prompt.image_spans[0]
    assert half_length == length // 2
    shown = half.embeds[half_start : half_start + half_length]
    assert np.array_equal(shown, everything.embeds[start : start + length : 2])
    assert not np.array_equal(shown, everything.embeds[start : start + half_length])
    assert leo.ask(tokens, QUESTION, AskOptions(max_visual_tokens=2)).num_visual_tokens == 2 * len(NUSCENES_CAMERAS)
    all_of_them = leo.ask(tokens, QUESTION, AskOptions(max_visual_tokens=length)).token_ids
    assert all_of_them == leo.ask(tokens, QUESTION).token_ids


def test_what_is_raised_between_tiles_ends_the_encoding(mini: Pipeline, six: FrameSet) -> None:
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        mini.encode(six, on_tile=stop)
    assert len(calls) == 3
