"""demo/questions/sets.py: so many questions of each type, every answer as often as the others, chosen the same way again."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from leo_edge.demo.questions.ask import QUESTION_TYPES, Asked, Question
from leo_edge.demo.questions.sets import SetItem, choose_set
from leo_edge.demo.questions.words import PHRASINGS
from leo_edge.demo.training.drawing import Asking

PER_TYPE = 40
NOTHING = (None,) * 6


def asking(number: int, questions: Iterable[Question]) -> Asking:
    listed = tuple(questions)
    return Asking(scene=number, keyframe=0, questions=listed, candidates=len(listed), in_doubt=0, counts=())


@pytest.fixture(scope="module")
def offered(asked: list[Asked]) -> list[Asking]:
    """Everything that the keyframes can answer, every fifth comparison."""
    kept = ([one for i, one in enumerate(entry.questions) if one.kind != "comparison" or i % 5 == 0] for entry in asked)
    return [asking(number, questions) for number, questions in enumerate(kept)]


@pytest.fixture(scope="module")
def chosen(offered: list[Asking]) -> list[SetItem]:
    return choose_set(offered, PER_TYPE, seed=1)


def by_answer(items: Iterable[Question]) -> dict[str, Counter[str]]:
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for one in items:
        counted[one.kind][one.answer] += 1
    return counted


class TestChooseSet:
    def test_same_seed_gives_the_same_set_and_another_another(self, offered: list[Asking], chosen: list[SetItem]) -> None:
        assert choose_set(offered, PER_TYPE, seed=1) == chosen
        assert choose_set(offered, PER_TYPE, seed=2) != chosen

    def test_each_type_has_as_many_as_asked_for_or_all_that_there_are(
        self, offered: list[Asking], chosen: list[SetItem]
    ) -> None:
        supply = Counter(one.kind for entry in offered for one in entry.questions)
        given = Counter(item.question.kind for item in chosen)
        assert given == {kind: min(count, PER_TYPE) for kind, count in supply.items()}
        assert set(given) == set(QUESTION_TYPES)
        assert min(supply.values()) < PER_TYPE < max(supply.values())

    @pytest.mark.parametrize("per_type", [1, 7, 40, 100])
    def test_answers_are_as_frequent_as_each_other_while_they_last(self, offered: list[Asking], per_type: int) -> None:
        supply = by_answer(one for entry in offered for one in entry.questions)
        given = by_answer(item.question for item in choose_set(offered, per_type, seed=1))
        for kind, answers in supply.items():
            assert sum(given[kind].values()) == min(per_type, sum(answers.values()))
            most = max(given[kind].values())
            for answer, count in answers.items():
                assert given[kind][answer] >= min(count, most - 1), (kind, answer)

    def test_the_pool_itself_is_not_balanced(self, offered: list[Asking]) -> None:
        supply = by_answer(one for entry in offered for one in entry.questions)
        assert max(supply["exist"].values()) > 2 * min(supply["exist"].values())
        assert max(supply["count"].values()) > 2 * min(supply["count"].values())

    def test_no_question_is_there_twice(self, chosen: list[SetItem]) -> None:
        keys = [(item.keyframe, item.question.form, item.question.slots) for item in chosen]
        assert len(set(keys)) == len(keys)

    def test_items_name_the_keyframe_that_the_question_is_about(self, offered: list[Asking], chosen: list[SetItem]) -> None:
        assert all(item.question in offered[item.keyframe].questions for item in chosen)
        assert len({item.keyframe for item in chosen}) == len(offered)

    def test_are_ordered_by_type_and_keyframe(self, chosen: list[SetItem]) -> None:
        keys = [(QUESTION_TYPES.index(item.question.kind), item.keyframe) for item in chosen]
        assert keys == sorted(keys)

    def test_every_phrasing_is_used(self, chosen: list[SetItem]) -> None:
        used = {(item.question.form, item.phrasing) for item in chosen}
        assert all(0 <= phrasing < len(PHRASINGS[form]) for form, phrasing in used)
        assert {phrasing for form, phrasing in used if form == "exist"} == {0, 1, 2}

    def test_of_nothing_chooses_nothing(self) -> None:
        assert choose_set([], PER_TYPE, seed=0) == []
        assert choose_set([asking(0, [])], PER_TYPE, seed=0) == []


class TestWordsDoNotTellTheAnswer:
    """Cars are mostly there and buses mostly not: both are asked about as often with either answer."""

    SUPPLY = (("car", "yes", 60), ("car", "no", 25), ("bus", "yes", 25), ("bus", "no", 60))

    @staticmethod
    def counts(questions: Iterable[Question]) -> dict[tuple[str, str], int]:
        return dict(Counter((one.slots[0], one.answer) for one in questions))

    def test_the_rarer_answer_of_a_question_goes_first(self) -> None:
        pool = [
            Question("exist", "exist", (name, "front"), answer, NOTHING)
            for name, answer, count in self.SUPPLY
            for _ in range(count)
        ]
        entries = [asking(number, [one]) for number, one in enumerate(pool)]
        given = self.counts(item.question for item in choose_set(entries, 60, seed=4))
        assert sum(given.values()) == 60
        assert abs(given["car", "yes"] - given["car", "no"]) <= 2
        assert abs(given["bus", "yes"] - given["bus", "no"]) <= 2
        offered = self.counts(pool)
        assert offered["car", "yes"] > 2 * offered["car", "no"]
