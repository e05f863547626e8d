"""ros_node/forecast.py and the worker that uses it: the ladder's level is chosen before the work starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from leo_edge.ros_node.encoder import EncodedSet, SetShape
from leo_edge.ros_node.forecast import Forecast
from leo_edge.ros_node.ladder import Economy, Ladder
from leo_edge.ros_node.outlet import AnswerReport
from leo_edge.ros_node.worker import Settings, Worker
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.pipeline import AskOptions, Pipeline, open_pipeline
from leo_edge.runtime.stage_model import AskWork, EncodeWork, Work
from leo_edge.runtime.tokens import NO_IMAGES
from tests.conftest import MadeOnce
from tests.ros_node.pipelines import CostedPipeline, FakeClock
from tests.ros_node.test_worker import QUESTIONS, RULES, Bench, Seen

STEPS = ("max_tiles=1", "max_new_tokens=2")
WARM = 6  # sets: three to know the stages, three to know how sure that is


@pytest.fixture(scope="module")
def pipeline(micro_bundles: MadeOnce) -> Pipeline:
    return open_pipeline(micro_bundles["plain"], threads=1)


@contextmanager
def at_work(pipeline: Pipeline, *, foresee: bool, questions: int = 1) -> Iterator[Bench]:
    """A worker that has answered some sets without a deadline."""
    clock, seen = FakeClock(), Seen()
    costed = CostedPipeline.costed(pipeline, clock)
    settings = Settings(QUESTIONS[:questions], None, max_new_tokens=6)
    worker = Worker(costed, RULES, Ladder(STEPS), settings, seen, clock=clock, foresee=foresee)
    worker.start()
    bench = Bench(costed, seen, worker)
    play(bench, WARM)
    assert seen.levels == []
    yield bench
    assert worker.stop(2.0)


def play(bench: Bench, num_sets: int) -> list[bool]:
    """Offers sets, each when the one before is done; says which of the answers were in time."""
    before = len(bench.seen.answers)
    for _ in range(num_sets):
        number = len(bench.seen.sets)
        bench.offer(number)
        bench.wait_sets(number + 1)
    assert not bench.seen.errors
    return [report.deadline_met for report in bench.seen.answers[before:]]


def tighten(bench: Bench, share: float) -> float:
    """Sets a deadline of a share of what a set takes; returns what it takes, in ms."""
    took_ms = bench.seen.answers[-1].since_ms
    bench.worker.settings = replace(bench.worker.settings, deadline_ms=share * took_ms)
    return took_ms


def test_a_tight_deadline_is_met_by_the_first_set(pipeline: Pipeline) -> None:
    with at_work(pipeline, foresee=True) as bench:
        took_ms = tighten(bench, 0.8)
        assert play(bench, 4) == [True] * 4
        ((level, steps, reason),) = bench.seen.levels
        assert (level, steps) == (1, ("max_tiles=1",))
        assert reason == f"{1.05 * took_ms:.0f} ms predicted, {0.8 * took_ms:.0f} left: max_tiles=1"


def test_without_foresight_two_sets_are_late_first(pipeline: Pipeline) -> None:
    with at_work(pipeline, foresee=False) as bench:
        tighten(bench, 0.8)
        assert play(bench, 4) == [False, False, True, True]
        assert bench.seen.levels[0][2].startswith("2 answers in a row missed")


def test_all_questions_that_are_due_count(pipeline: Pipeline) -> None:
    with at_work(pipeline, foresee=True, questions=2) as bench:
        tighten(bench, 0.8)
        assert play(bench, 3) == [True] * 6
        assert bench.seen.levels[0][0] >= 1


def test_what_was_given_up_is_taken_back_when_there_is_time_again(pipeline: Pipeline) -> None:
    with at_work(pipeline, foresee=True) as bench:
        took_ms = tighten(bench, 0.8)
        play(bench, 2)
        bench.worker.settings = replace(bench.worker.settings, deadline_ms=2 * took_ms)
        assert play(bench, 1) == [True]
        level, steps, reason = bench.seen.levels[-1]
        assert (level, steps) == (0, ())
        assert "ms predicted without" in reason
        assert reason.endswith("max_tiles=1 taken back")


@pytest.mark.parametrize(
    ("reused", "finish", "computed", "tokens"),
    [(0, Finish.STOP_TOKEN, 80, 3), (10, Finish.STOP_TOKEN, 70, 3), (44, Finish.STOP_TOKEN, 16, 3), (0, Finish.LENGTH, 80, 6)],
)
def test_what_is_reused_and_how_long_answers_are_is_learned(
    pipeline: Pipeline, reused: int, finish: Finish, computed: int, tokens: int
) -> None:
    """40 visual tokens and 20 others; next time 60 visual ones."""
    answer = pipeline.ask(None, "What?", AskOptions(3))
    answer = replace(answer, num_prompt_tokens=60, num_visual_tokens=40, num_reused_tokens=reused)
    answer = replace(answer, token_ids=(1, 2, 3), finish=finish)
    encoded = EncodedSet(0, 0, 0.0, NO_IMAGES, (), {})
    report = AnswerReport("what", answer, encoded, 1.0, None, True, 0, ())
    forecast, shape = Forecast(), SetShape(EncodeWork(3, 6), 3, 60)
    assert forecast.works([Economy()], [shape], QUESTIONS[:1], 6) is None
    forecast.note(encoded, [report], 1.0)
    wanted = Work(EncodeWork(3, 6), (AskWork(3, computed, tokens),))
    assert forecast.works([Economy()], [shape], QUESTIONS[:1], 6) == [wanted]
    assert forecast.works([Economy()], [None], QUESTIONS[:1], 6) is None


def test_a_device_that_has_become_slower_is_late_once(pipeline: Pipeline) -> None:
    with at_work(pipeline, foresee=True) as bench:
        tighten(bench, 1.2)
        assert play(bench, 2) == [True] * 2
        object.__setattr__(bench.pipeline, "slowdown", 1.6)
        assert play(bench, 6) == [False] + [True] * 5
        assert [level for level, _, _ in bench.seen.levels] == [1]
