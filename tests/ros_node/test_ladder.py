"""ros_node/ladder.py: what is given up when, and that it does not swing."""

from __future__ import annotations

import pytest

from leo_edge.ros_node.ladder import DEFAULT_STEPS, Economy, Ladder, parse_ladder
from leo_edge.runtime.errors import LeoEdgeError


def test_levels_add_up() -> None:
    assert parse_ladder(("max_tiles=3", "side_every=3", "visual_tokens=0.5", "max_new_tokens=16")) == (
        Economy(),
        Economy(max_tiles=3),
        Economy(max_tiles=3, side_every=3),
        Economy(max_tiles=3, side_every=3, visual_tokens=0.5),
        Economy(max_tiles=3, side_every=3, visual_tokens=0.5, max_new_tokens=16),
    )


@pytest.mark.parametrize(
    "step",
    [
        "",
        "tiles=3",
        "max_tiles",
        "max_tiles=0",
        "max_tiles=1.5",
        "visual_tokens=0",
        "visual_tokens=2",
        "side_every=x",
        "a=1.1.1",
    ],
)
def test_what_is_no_step(step: str) -> None:
    with pytest.raises(LeoEdgeError, match=f"degrade has '{step}': a step is max_tiles=N"):
        parse_ladder([step])


def test_two_misses_in_a_row_go_down_one_alone_does_not() -> None:
    ladder = Ladder(DEFAULT_STEPS)
    assert [ladder.record(ms, 100) is None for ms in (150, 50, 150, 50, 150)] == [True] * 5
    reason = ladder.record(160, 100)
    assert reason == "2 answers in a row missed 100 ms, the last after 160: max_tiles=3"
    assert (ladder.level, ladder.in_force, ladder.economy.max_tiles) == (1, ("max_tiles=3",), 3)


def test_it_ends_at_the_last_step() -> None:
    ladder = Ladder(DEFAULT_STEPS)
    for _ in range(100):
        ladder.record(1000, 100)
    assert ladder.level == len(DEFAULT_STEPS)


def test_time_to_spare_goes_up_again_and_just_in_time_does_not() -> None:
    ladder = Ladder(DEFAULT_STEPS)
    ladder.record(200, 100), ladder.record(200, 100)
    for _ in range(100):
        assert ladder.record(90, 100) is None
    assert [ladder.record(50, 100) for _ in range(20)][-1] == (
        "20 answers in a row took less than 70% of 100 ms: max_tiles=3 taken back"
    )
    assert ladder.level == 0


def test_it_does_not_swing_between_a_step_that_is_enough_and_one_that_is_not() -> None:
    def changes(ladder: Ladder, answers: int) -> int:
        """Without the step an answer takes 120 ms of 100, with it 60."""
        return sum(ladder.record(60 if ladder.level else 120, 100) is not None for _ in range(answers))

    ladder = Ladder(DEFAULT_STEPS)
    first, later = changes(ladder, 200), changes(ladder, 2000)
    assert first >= 5  # down, up and down again, twice or more
    assert later <= 10  # 2000 answers at two down and twenty up would be 180 changes


def test_without_a_deadline_or_steps_nothing_is_given_up() -> None:
    for ladder, deadline_ms in ((Ladder(DEFAULT_STEPS), None), (Ladder(()), 100.0)):
        assert {ladder.record(1e6, deadline_ms) for _ in range(10)} == {None}
        assert ladder.level == 0
