"""Rounds: what they measure, that all do the same work, that two take turns fairly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from leo_edge.bench.frame_sets import noise_frame_sets
from leo_edge.bench.measure import PipelineSubject, Round, StageTime, samples_of, sets_per_s, take_turns, warm_up
from leo_edge.runtime.backend import Decoder, Logits
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import CameraFrame, FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline, open_pipeline
from tests.conftest import MadeOnce

QUESTION = "What is ahead?"


@pytest.fixture(scope="module")
def frame_sets() -> tuple[FrameSet, ...]:
    return noise_frame_sets(1, np.random.default_rng(0))


@pytest.fixture(scope="module")
def pipeline(micro_bundles: MadeOnce) -> Pipeline:
    return open_pipeline(micro_bundles["plain"], "ort", threads=1)


class Scripted:
    """A subject whose whole takes as long as it is told, and which notes its rounds."""

    def __init__(self, times_ms: Sequence[float], log: list[str], name: str = "") -> None:
        self._times, self._log, self._name = list(times_ms), log, name

    def round(self, number: int) -> Round:
        self._log.append(f"{self._name}{number}")
        return {"answer": StageTime("frame set", self._times.pop(0))}


def test_a_round_holds_every_stage_of_the_pipeline_and_the_whole(pipeline: Pipeline, frame_sets: tuple[FrameSet, ...]) -> None:
    subject = PipelineSubject(pipeline, frame_sets, QUESTION, answer_tokens=3, max_tiles=1)
    done = dict(subject.round(0))
    per_set, per_question = ["tiles", "vision.vit"], ["prompt", "fuse", "router", "prefill", "first_token"]
    assert {name: stage.per for name, stage in done.items()} == {
        **dict.fromkeys(per_set, "frame set"),
        **dict.fromkeys(per_question, "question"),
        "decode": "token",
        "answer": "frame set",
    }
    whole = done["answer"].ms
    parts = sum(done[name].ms for name in (*per_set, "first_token")) + 2 * done["decode"].ms
    assert 0 < parts <= whole


def test_the_load_is_what_the_prompt_holds(pipeline: Pipeline, frame_sets: tuple[FrameSet, ...]) -> None:
    subject = PipelineSubject(pipeline, frame_sets, QUESTION, answer_tokens=2, max_tiles=1)
    subject.round(0)
    tokens = pipeline.encode(frame_sets[0], max_tiles=1)
    prompt = pipeline.prepare(tokens, QUESTION, 2).prompt
    load = subject.load
    assert (load.cameras, load.tiles_per_camera, load.image_px, load.answer_tokens) == (1, 1, (1600, 900), 2)
    assert load.prompt_tokens == len(prompt.token_ids)
    assert load.visual_tokens == sum(length for _, length in prompt.image_spans)
    assert load.question_tokens == len(prompt.question_ids)


def test_the_answer_has_its_length_where_a_stop_token_would_end_it(
    pipeline: Pipeline, frame_sets: tuple[FrameSet, ...]
) -> None:
    tokens = pipeline.encode(frame_sets[0], max_tiles=1)
    first = pipeline.ask(tokens, QUESTION, AskOptions(max_new_tokens=1)).token_ids[0]
    manifest = pipeline.bundle.manifest
    stopping = replace(manifest, prompt=replace(manifest.prompt, stop_ids=(first,)))
    ending = replace(pipeline, bundle=replace(pipeline.bundle, manifest=stopping))
    assert ending.ask(tokens, QUESTION, AskOptions(max_new_tokens=4)).finish is Finish.STOP_TOKEN  # the control
    subject = PipelineSubject(ending, frame_sets, QUESTION, answer_tokens=4, max_tiles=1)
    subject.round(0)
    assert subject.load.answer_tokens == 4


def test_an_answer_reuses_nothing_unless_it_is_told_to(
    pipeline: Pipeline, frame_sets: tuple[FrameSet, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts: list[int] = []
    kind = type(pipeline.decoder)
    extend = kind.extend

    def noting(decoder: Decoder, token_ids: Sequence[int]) -> Logits:
        drafts.append(len(token_ids) - 1)
        return extend(decoder, token_ids)

    monkeypatch.setattr(kind, "extend", noting)
    for savings in (False, True):
        subject = PipelineSubject(pipeline, frame_sets[:1], QUESTION, answer_tokens=8, max_tiles=1, savings=savings)
        subject.round(0)
        subject.round(1)
        assert (sum(drafts) > 0) == savings  # what was answered before is what is drafted


def test_cameras_of_two_sizes_are_refused(pipeline: Pipeline) -> None:
    shapes = {"A": (90, 160, 3), "B": (120, 160, 3)}
    frames = [CameraFrame(name, np.zeros(shape, np.uint8)) for name, shape in shapes.items()]
    mixed = FrameSet.of(frames, expected_channels=shapes)
    with pytest.raises(LeoEdgeError, match="160x90, 160x120 pixels, expected one size"):
        PipelineSubject(pipeline, [mixed], QUESTION, answer_tokens=2, max_tiles=1)


def test_an_answer_of_one_token_has_no_time_per_token(pipeline: Pipeline, frame_sets: tuple[FrameSet, ...]) -> None:
    with pytest.raises(ValueError, match="answer_tokens must be at least 2, got 1"):
        PipelineSubject(pipeline, frame_sets, QUESTION, answer_tokens=1)


def test_two_subjects_take_turns_at_being_first() -> None:
    log: list[str] = []
    first, second = take_turns([Scripted([1, 2, 3], log, "A"), Scripted([4, 5, 6], log, "B")], 3)
    assert log == ["A0", "B0", "B1", "A1", "A2", "B2"]
    assert [done["answer"].ms for done in first] == [1, 2, 3]
    assert [done["answer"].ms for done in second] == [4, 5, 6]


@pytest.mark.parametrize(
    ("times_ms", "rounds"),
    [([100, 99, 98], 2), ([100, 80, 60, 59, 10], 4), ([100, 120], 2), ([2.0**-i for i in range(20)], 10)],
)
def test_warm_up_ends_when_a_round_gains_no_more(times_ms: Sequence[float], rounds: int) -> None:
    assert [done["answer"].ms for done in warm_up(Scripted(times_ms, []))] == list(times_ms[:rounds])


def test_samples_stay_in_their_rounds_and_the_whole_comes_last() -> None:
    both = {"answer": StageTime("frame set", 9.0), "draft": StageTime("question", 1.0)}
    one = {"answer": StageTime("frame set", 7.0), "prefill": StageTime("question", 2.0)}
    samples = samples_of([both, one])
    assert list(samples) == ["draft", "prefill", "answer"]
    assert samples["draft"].samples_ms == (1.0, 0.0)
    assert samples["prefill"].samples_ms == (0.0, 2.0)
    assert sets_per_s(samples) == pytest.approx(2 / 0.016)
