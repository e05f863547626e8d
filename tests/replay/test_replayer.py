"""replay/replayer.py on a simulated clock, where every time is known, and on the machine's own."""

from typing import Any

import pytest

from leo_edge.replay.player import Clock, SimulatedClock, WallClock
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.run_files import Json, Outcome
from leo_edge.replay.source import Drive
from tests.replay.drives import Asks, TimedPipeline, keyframes


def replayed(
    drive: Drive, options: PlayOptions, encode_ms: float, ask_ms: float, queries: Asks | None = None, clock: Clock | None = None
) -> tuple[list[Json], list[Json], TimedPipeline]:
    """Returns the answers, the lines of timing and the pipeline, which remembers its deadlines."""
    simulated = SimulatedClock()
    pipeline = TimedPipeline(encode_ms, ask_ms, None if clock else simulated)
    outcomes = list(Replayer(pipeline, queries or Asks(), options, clock or simulated).replay(drive))
    return [answer for one in outcomes for answer in one.answers], [one.timing for one in outcomes], pipeline


def test_as_fast_as_possible_answers_everything_and_waits_for_nothing() -> None:
    answers, timing, _ = replayed(keyframes(5), PlayOptions(), 700, 100, Asks(2))
    assert [answer["id"] for answer in answers] == [f"drive-{i}_{j}" for i in range(5) for j in range(2)]
    assert all(answer["answer"] == f"at {answer['stamp_ns']}" for answer in answers)
    *sets, end = timing
    assert [line["outcome"] for line in sets] == ["answered"] * 5
    assert [line["ready_ms"] for line in sets] == [0, 900, 1800, 2700, 3600]
    assert end.pop("peak_memory_mb") > 10
    assert end == {
        "drive": "drive",
        "num_sets": 5,
        "num_taken": 5,
        "num_dropped": 0,
        "drive_s": 2.0,
        "wall_s": 4.5,
        "resumed": False,
    }


def test_as_fast_as_possible_passes_over_what_nobody_asks_about() -> None:
    queries = Asks(1, about=lambda planned: planned.number % 2 == 1)
    _, timing, _ = replayed(keyframes(5), PlayOptions(), 10, 10, queries)
    assert [line.get("set") for line in timing] == [1, 3, None]
    _, timing, _ = replayed(keyframes(5), PlayOptions(rate=1.0), 10, 10, queries)
    assert [line.get("outcome") for line in timing] == ["encoded", "answered", "encoded", "answered", "encoded", None]


def test_in_real_time_late_sets_are_dropped_with_their_questions() -> None:
    answers, timing, _ = replayed(keyframes(6), PlayOptions(rate=1.0), 400, 300, Asks(2))
    *sets, end = timing
    assert [line["outcome"] for line in sets] == ["answered", "dropped", "answered", "dropped", "answered", "answered"]
    assert [line["unanswered"] for line in sets if line["outcome"] == "dropped"] == [2, 2]
    assert {answer["sample"] for answer in answers} == {"drive-0", "drive-2", "drive-4", "drive-5"}
    assert (end["num_taken"], end["num_dropped"]) == (4, 2)
    waited = [line["waited_ms"] for line in sets if line["outcome"] == "answered"]
    assert waited == [0, 0, 0, 500]  # the fifth is done at 3000, the sixth is there since 2500


def test_a_deadline_counts_from_when_the_set_is_there_and_its_misses_are_noted() -> None:
    _, timing, pipeline = replayed(keyframes(2), PlayOptions(rate=1.0, deadline_ms=250), 100, 60, Asks(3))
    assert [[answer["late"] for answer in line["answers"]] for line in timing[:2]] == [[False, False, True]] * 2
    assert pipeline.deadlines_ms == pytest.approx([150, 90, 30] * 2)
    assert [answer["since_ready_ms"] for answer in timing[0]["answers"]] == [160, 220, 280]


def test_what_is_asked_after_its_deadline_is_to_stop_at_once() -> None:
    _, timing, pipeline = replayed(keyframes(1), PlayOptions(rate=1.0, deadline_ms=50), 100, 60)
    assert pipeline.deadlines_ms == [1e-6]
    assert timing[0]["answers"][0]["late"]


def test_without_a_deadline_nothing_is_late() -> None:
    _, timing, pipeline = replayed(keyframes(2), PlayOptions(rate=1.0), 5000, 5000)
    assert not any(answer["late"] for line in timing[:2] for answer in line.get("answers", ()))
    assert set(pipeline.deadlines_ms) == {None}


def counts(timing: list[Json]) -> dict[str, Any]:
    """Drops and misses: what must not depend on which clock ran."""
    sets = timing[:-1]
    return {
        "outcomes": [line["outcome"] for line in sets],
        "late": [answer["late"] for line in sets for answer in line.get("answers", ())],
    }


def test_drops_and_misses_in_real_time_equal_those_of_the_simulation() -> None:
    """Every decision is 50 ms or more from going the other way."""
    drive, options = keyframes(8, every_ms=400), PlayOptions(rate=1.0, deadline_ms=650)
    _, simulated, _ = replayed(drive, options, 100, 400, Asks(2))
    _, real, _ = replayed(drive, options, 100, 400, Asks(2), WallClock())
    assert counts(real) == counts(simulated)
    assert counts(simulated)["outcomes"].count("dropped") == 3
    assert set(counts(simulated)["late"]) == {False, True}
    _, other, _ = replayed(drive, options, 50, 20, Asks(2))
    assert counts(other) != counts(simulated)


def test_goes_on_after_a_set() -> None:
    whole = replayed(keyframes(5), PlayOptions(), 10, 10)[0]
    simulated = SimulatedClock()
    replayer = Replayer(TimedPipeline(10, 10, simulated), Asks(), PlayOptions(), simulated)
    rest: list[Outcome] = list(replayer.replay(keyframes(5), after_set=2))
    assert [answer for one in rest for answer in one.answers] == whole[3:]
    assert rest[-1].timing["resumed"]
