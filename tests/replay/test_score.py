"""replay/score.py against counts made by hand, published intervals, and brute force over random cases."""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

import pytest

from leo_edge.replay.question_set import Question
from leo_edge.replay.score import (
    Accuracy,
    Agreement,
    Confusion,
    Difference,
    ScoredItem,
    Scores,
    agreement,
    images_of_other_scenes,
    majority_answers,
    majority_baseline,
    markdown_table,
    most_confused,
    pair,
    score,
    text_table,
    wilson_interval,
)
from leo_edge.runtime.errors import DatasetError


def item(template_type: str, num_hop: int, truth: str, answer: str) -> ScoredItem:
    return ScoredItem(template_type, num_hop, "?", truth, answer)


# exist 3 of 4, count 1 of 3, status 0 of 1; H0 1 of 3, H1 3 of 5; 4 of 8.
ITEMS = (
    item("exist", 1, "yes", "yes"),
    item("count", 0, "2", "3"),
    item("exist", 1, "no", "no"),
    item("exist", 0, "no", "yes"),
    item("count", 0, "2", "2"),
    item("status", 1, "moving", "parked"),
    item("exist", 1, "yes", " yes\n"),
    item("count", 1, "0", "3"),
)


def random_items(rng: random.Random) -> list[ScoredItem]:
    answers = ["yes", "no", "1", "2"]
    return [
        item(rng.choice(["exist", "count", "object"]), rng.randrange(2), rng.choice(answers), rng.choice(answers))
        for _ in range(rng.randint(1, 60))
    ]


class TestScore:
    def test_counts_by_hand(self) -> None:
        scores = score(ITEMS)
        assert scores.overall == Accuracy(8, 4)
        assert scores.by_type == {"exist": Accuracy(4, 3), "count": Accuracy(3, 1), "status": Accuracy(1, 0)}
        assert scores.by_hop == {0: Accuracy(3, 1), 1: Accuracy(5, 3)}
        assert scores.mean_of_types == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)

    def test_types_in_order_of_first_appearance_and_hops_ascending(self) -> None:
        scores = score(ITEMS[::-1])
        assert list(scores.by_type) == ["count", "exist", "status"]
        assert list(score((ITEMS[0], ITEMS[1])).by_hop) == [0, 1]

    @pytest.mark.parametrize(
        ("answer", "correct"),
        [
            ("no, there is no lane", True),
            ("\tno, there is no lane  \n", True),
            ("No, there is no lane", False),
            ("no, there is no lane.", False),
            ("no,  there is no lane", False),
            ("no", False),
            ("", False),
        ],
    )
    def test_only_white_space_at_the_ends_is_forgiven(self, answer: str, correct: bool) -> None:
        assert item("lane_change", 0, "no, there is no lane", answer).correct is correct

    def test_a_number_is_text(self) -> None:
        assert not item("count", 0, "2", "02").correct

    def test_parts_add_up(self) -> None:
        rng = random.Random(0)
        for _ in range(100):
            items = random_items(rng)
            scores = score(items)
            for parts in (scores.by_type.values(), scores.by_hop.values()):
                assert Accuracy(sum(part.n for part in parts), sum(part.correct for part in parts)) == scores.overall
            assert scores.overall.correct == sum(one.truth == one.answer for one in items)

    def test_one_answer_more_or_less_shows(self) -> None:
        """The negative control: a single wrong answer made right moves every figure that holds it, and no other."""
        mended = score((*ITEMS[:3], item("exist", 0, "no", "no"), *ITEMS[4:]))
        assert mended.overall == Accuracy(8, 5)
        assert mended.by_type == {**score(ITEMS).by_type, "exist": Accuracy(4, 4)}
        assert mended.by_hop == {**score(ITEMS).by_hop, 0: Accuracy(3, 2)}

    def test_nothing_to_score(self) -> None:
        with pytest.raises(DatasetError, match=r"^no answers to score, expected at least one: "):
            score([])

    def test_json(self) -> None:
        values = json.loads(json.dumps(score(ITEMS).to_json()))
        assert list(values) == ["overall", "mean_of_types", "by_type", "by_hop"]
        assert list(values["by_hop"]) == ["H0", "H1"]
        low, high = wilson_interval(3, 4)
        assert values["by_type"]["exist"] == {"n": 4, "correct": 3, "accuracy": 0.75, "low": low, "high": high}


class TestPair:
    QUESTIONS = (Question("a", "Is it?", "yes", "exist", 0), Question("b", "How many?", "3", "count", 1))

    def test_pairs_in_order(self) -> None:
        assert pair(self.QUESTIONS, ["no", "3"]) == (
            ScoredItem("exist", 0, "Is it?", "yes", "no"),
            ScoredItem("count", 1, "How many?", "3", "3"),
        )

    @pytest.mark.parametrize("answers", [["no"], ["no", "3", "3"], []])
    def test_other_number_of_answers(self, answers: Sequence[str]) -> None:
        message = rf"^got 2 questions and {len(answers)} answers, expected as many: answer each question once$"
        with pytest.raises(DatasetError, match=message):
            pair(self.QUESTIONS, answers)


class TestInterval:
    @pytest.mark.parametrize(
        ("correct", "n", "low", "high"),
        [
            # R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0000, 0.1611),
            (1, 29, 0.0061, 0.1718),
            # by hand: (0.8 + 0.19207 -+ 0.31362) / 1.38415
            (8, 10, 0.4902, 0.9433),
        ],
    )
    def test_published_values(self, correct: int, n: int, low: float, high: float) -> None:
        assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)

    def test_inverts_the_score_test(self) -> None:
        """The interval holds the p that the score test does not reject, found here one by one on a grid."""
        z, step = NormalDist().inv_cdf(0.975), 1e-4
        grid = [step * i for i in range(10_001)]
        rng = random.Random(1)
        for _ in range(30):
            n = rng.randint(1, 400)
            correct = rng.choice([0, n, rng.randint(0, n)])
            kept = [p for p in grid if abs(correct / n - p) <= z * math.sqrt(p * (1 - p) / n)]
            assert wilson_interval(correct, n) == pytest.approx((kept[0], kept[-1]), abs=step)

    def test_is_not_the_normal_approximation(self) -> None:
        """The negative control: the tolerance of the tests above tells the two apart."""
        for correct, n in ((8, 10), (15, 148), (81, 263)):
            share = correct / n
            low = share - 1.96 * math.sqrt(share * (1 - share) / n)
            assert abs(wilson_interval(correct, n)[0] - low) > 1e-3

    def test_properties(self) -> None:
        rng = random.Random(2)
        for _ in range(500):
            n = rng.randint(1, 5000)
            correct = rng.randint(0, n)
            low, high = wilson_interval(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
            assert low < high
            assert wilson_interval(n - correct, n) == pytest.approx((1 - high, 1 - low))
            more = wilson_interval(10 * correct, 10 * n)
            assert more[1] - more[0] < high - low

    def test_ends_are_exact(self) -> None:
        for n in range(1, 200):
            assert wilson_interval(0, n)[0] == 0
            assert wilson_interval(n, n)[1] == 1

    @pytest.mark.parametrize(("n", "correct"), [(0, 0), (3, 4), (3, -1)])
    def test_impossible_counts(self, n: int, correct: int) -> None:
        with pytest.raises(ValueError, match=rf"^got {correct} correct of {n}, expected 0 to n correct of n > 0$"):
            Accuracy(n, correct)


class TestMajority:
    def test_by_hand(self) -> None:
        """Exist has two of yes and no: the alphabetically first wins."""
        assert majority_answers(ITEMS) == {"exist": "no", "count": "2", "status": "moving"}
        scores = score(majority_baseline(ITEMS))
        assert scores.by_type == {"exist": Accuracy(4, 2), "count": Accuracy(3, 2), "status": Accuracy(1, 1)}
        assert scores.overall == Accuracy(8, 5)
        assert scores.by_hop == {0: Accuracy(3, 3), 1: Accuracy(5, 2)}

    def test_frequency_wins_over_the_alphabet(self) -> None:
        items = [item("object", 0, truth, "?") for truth in ("car", "truck", "truck", "bus", "truck", "car")]
        assert majority_answers(items) == {"object": "truck"}

    def test_does_not_depend_on_the_order_or_on_the_answers(self) -> None:
        rng = random.Random(3)
        for _ in range(50):
            items = random_items(rng)
            shuffled = [item(one.template_type, one.num_hop, one.truth, "something") for one in rng.sample(items, len(items))]
            assert majority_answers(shuffled) == majority_answers(items)

    def test_no_other_constant_answer_is_better(self) -> None:
        rng = random.Random(4)
        for _ in range(50):
            items = random_items(rng)
            scores = score(majority_baseline(items))
            for name, accuracy in scores.by_type.items():
                truths = [one.truth for one in items if one.template_type == name]
                assert accuracy.correct == max(map(truths.count, truths))

    def test_keeps_the_questions(self) -> None:
        for before, after in zip(ITEMS, majority_baseline(ITEMS), strict=True):
            assert (after.template_type, after.num_hop, after.truth) == (before.template_type, before.num_hop, before.truth)

    def test_truths_that_differ_in_white_space_are_one(self) -> None:
        items = [item("count", 0, truth, "?") for truth in ("1", "1", "2", " 2", "2\n")]
        assert majority_answers(items) == {"count": "2"}


class TestConfusions:
    def test_by_hand(self) -> None:
        assert most_confused(ITEMS, 5) == {
            "exist": (Confusion("no", "yes", 1),),
            "count": (Confusion("0", "3", 1), Confusion("2", "3", 1)),
            "status": (Confusion("moving", "parked", 1),),
        }

    def test_most_frequent_first_and_no_more_than_k(self) -> None:
        counts = {("1", "2"): 2, ("0", "1"): 3, ("3", "4"): 1, ("2", "1"): 2, ("1", "1"): 9}
        items = [item("count", 0, truth, answer) for (truth, answer), count in counts.items() for _ in range(count)]
        in_order = (Confusion("0", "1", 3), Confusion("1", "2", 2), Confusion("2", "1", 2), Confusion("3", "4", 1))
        for k in range(1, 6):
            assert most_confused(items, k) == {"count": in_order[:k]}

    def test_a_type_without_mistakes_is_there(self) -> None:
        assert most_confused([item("exist", 0, "yes", "yes ")], 1) == {"exist": ()}

    def test_counts_every_mistake_once(self) -> None:
        rng = random.Random(5)
        for _ in range(50):
            items = random_items(rng)
            counted = sum(one.count for pairs in most_confused(items, 100).values() for one in pairs)
            assert counted == len(items) - score(items).overall.correct

    def test_none_asked_for(self) -> None:
        with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
            most_confused(ITEMS, 0)


class TestAgreement:
    def test_equal(self) -> None:
        same = agreement(["yes", "2"], ("yes", "2"))
        assert same == Agreement(2, ())
        assert same.equal == 2

    def test_differences_are_listed_to_the_character(self) -> None:
        found = agreement(["yes", "no", "2", "car"], ["yes", "no ", "3", "car"])
        assert found == Agreement(4, (Difference(1, "no", "no "), Difference(2, "2", "3")))
        assert found.equal == 2
        assert json.loads(json.dumps(found.to_json())) == {
            "total": 4,
            "equal": 2,
            "differing": [{"index": 1, "first": "no", "second": "no "}, {"index": 2, "first": "2", "second": "3"}],
        }

    def test_other_lengths(self) -> None:
        with pytest.raises(DatasetError, match=r"^got 2 first answers and 1 second answers, expected as many: "):
            agreement(["yes", "no"], ["yes"])

    def test_nothing_to_compare(self) -> None:
        with pytest.raises(DatasetError, match=r"^no answers to compare, expected at least one: "):
            agreement([], [])


class TestImagesOfOtherScenes:
    @staticmethod
    def random_scenes(rng: random.Random) -> list[str]:
        """Two scenes at least, of different sizes, their keyframes mixed."""
        sizes = [rng.randint(1, 9) for _ in range(rng.randint(2, 7))]
        scenes = [f"scene-{i}" for i, size in enumerate(sizes) for _ in range(size)]
        return rng.sample(scenes, len(scenes))

    def test_never_of_the_same_scene_and_as_even_as_can_be(self) -> None:
        rng = random.Random(6)
        dominated = 0
        for seed in range(300):
            scenes = self.random_scenes(rng)
            source = images_of_other_scenes(scenes, seed)
            assert len(source) == len(scenes)
            assert all(scenes[other] != scene for scene, other in zip(scenes, source, strict=True))
            largest = max(Counter(scenes).values())
            most_shown = max(Counter(source).values())
            if 2 * largest <= len(scenes):
                assert sorted(source) == list(range(len(scenes)))
            else:
                dominated += 1
                assert most_shown == math.ceil(largest / (len(scenes) - largest))
        assert 20 < dominated < 280

    def test_a_plain_permutation_would_be_found_out(self) -> None:
        """The negative control: images of the same scene are common where nothing keeps them away."""
        scenes = self.random_scenes(random.Random(6))
        plain = random.Random(7).sample(range(len(scenes)), len(scenes))
        assert any(scenes[other] == scene for scene, other in zip(scenes, plain, strict=True))

    @pytest.mark.parametrize("num_scenes", [5, 2])
    def test_same_seed_same_images_and_another_seed_others(self, num_scenes: int) -> None:
        """Of two scenes, one has more than half of the keyframes."""
        scenes = [f"scene-{min(i // 10, num_scenes - 1)}" for i in range(50)]
        assert images_of_other_scenes(scenes, 3) == images_of_other_scenes(tuple(scenes), 3)
        assert images_of_other_scenes(scenes, 3) != images_of_other_scenes(scenes, 4)

    def test_scenes_are_not_exchanged_whole(self) -> None:
        scenes = [f"scene-{i // 40}" for i in range(400)]
        source = images_of_other_scenes(scenes, 0)
        shown = {scenes[other] for other in source[:40]}
        assert len(shown) > 4

    def test_two_scenes_of_two_keyframes(self) -> None:
        found = {images_of_other_scenes(["a", "a", "b", "b"], seed) for seed in range(50)}
        assert found == {(2, 3, 0, 1), (3, 2, 0, 1), (2, 3, 1, 0), (3, 2, 1, 0)}

    def test_one_keyframe_against_many(self) -> None:
        source = images_of_other_scenes(["a", "b", "a", "a"], 0)
        assert (source[0], source[2], source[3]) == (1, 1, 1)
        assert source[1] in (0, 2, 3)

    @pytest.mark.parametrize(("scenes", "number"), [(["a", "a"], 1), ([], 0)])
    def test_too_few_scenes(self, scenes: list[str], number: int) -> None:
        message = rf"^got {len(scenes)} keyframes of {number} scenes, expected 2 scenes at least: exchanging images takes"
        with pytest.raises(DatasetError, match=message):
            images_of_other_scenes(scenes, 0)


class TestTables:
    MAJORITY = score(majority_baseline(ITEMS))

    def test_text(self) -> None:
        assert text_table(score(ITEMS), {"majority": self.MAJORITY}).splitlines() == [
            "type           n  model, % [95 % interval]  majority, %",
            "exist          4         75.0 [30.1, 95.4]         50.0",
            "count          3          33.3 [6.1, 79.2]         66.7",
            "status         1           0.0 [0.0, 79.3]        100.0",
            "H0             3          33.3 [6.1, 79.2]        100.0",
            "H1             5         60.0 [23.1, 88.2]         40.0",
            "mean of types                         36.1         72.2",
            "all            8         50.0 [21.5, 78.5]         62.5",
        ]

    def test_markdown(self) -> None:
        assert markdown_table(score(ITEMS), {"majority": self.MAJORITY}, name="tiny").splitlines() == [
            "| type | n | tiny, % [95 % interval] | majority, % |",
            "| --- | ---: | ---: | ---: |",
            "| exist | 4 | 75.0 [30.1, 95.4] | 50.0 |",
            "| count | 3 | 33.3 [6.1, 79.2] | 66.7 |",
            "| status | 1 | 0.0 [0.0, 79.3] | 100.0 |",
            "| H0 | 3 | 33.3 [6.1, 79.2] | 100.0 |",
            "| H1 | 5 | 60.0 [23.1, 88.2] | 40.0 |",
            "| mean of types |  | 36.1 | 72.2 |",
            "| all | 8 | 50.0 [21.5, 78.5] | 62.5 |",
        ]

    def test_columns_in_their_order_and_all_of_a_width(self) -> None:
        lines = text_table(score(ITEMS), {"blind": score(ITEMS), "majority": self.MAJORITY}).splitlines()
        assert re.split(r"  +", lines[0]) == ["type", "n", "model, % [95 % interval]", "blind, %", "majority, %"]
        assert len({len(line) for line in lines}) == 1

    def test_without_other_columns(self) -> None:
        assert text_table(score(ITEMS)).splitlines()[-1].endswith("50.0 [21.5, 78.5]")

    def test_rows_in_the_order_that_was_given(self) -> None:
        lines = text_table(score(ITEMS), {"m": self.MAJORITY}, types=["status", "light", "count", "exist"]).splitlines()
        assert [line.split()[0] for line in lines[1:5]] == ["status", "light", "count", "exist"]
        assert lines[2].split() == ["light", "0", "-", "-"]

    def test_no_type_is_left_out(self) -> None:
        with pytest.raises(DatasetError, match=r"^got types exist, expected also count, status, which were asked: name all$"):
            text_table(score(ITEMS), types=["exist"])

    @pytest.mark.parametrize("items", [ITEMS[1:], (*ITEMS[:-1], item("count", 0, "0", "3")), (*ITEMS, ITEMS[0])])
    def test_columns_of_other_questions(self, items: tuple[ScoredItem, ...]) -> None:
        for table in (text_table, markdown_table):
            with pytest.raises(DatasetError, match=r"^column 'blind' has .*: score both on the same questions$"):
                table(score(ITEMS), {"blind": score(items)})

    def test_a_bar_in_a_name_does_not_break_markdown(self) -> None:
        scores = Scores(Accuracy(1, 1), {"a|b": Accuracy(1, 1)}, {0: Accuracy(1, 1)})
        assert r"| a\|b | 1 |" in markdown_table(scores)
