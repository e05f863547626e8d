"""ros_node/questions.py: when a question is due."""

from __future__ import annotations

from leo_edge.ros_node.questions import Schedule, StandingQuestion

S = 1_000_000_000
EVERY = StandingQuestion("every", "?")
SECOND = StandingQuestion("second", "?", 1.0)


def asked_of(question: StandingQuestion, stamps_ns: list[int]) -> list[int]:
    schedule = Schedule()
    asked = []
    for stamp_ns in stamps_ns:
        if schedule.is_due(question, stamp_ns):
            schedule.note(question, stamp_ns)
            asked.append(stamp_ns)
    return asked


def test_without_a_period_every_set_is_asked_about() -> None:
    stamps = [i * S // 12 for i in range(24)]
    assert asked_of(EVERY, stamps) == stamps


def test_a_period_is_kept_by_the_stamps() -> None:
    assert asked_of(SECOND, [i * S // 10 for i in range(31)]) == [0, 9 * S // 10, 18 * S // 10, 27 * S // 10]
    assert asked_of(SECOND, [i * S for i in range(5)]) == [i * S for i in range(5)]
    assert asked_of(SECOND, [0, round(0.95 * S), round(1.9 * S)]) == [0, round(0.95 * S), round(1.9 * S)]


def test_after_a_jump_back_in_time_it_is_due() -> None:
    assert asked_of(SECOND, [100 * S, 5 * S, 5 * S + 1, 6 * S]) == [100 * S, 5 * S, 6 * S]


def test_questions_do_not_wait_for_each_other() -> None:
    schedule = Schedule()
    schedule.note(SECOND, 0)
    assert schedule.is_due(StandingQuestion("other", "?", 1.0), 1)
    assert not schedule.is_due(SECOND, 1)
