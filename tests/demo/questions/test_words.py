"""demo/questions/words.py: every phrasing of every form, NuScenes-QA's JSON, and the choice among a keyframe's questions."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from leo_edge.demo.questions.ask import ANSWERS, QUESTION_TYPES, Asked, Question
from leo_edge.demo.questions.words import PHRASINGS, choose, corpus, put_into_words, to_json
from leo_edge.demo.world.kinds import COLOUR_NAMES, KINDS, Kind
from leo_edge.replay import question_set

NOTHING = (None,) * 6
NUM_PHRASINGS = 3


def question(form: str, *slots: str, kind: str = "exist", answer: str = "yes") -> Question:
    return Question(kind, form, slots, answer, NOTHING)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


class TestPhrasings:
    def test_every_form_that_is_asked_has_as_many(self, asked: list[Asked]) -> None:
        assert {one.form for keyframe in asked for one in keyframe.questions} == set(PHRASINGS)
        assert {len(forms) for forms in PHRASINGS.values()} == {NUM_PHRASINGS}

    def test_all_are_whole_sentences_that_differ_and_name_every_slot(self, asked: list[Asked]) -> None:
        """A slot may stand in the other number than it has: all but its last letters must be there."""
        told = 0
        for one in {(q.form, q.slots): q for keyframe in asked for q in keyframe.questions}.values():
            texts = [put_into_words(one, phrasing) for phrasing in range(NUM_PHRASINGS)]
            assert len(set(texts)) == NUM_PHRASINGS
            for text in texts:
                assert re.fullmatch(r"[A-Z][A-Za-z ;,]+\?", text), text
                assert "  " not in text
                assert all(slot[:-1] in text for slot in one.slots), (text, one.slots)
            told += 1
        assert told > 300

    def test_a_phrasing_beyond_the_last_is_the_first_again(self) -> None:
        one = question("light")
        assert put_into_words(one, NUM_PHRASINGS) == put_into_words(one, 0)

    @pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
    def test_number_is_right(self, kind: Kind) -> None:
        name, plural = kind.name, kind.plural
        assert [put_into_words(question("exist", name, "front"), i) for i in range(NUM_PHRASINGS)] == [
            f"Is there a {name} to the front?",
            f"Are there any {plural} to the front?",
            f"Do you see a {name} to the front of me?",
        ]
        for i in range(NUM_PHRASINGS):
            count = put_into_words(question("count", plural, "back left"), i)
            assert f" {plural} " in count
            more = put_into_words(question("more here", plural, "front", "back"), i)
            assert f" {plural} " in more
            status = put_into_words(question("status", name, "front"), i)
            assert f" {name} " in status
            assert f" {plural} " not in status

    def test_every_article_fits(self) -> None:
        assert not [name for name in (*COLOUR_NAMES, *(kind.name for kind in KINDS)) if name[0] in "aeiou"]

    def test_slots_stand_in_their_order(self) -> None:
        one = question("more than", "cars", "trucks", "front right")
        assert put_into_words(one, 0) == "Are there more cars than trucks to the front right?"
        assert put_into_words(one, 2) == "Are the cars to the front right more numerous than the trucks?"


class TestJson:
    def test_has_nuscenes_qas_fields(self) -> None:
        one = question("count", "cars", "front", kind="count", answer="3")
        assert to_json(one, "cafe" * 8, 2) == {
            "sample_token": "cafe" * 8,
            "question": "How many cars do you see to the front?",
            "answer": "3",
            "template_type": "count",
            "num_hop": 1,
        }

    def test_hop_tells_whether_a_direction_is_named(self, asked: list[Asked]) -> None:
        hops = {(one.kind, to_json(one, "t", 0)["num_hop"]) for keyframe in asked for one in keyframe.questions}
        about_driving = {"light", "distance", "lane_change", "action"}
        assert hops == {(kind, int(kind not in about_driving)) for kind in QUESTION_TYPES}

    def test_is_what_the_reader_of_question_sets_takes(self, asked: list[Asked]) -> None:
        rows = [to_json(one, f"{i:032x}", i) for i, keyframe in enumerate(asked) for one in keyframe.questions[::50]]
        assert len(rows) > 100
        assert [question_set.Question(**row).to_json() for row in json.loads(json.dumps(rows))] == rows


class TestChoose:
    CAPS = (("exist", 4), ("count", 4), ("object", 2), ("status", 2), ("comparison", 4), ("colour", 2))

    @staticmethod
    def chosen(keyframe: Asked, seed: int) -> list[Question]:
        return choose(keyframe.questions, np.random.default_rng(seed))

    def test_keeps_so_many_of_each_answer_and_all_about_driving(self, asked: list[Asked]) -> None:
        capped = 0
        for seed, keyframe in enumerate(asked):
            offered = Counter((one.kind, one.answer) for one in keyframe.questions)
            given = Counter((one.kind, one.answer) for one in self.chosen(keyframe, seed))
            caps = dict(self.CAPS)
            assert given == {key: min(count, caps.get(key[0], count)) for key, count in offered.items()}
            capped += sum(given[key] < count for key, count in offered.items())
        assert capped > 100

    def test_are_questions_that_were_offered_each_once(self, asked: list[Asked]) -> None:
        for keyframe in asked[:5]:
            given = [(one.form, one.slots) for one in self.chosen(keyframe, 1)]
            assert len(set(given)) == len(given)
            assert set(self.chosen(keyframe, 1)) <= set(keyframe.questions)

    def test_same_seed_gives_the_same_choice_and_another_another(self, asked: list[Asked]) -> None:
        assert self.chosen(asked[0], 7) == self.chosen(asked[0], 7)
        assert self.chosen(asked[0], 7) != self.chosen(asked[0], 8)

    def test_of_nothing_chooses_nothing(self) -> None:
        assert choose([], np.random.default_rng(0)) == []


class TestCorpus:
    def test_has_every_word_of_every_question_and_answer(self, asked: list[Asked]) -> None:
        known = set().union(*(words_of(sentence) for sentence in corpus()))
        used = set().union(*(words_of(answer) for answer in ANSWERS))
        for one in {(q.form, q.slots): q for keyframe in asked for q in keyframe.questions}.values():
            for phrasing in range(NUM_PHRASINGS):
                used |= words_of(put_into_words(one, phrasing))
        assert used <= known
        assert {"car", "cars", "buses", "numerous", "meters", "left"} <= used
        assert "zebra" not in known

    def test_has_no_placeholders_left(self) -> None:
        sentences = list(corpus())
        assert len(sentences) > 500
        assert not [sentence for sentence in sentences if re.search(r"[{}]", sentence)]
