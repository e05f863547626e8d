"""replay/player.py: sets are there at their stamps, the newest wins, and the wall clock agrees with the simulated one."""

import time

import pytest

from leo_edge.replay.player import Clock, SimulatedClock, WallClock, check_rate, loading_ahead, play
from leo_edge.replay.source import PlannedSet, plan_sets
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import FrameSet
from tests.replay.drives import MS, drive_of, keyframes, ref


def sets_at(*ready_ms: float) -> tuple[PlannedSet, ...]:
    return plan_sets(drive_of(*(ref("A", 1000 + ms) for ms in ready_ms), channels=("A",)))


def played(sets: tuple[PlannedSet, ...], clock: Clock, rate: float | None, work_ms: float) -> list[str]:
    """Plays, working so long on every set that is taken; returns when each was taken in ms, or that it was dropped."""
    start_ns, turns = clock.now_ns(), []
    for turn in play(sets, clock, rate):
        turns.append("dropped" if turn.taken_ns is None else f"{(turn.taken_ns - start_ns) / MS:.0f}")
        if turn.taken_ns is not None:
            clock.wait_until(clock.now_ns() + round(work_ms * MS))
    return turns


@pytest.mark.parametrize(
    ("rate", "work_ms", "expected"),
    [
        (1.0, 50, ["0", "100", "200", "300", "400"]),  # each set in its time
        (1.0, 150, ["0", "150", "dropped", "300", "450"]),  # at 300, two are there
        (1.0, 250, ["0", "dropped", "250", "dropped", "500"]),
        (1.0, 1000, ["0", "dropped", "dropped", "dropped", "1000"]),
        (2.0, 50, ["0", "50", "100", "150", "200"]),
        (0.5, 150, ["0", "200", "400", "600", "800"]),
        (None, 250, ["0", "250", "500", "750", "1000"]),  # nothing is dropped
    ],
)
def test_takes_the_newest_set_that_is_there(rate: float | None, work_ms: float, expected: list[str]) -> None:
    sets = sets_at(0, 100, 200, 300, 400)
    assert played(sets, SimulatedClock(), rate, work_ms) == expected


def test_every_set_has_one_turn_in_order() -> None:
    sets = plan_sets(keyframes(30, every_ms=70))
    clock = SimulatedClock()
    turns = []
    for turn in play(sets, clock, 1.0):
        turns.append(turn)
        clock.wait_until(clock.now_ns() + (37 * len(turns) % 200) * MS)
    assert [turn.planned for turn in turns] == list(sets)
    assert all(turn.taken_ns is None or turn.taken_ns >= turn.ready_ns for turn in turns)
    assert not turns[-1].dropped


def test_the_wall_clock_drops_what_the_simulation_drops() -> None:
    """A pipeline slowed on purpose, its times half a period away from where a decision would change."""
    sets = sets_at(*(200 * i for i in range(9)))
    simulated = played(sets, SimulatedClock(), 1.0, 500)
    real = played(sets, WallClock(), 1.0, 500)
    assert [one == "dropped" for one in real] == [one == "dropped" for one in simulated]
    assert simulated.count("dropped") > 3


def test_the_wall_clock_keeps_time() -> None:
    started = time.perf_counter()
    turns = list(play(sets_at(0, 60, 120), WallClock(), 2.0))
    assert 0.06 <= time.perf_counter() - started < 1.0
    assert [(turn.ready_ns - turns[0].ready_ns) / MS for turn in turns] == [0, 30, 60]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_refuses_rates_that_no_clock_can_keep(rate: float) -> None:
    with pytest.raises(DatasetError, match=r"--rate must be 0.01 to 1000, got .*: 1 is real time"):
        check_rate(rate)


class TestLoadingAhead:
    def test_gives_the_set_that_is_asked_for_whatever_was_passed_over(self) -> None:
        sets = plan_sets(keyframes(10))
        with loading_ahead(sets) as load:
            for i in (0, 1, 5, 9):
                assert load(sets[i]).stamp_ns == sets[i].stamp_ns

    def test_reads_no_further_than_two_sets_ahead(self) -> None:
        read: list[str] = []

        def reads(name: str) -> PlannedSet:
            inner = keyframes(1, name=name)

            class Noted(PlannedSet):
                def load(self) -> FrameSet:
                    read.append(name)
                    return super().load()

            planned = plan_sets(inner)[0]
            return Noted(int(name), planned.frames, planned.channels, planned.stamp_ns, planned.ready_ns, planned.sample)

        sets = [reads(str(i)) for i in range(8)]
        with loading_ahead(sets) as load:
            load(sets[0])
            time.sleep(0.2)
            assert read == ["0", "1", "2"]

    def test_an_image_that_cannot_be_read_is_an_error_where_it_is_taken(self) -> None:
        def broken() -> None:
            raise DatasetError("gone")

        good = keyframes(2)
        bad = [one if i < 3 else type(one)(one.channel, one.stamp_ns, broken, one.sample) for i, one in enumerate(good.frames)]  # type: ignore[arg-type]
        sets = plan_sets(drive_of(*bad))
        with loading_ahead(sets) as load:
            load(sets[0])
            with pytest.raises(DatasetError, match="gone"):
                load(sets[1])
