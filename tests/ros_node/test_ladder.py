"""ros_node/ladder.py: what is given up when, and that it does not swing."""

from __future__ import annotations

import pytest

from leo_edge.ros_node.ladder import DEFAULT_STEPS, Economy, Ladder, parse_ladder
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.spans import Span
from leo_edge.runtime.stage_model import AskWork, EncodeWork, StageModel, Work


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


def works(*tiles: int) -> list[Work]:
    return [Work(EncodeWork(1, each), (AskWork(1, 10, 1),)) for each in tiles]


def known_model(*, tile_ms: float = 10) -> StageModel:
    """A model of 20 ms a question, and 10 a tile; with the margin that no error is known for, 1.2."""
    model = StageModel()
    for tiles in (2, 4, 8):
        model.observe_encode(EncodeWork(1, tiles), [Span("vision.a", 0, round(tile_ms * tiles * 1e6))])
        model.observe_ask(AskWork(1, 10, 1), [Span("prompt", 0, 20_000_000)])
    return model


def test_a_level_is_chosen_before_work_starts_and_taken_back_with_some_to_spare() -> None:
    ladder, model = Ladder(DEFAULT_STEPS), known_model()
    times = works(8, 4, 2, 1)  # 120, 72, 48, 36 ms
    assert ladder.choose(model, times, 125) is None
    assert ladder.choose(model, times, 50) == "120 ms predicted, 50 left: max_tiles=3, side_every=3"
    assert (ladder.level, ladder.in_force) == (2, ("max_tiles=3", "side_every=3"))
    assert ladder.choose(model, times, 75) is None  # 72 is less, but not by a tenth
    assert ladder.choose(model, times, 81) == "72 ms predicted without, 81 left: side_every=3 taken back"
    assert ladder.choose(model, times, 10) == "72 ms predicted, 10 left: side_every=3, max_new_tokens=16"


def test_nothing_is_chosen_where_nothing_is_known() -> None:
    ladder = Ladder(DEFAULT_STEPS)
    for model, work, left_ms in (
        (StageModel(), works(8, 4, 2, 1), 50.0),
        (known_model(), None, 50.0),
        (known_model(), works(8, 4, 2, 1), None),
    ):
        assert ladder.choose(model, work, left_ms) is None
        assert ladder.level == 0


def test_missed_deadlines_correct_what_was_chosen() -> None:
    ladder, model = Ladder(DEFAULT_STEPS), known_model()
    assert ladder.choose(model, works(8, 4, 2, 1), 80) is not None
    assert ladder.level == 1
    ladder.record(150, 100)
    assert ladder.record(150, 100) == "2 answers in a row missed 100 ms, the last after 150: side_every=3"
    assert ladder.choose(model, works(8, 4, 2, 1), 80) is None
    assert ladder.level == 2
    reasons = [ladder.record(50, 100) for _ in range(20)]
    assert reasons[-1] == "20 answers in a row took less than 70% of 100 ms: side_every=3 taken back"
    assert ladder.level == 1
    assert [ladder.record(50, 100) for _ in range(60)] == [None] * 60  # the choice stands
    assert ladder.level == 1
