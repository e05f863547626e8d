"""runtime/speculation.py: what is drafted, for how long, and what is remembered of answers."""

from leo_edge.runtime.speculation import MOST_DRAFTED, AnswerMemory, Drafter


def test_the_last_answer_is_drafted_from_where_this_one_is() -> None:
    drafter = Drafter([1, 2], [10, 11, 12, 13, 14, 15, 16])
    drafter.note(10)
    assert drafter.draft(20) == (11, 12, 13, 14)
    assert drafter.draft(2) == (11, 12)
    assert drafter.draft(0) == ()


def test_drafts_grow_while_they_are_right() -> None:
    drafter = Drafter([], list(range(10, 60)))
    lengths = []
    for _ in range(4):
        lengths.append(len(drafter.draft(50)))
        drafter.judge(lengths[-1], lengths[-1])
    assert lengths == [4, 8, MOST_DRAFTED, MOST_DRAFTED]


def test_drafts_pause_while_they_are_wrong() -> None:
    drafter, drafted = Drafter([], [10] * 100), []
    for _ in range(40):
        drafter.note(10)
        drafted.append(bool(drafter.draft(4)))
        if drafted[-1]:
            drafter.judge(4, 0)
    assert sum(drafted) <= 6
    assert drafted[:4] == [True, False, True, False]


def test_an_answer_that_left_the_last_one_finds_it_again() -> None:
    drafter = Drafter([], [10, 11, 12, 13, 14])
    for token_id in (9, 11, 12):
        drafter.note(token_id)
    assert drafter.draft(4) == (13, 14)


def test_the_prompt_is_looked_up_where_there_is_no_last_answer() -> None:
    drafter = Drafter([1, 2, 3, 4, 5])
    drafter.note(2)
    assert drafter.draft(4) == ()  # one token alone says too little
    drafter.note(3)
    assert drafter.draft(4) == (4, 5, 2, 3)


def test_the_newest_occurrence_counts() -> None:
    drafter = Drafter([1, 2, 7, 1, 2, 8])
    drafter.note(1)
    drafter.note(2)
    assert drafter.draft(1) == (8,)


def test_memory_keeps_the_last_answer_of_the_latest_questions() -> None:
    memory = AnswerMemory(most=2)
    assert memory.recall("a") == ()
    for question, tokens in (("a", [1]), ("b", [2]), ("a", [3]), ("c", [4])):
        memory.keep(question, tokens)
    assert (memory.recall("a"), memory.recall("b"), memory.recall("c")) == ((3,), (), (4,))
