"""ros_node/worker.py and encoder.py: a real pipeline at work, without ROS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from leo_edge.ros_node.inputs import CameraInfo, CompressedPicture, RawPicture
from leo_edge.ros_node.ladder import Ladder
from leo_edge.ros_node.outlet import AnswerReport, SetReport
from leo_edge.ros_node.questions import StandingQuestion
from leo_edge.ros_node.synchronizer import CameraState, SyncRules
from leo_edge.ros_node.worker import ASK_ID, Settings, Worker
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import CameraFrame, FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline, open_pipeline
from tests.conftest import MadeOnce
from tests.ros_node.pipelines import SlowPipeline

CAMERAS = ("front", "left", "right")
RULES = SyncRules(CAMERAS, anchor="front", max_wait_ms=100)
STAMP_NS = 1_700_000_000_000_000_000
MS = 1_000_000
QUESTIONS = (StandingQuestion("what", "What is ahead?"), StandingQuestion("why", "Why?"))


@dataclass
class Seen:
    """An outlet that keeps what it is told."""

    listened: bool = True
    answers: list[AnswerReport] = field(default_factory=list)
    pieces: list[tuple[str, int, str, bool]] = field(default_factory=list)
    sets: list[SetReport] = field(default_factory=list)
    levels: list[tuple[int, tuple[str, ...], str]] = field(default_factory=list)
    camera_errors: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def wanted(self) -> bool:
        return self.listened

    def on_answer(self, report: AnswerReport) -> None:
        self.answers.append(report)

    def on_piece(self, stamp_ns: int, question_id: str, index: int, text: str, *, last: bool) -> None:
        assert stamp_ns >= STAMP_NS
        self.pieces.append((question_id, index, text, last))

    def on_set(self, report: SetReport) -> None:
        self.sets.append(report)

    def on_degrade(self, level: int, steps: tuple[str, ...], reason: str) -> None:
        self.levels.append((level, steps, reason))

    def on_camera_error(self, channel: str, message: str) -> None:
        self.camera_errors.append((channel, message))

    def on_error(self, message: str) -> None:
        self.errors.append(message)


@pytest.fixture(scope="module")
def pipeline(micro_bundles: MadeOnce) -> Pipeline:
    return open_pipeline(micro_bundles["plain"], threads=1)


@dataclass
class Bench:
    """A worker and all around it."""

    pipeline: SlowPipeline
    seen: Seen
    worker: Worker

    def wait(self, num_answers: int, timeout_s: float = 20) -> None:
        end = time.monotonic() + timeout_s
        while len(self.seen.answers) < num_answers and time.monotonic() < end:
            time.sleep(0.002)
        assert len(self.seen.answers) >= num_answers, (self.seen.errors, self.seen.camera_errors)

    def wait_sets(self, num_sets: int, timeout_s: float = 20) -> None:
        end = time.monotonic() + timeout_s
        while len(self.seen.sets) < num_sets and time.monotonic() < end:
            time.sleep(0.002)
        assert len(self.seen.sets) >= num_sets, (self.seen.errors, self.seen.camera_errors)

    def offer(self, number: int, channels: tuple[str, ...] = CAMERAS) -> None:
        """A frame of each camera, a hundred milliseconds after the one before."""
        for channel in channels:
            self.worker.offer(channel, stamp_of(number), picture_of(channel, number))


def stamp_of(number: int) -> int:
    return STAMP_NS + number * 100 * MS


def image_of(channel: str, number: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng([CAMERAS.index(channel), number]).integers(0, 256, (90, 160, 3), np.uint8)


def picture_of(channel: str, number: int) -> RawPicture:
    image = image_of(channel, number)
    return RawPicture("rgb8", 90, 160, 480, image.tobytes())


@pytest.fixture
def bench(pipeline: Pipeline, request: pytest.FixtureRequest) -> Iterator[Bench]:
    options = getattr(request, "param", {})
    slow, seen = SlowPipeline.of(pipeline, options.get("ask_s", 0.0)), Seen()
    settings = Settings(options.get("questions", QUESTIONS), options.get("deadline_ms"), max_new_tokens=6)
    worker = Worker(slow, options.get("rules", RULES), Ladder(options.get("steps", ())), settings, seen)
    worker.start()
    yield Bench(slow, seen, worker)
    assert worker.stop(2.0)


def test_answers_are_those_of_the_pipeline_on_the_same_frames(bench: Bench, pipeline: Pipeline) -> None:
    bench.offer(0)
    bench.wait(2)
    frames = [CameraFrame(channel, image_of(channel, 0), stamp_of(0)) for channel in CAMERAS]
    tokens = pipeline.encode(FrameSet.of(frames, expected_channels=CAMERAS, stamp_ns=stamp_of(0)))
    for report, question in zip(bench.seen.answers, QUESTIONS, strict=True):
        wanted = pipeline.ask(tokens, question.text, AskOptions(6))
        assert report.question_id == question.id
        assert (report.answer.token_ids, report.answer.text) == (wanted.token_ids, wanted.text)
        assert report.answer.token_ids
        assert [use.state for use in report.encoded.cameras] == [CameraState.FRESH] * 3
        written = "".join(text for id, _, text, _ in bench.seen.pieces if id == question.id)
        assert written == wanted.text
    assert [piece[3] for piece in bench.seen.pieces].count(True) == 2
    other = pipeline.encode(FrameSet.of([CameraFrame(c, image_of(c, 1)) for c in CAMERAS], expected_channels=CAMERAS))
    assert pipeline.ask(other, "Why?", AskOptions(6)).token_ids != bench.seen.answers[1].answer.token_ids


def test_a_set_without_a_camera_names_it(bench: Bench) -> None:
    bench.offer(0, ("front", "right"))
    bench.wait(2)
    assert bench.seen.answers[0].answer.missing == ("left",)
    assert bench.pipeline.encoded == [("front", "right")]


def test_a_frame_that_was_encoded_is_not_encoded_again(bench: Bench) -> None:
    for number in range(3):
        bench.offer(number)
        bench.wait(2 * (number + 1))
    bench.offer(3, ("front", "right"))
    bench.wait(8)
    assert bench.pipeline.encoded == [CAMERAS, CAMERAS, CAMERAS, ("front", "right")]
    left = bench.seen.answers[-1].encoded.cameras[1]
    assert (left.channel, left.stamp_ns, left.state) == ("left", stamp_of(2), CameraState.FRESH)


def test_an_image_that_cannot_be_read_is_told_and_its_older_tokens_are_used(bench: Bench) -> None:
    bench.offer(0)
    bench.wait(2)
    bench.offer(3, ("front", "right"))
    bench.worker.offer("left", stamp_of(3), CompressedPicture(b"\xff\xd8\xff\xe0 no JPEG"))
    bench.wait(4)
    ((channel, message),) = bench.seen.camera_errors
    assert channel == "left"
    assert "cannot decode" in message
    left = bench.seen.answers[-1].encoded.cameras[1]
    assert (left.state, left.stamp_ns) == (CameraState.STALE, stamp_of(0))


def test_a_set_of_unreadable_images_is_survived(bench: Bench) -> None:
    for channel in CAMERAS:
        bench.worker.offer(channel, stamp_of(0), CompressedPicture(b"nothing"))
    while len(bench.seen.camera_errors) < 3:
        time.sleep(0.002)
    bench.offer(1)
    bench.wait(2)
    assert bench.seen.answers[0].encoded.stamp_ns == stamp_of(1)


@pytest.mark.parametrize("bench", [{"ask_s": 0.15, "questions": QUESTIONS[:1]}], indirect=True)
def test_under_overload_the_newest_set_is_taken_and_drops_are_counted(bench: Bench) -> None:
    for number in range(40):
        bench.offer(number)
        time.sleep(0.02)
    bench.wait(4)
    time.sleep(0.5)
    numbers = [report.encoded.number for report in bench.seen.answers]
    assert numbers[-1] == 39
    assert bench.worker.counts.sets == 40
    assert bench.worker.counts.dropped == 40 - len(numbers)
    assert bench.worker.counts.dropped > 20
    assert max(report.encoded.waited_ms for report in bench.seen.answers[:-1]) < 60  # no set is older than a newer one


def test_nobody_listens_nothing_is_done_and_nothing_counts_as_dropped(bench: Bench) -> None:
    bench.seen.listened = False
    time.sleep(0.3)
    for number in range(5):
        bench.offer(number)
    time.sleep(0.5)
    assert bench.pipeline.encoded == []
    assert (bench.worker.counts.sets, bench.worker.counts.dropped) == (5, 0)
    bench.seen.listened = True
    bench.wait(2)
    assert bench.seen.answers[0].encoded.number == 4


def test_a_question_from_outside_is_answered_without_listeners(bench: Bench) -> None:
    bench.seen.listened = False
    early = bench.worker.ask("What?", None, None)
    with pytest.raises(LeoEdgeError, match="there is no frame set yet"):
        early.result(5)
    bench.offer(0)
    report = bench.worker.ask("What?", 3, None).result(20)
    assert report.question_id == ASK_ID
    assert len(report.answer.token_ids) <= 3
    again = bench.worker.ask("What?", 3, None).result(20)
    assert again.answer.token_ids == report.answer.token_ids
    assert len(bench.pipeline.encoded) == 1
    with pytest.raises(LeoEdgeError, match="the question is empty"):
        bench.worker.ask(" ", 3, None).result(5)


@pytest.mark.parametrize("bench", [{"ask_s": 30.0}], indirect=True)
def test_stopping_ends_an_answer_and_refuses_what_waits(bench: Bench) -> None:
    bench.offer(0)
    while not bench.pipeline.asked:
        time.sleep(0.002)
    waiting = bench.worker.ask("What?", None, None)
    began = time.monotonic()
    assert bench.worker.stop(2.0)
    assert time.monotonic() - began < 0.5
    with pytest.raises(LeoEdgeError, match="deactivated"):
        waiting.result(1)
    with pytest.raises(LeoEdgeError, match="being deactivated"):
        bench.worker.ask("What?", None, None).result(1)
    assert bench.seen.answers == []


@pytest.mark.parametrize(
    "bench", [{"deadline_ms": 50.0, "ask_s": 0.1, "steps": ("side_every=3", "max_new_tokens=2")}], indirect=True
)
def test_missed_deadlines_go_down_the_ladder(bench: Bench) -> None:
    for number in range(5):
        bench.offer(number)
        bench.wait(2 * number + 2)
    assert not any(report.deadline_met for report in bench.seen.answers)
    assert bench.seen.levels[0][:2] == (1, ("side_every=3",))
    assert bench.seen.levels[1][:2] == (2, ("side_every=3", "max_new_tokens=2"))
    last = bench.seen.answers[-1]
    assert (last.level, last.steps) == (2, ("side_every=3", "max_new_tokens=2"))
    assert bench.pipeline.asked[-1][1].max_new_tokens == 2
    assert bench.pipeline.asked[0][1].max_new_tokens == 6
    later = bench.pipeline.encoded[1:]  # the anchor always, each other camera every third time
    assert all("front" in channels for channels in later)
    assert sum("left" in channels for channels in later) <= 2
    assert 0 < (bench.pipeline.asked[0][1].deadline_ms or 0) < 50
    assert bench.pipeline.asked[1][1].deadline_ms == pytest.approx(1e-6)  # the first question took the time of both


def test_a_changed_question_is_asked_from_the_next_set_on(bench: Bench) -> None:
    bench.offer(0)
    bench.wait(2)
    bench.worker.settings = Settings((StandingQuestion("new", "Where?"),), None, 6)
    bench.offer(1)
    bench.wait(3)
    assert [report.question_id for report in bench.seen.answers] == ["what", "why", "new"]


def test_an_image_of_another_size_than_its_camera_info_is_refused(bench: Bench) -> None:
    bench.worker.set_info("left", CameraInfo.of(1600, 900, [1, 0, 0, 0, 1, 0, 0, 0, 1]))
    with pytest.raises(LeoEdgeError, match="left: image is 160 x 90, its camera_info says 1600 x 900"):
        picture_of("left", 0).check("left", bench.worker.info("left"))
    picture_of("left", 0).check("left", CameraInfo.of(0, 0, [0] * 9))
