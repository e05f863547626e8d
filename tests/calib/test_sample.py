"""calib/sample.py: frames spread over conditions and drives, questions over kinds."""

from collections import Counter

import pytest

from leo_edge.calib.sample import Candidate, choose_frames, choose_questions, conditions_of
from leo_edge.runtime.errors import CalibrationError

DRIVES = [(f"day-{i}", "day") for i in range(6)] + [("night-0", "night"), ("wet-0", "rain")]
CANDIDATES = [Candidate(drive, number, conditions) for drive, conditions in DRIVES for number in range(10)]


def test_conditions_are_read_from_descriptions_as_nuscenes_writes_them() -> None:
    assert conditions_of("Night, difficult lighting, parked cars") == "night"
    assert conditions_of("Rain, 4 lanes this way") == "rain"
    assert conditions_of("Night, rain, peds") == "night rain"
    assert conditions_of("Parked truck, construction, intersection") == "day"


def test_conditions_and_drives_are_taken_in_turn() -> None:
    chosen = choose_frames(CANDIDATES, 18, seed=1)
    assert Counter(one.conditions for one in chosen) == {"day": 6, "night": 6, "rain": 6}
    assert Counter(one.drive for one in chosen if one.conditions == "day") == {f"day-{i}": 1 for i in range(6)}
    assert len(set(chosen)) == 18


def test_a_seed_decides() -> None:
    assert choose_frames(CANDIDATES, 20, seed=1) == choose_frames(CANDIDATES, 20, seed=1)
    assert choose_frames(CANDIDATES, 20, seed=1) != choose_frames(CANDIDATES, 20, seed=2)


def test_fewer_frames_than_asked_for_are_refused() -> None:
    with pytest.raises(CalibrationError, match="100 frames were asked for, there are 80 with questions: give more drives or"):
        choose_frames(CANDIDATES, 100, seed=0)
    with pytest.raises(CalibrationError, match="--frames must be at least 1, got 0"):
        choose_frames(CANDIDATES, 0, seed=0)


def test_kinds_of_questions_are_asked_equally_often() -> None:
    asked: Counter[str] = Counter()
    kinds = ["count"] * 20 + ["exist"] * 20 + ["light"]
    for _ in range(6):
        assert len(set(choose_questions(kinds, 5, asked))) == 5
    assert asked == {"count": 12, "exist": 12, "light": 6}
    assert choose_questions(["count"], 5, asked) == [0]
