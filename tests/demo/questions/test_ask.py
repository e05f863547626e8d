"""demo/questions/ask.py: answers against a plain count over what is shown; driving questions in scenes put up by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from leo_edge.demo.questions.ask import (
    ANSWERS,
    DIRECTIONS,
    GO_CLEAR,
    GO_GREEN,
    KEEP_DISTANCE,
    NO_LANE,
    NO_VEHICLE,
    OCCUPIED,
    QUESTION_TYPES,
    SAFE,
    SLOW_YELLOW,
    STOP_PERSON,
    STOP_RED,
    Asked,
    Question,
    ask_all,
)
from leo_edge.demo.world.kinds import BICYCLE, BUS, CAR, COLOUR_NAMES, PEDESTRIAN, TRUCK
from leo_edge.demo.world.observe import Keyframe, Shown, observe
from leo_edge.demo.world.populate import Actor
from leo_edge.demo.world.road import Road
from leo_edge.demo.world.scene import EGO_FRONT_M
from leo_edge.demo.world.shapes import GREEN, RED, YELLOW
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.demo.questions.naive import Answers, naive_answers
from tests.demo.world.stage import ROAD, pedestrian, place, stage, with_light

STATUSES = ("moving", "stopped", "parked", None)


def random_shown(random: np.random.Generator) -> dict[str, tuple[Shown, ...]]:
    """Up to seven objects in each camera, one of four in doubt."""

    def one(actor: int) -> Shown:
        kind = int(random.choice([CAR, CAR, TRUCK, BUS, BICYCLE, PEDESTRIAN, 6, 7]))
        return Shown(
            actor=actor,
            kind=kind,
            colour=str(random.choice(COLOUR_NAMES)) if kind == CAR else None,
            status=STATUSES[int(random.integers(4))] if kind in (CAR, TRUCK, BUS) else None,
            distance_m=float(random.uniform(3, 60)),
            sure=bool(random.random() < 0.75),
        )

    return {channel: tuple(one(i) for i in range(int(random.integers(0, 8)))) for channel in NUSCENES_CAMERAS}


def about_cameras(asked: Asked) -> Answers:
    return {(question.form, *question.slots): question.answer for question in asked.questions if question.num_hop}


@pytest.fixture(scope="session")
def random_keyframes(keyframes: list[Keyframe]) -> list[Keyframe]:
    random = np.random.default_rng(0)
    return [replace(keyframes[0], shown=random_shown(random)) for _ in range(40)]


class TestAboutCameras:
    def test_answers_are_those_of_a_plain_count(self, keyframes: list[Keyframe], random_keyframes: list[Keyframe]) -> None:
        left_out = 0
        for keyframe in (*keyframes, *random_keyframes):
            asked, expected = ask_all(keyframe), naive_answers(keyframe.shown)
            assert about_cameras(asked) == {key: answer for key, answer in expected.items() if answer is not None}
            in_doubt = sum(answer is None for answer in expected.values())
            about_driving = sum(not question.num_hop for question in asked.questions)
            assert asked.in_doubt == in_doubt + 5 - about_driving
            left_out += in_doubt
        assert left_out > 1000

    def test_a_count_that_takes_everything_for_sure_would_differ(self, random_keyframes: list[Keyframe]) -> None:
        for keyframe in random_keyframes[:10]:
            surely = {channel: tuple(replace(one, sure=True) for one in seen) for channel, seen in keyframe.shown.items()}
            expected = {key: answer for key, answer in naive_answers(surely).items() if answer is not None}
            assert about_cameras(ask_all(keyframe)) != expected

    def test_by_camera_holds_the_answer_at_the_asked_direction(self, asked: list[Asked]) -> None:
        camera = {words: index for index, words in enumerate(DIRECTIONS.values())}
        compared = 0
        for question in (question for one in asked for question in one.questions if question.num_hop):
            assert len(question.by_camera) == 6
            if question.form == "more here":
                here, there = (question.by_camera[camera[words]] for words in question.slots[1:])
                assert here is not None
                assert there is not None
                assert question.answer == ("yes" if int(here) > int(there) else "no")
            else:
                assert question.by_camera[camera[question.slots[-1]]] == question.answer
                compared += question.answer != question.by_camera[(camera[question.slots[-1]] + 1) % 6]
        assert compared > 100

    def test_directions_are_in_the_order_of_the_cameras(self) -> None:
        assert tuple(DIRECTIONS) == NUSCENES_CAMERAS


FRONT = "CAM_FRONT"
SURE_CAR = Shown(0, CAR, "red", "parked", 10.0, sure=True)


class TestDoubt:
    """A question is left out if an object in doubt changes its answer, and only then."""

    @pytest.fixture(scope="class")
    @staticmethod
    def answer(keyframes: list[Keyframe]) -> Callable[..., str | None]:
        """Answers a question (form, *slots) about objects to the front."""

        def find(key: tuple[str, ...], *shown: Shown) -> str | None:
            keyframe = replace(keyframes[0], shown={**dict.fromkeys(NUSCENES_CAMERAS, ()), FRONT: shown})
            return about_cameras(ask_all(keyframe)).get((*key, "front"))

        return find

    @pytest.mark.parametrize(
        ("key", "doubtful", "without", "kept"),
        [
            (("exist", "truck"), Shown(1, TRUCK, None, None, 9.0, sure=False), "no", False),
            (("exist", "car"), replace(SURE_CAR, actor=1, sure=False), "yes", True),
            (("exist coloured", "blue"), replace(SURE_CAR, actor=1, colour="blue", sure=False), "no", False),
            (("exist coloured", "blue"), replace(SURE_CAR, actor=1, colour="green", sure=False), "no", True),
            (("count", "cars"), replace(SURE_CAR, actor=1, distance_m=50.0, sure=False), "1", False),
            (("count", "cars"), Shown(1, TRUCK, None, None, 9.0, sure=False), "1", True),
            (("more than", "cars", "trucks"), Shown(1, TRUCK, None, None, 50.0, sure=False), "yes", False),
            (("more than", "trucks", "cars"), replace(SURE_CAR, actor=1, sure=False), "no", True),
            (("nearest",), Shown(1, TRUCK, None, None, 5.0, sure=False), "car", False),
            (("nearest",), Shown(1, TRUCK, None, None, 50.0, sure=False), "car", True),
            (("nearest",), replace(SURE_CAR, actor=1, distance_m=5.0, sure=False), "car", True),
            (("colour",), replace(SURE_CAR, actor=1, colour="blue", distance_m=5.0, sure=False), "red", False),
            (("colour",), replace(SURE_CAR, actor=1, colour="blue", distance_m=15.0, sure=False), "red", True),
            (("status", "car"), replace(SURE_CAR, actor=1, status=None, distance_m=5.0, sure=False), "parked", False),
            (("status", "car"), Shown(1, BUS, None, "moving", 5.0, sure=False), "parked", True),
        ],
    )
    def test_decides_whether_it_is_asked(
        self, answer: Callable[..., str | None], key: tuple[str, ...], doubtful: Shown, without: str, kept: bool
    ) -> None:
        assert answer(key, SURE_CAR) == without
        assert answer(key, SURE_CAR, doubtful) == (without if kept else None)

    @pytest.mark.parametrize(
        ("key", "other"),
        [
            (("nearest",), Shown(1, TRUCK, None, None, 11.0, sure=True)),
            (("colour",), replace(SURE_CAR, actor=1, colour="blue")),
            (("status", "car"), replace(SURE_CAR, actor=1, status="moving")),
        ],
    )
    def test_two_about_as_near_are_a_tie_unless_they_say_the_same(
        self, answer: Callable[..., str | None], key: tuple[str, ...], other: Shown
    ) -> None:
        assert answer(key, SURE_CAR, replace(other, distance_m=11.7)) is None
        assert answer(key, SURE_CAR, replace(other, distance_m=8.6)) is None
        assert answer(key, SURE_CAR, replace(other, distance_m=11.8)) == answer(key, SURE_CAR)
        assert answer(key, SURE_CAR, replace(SURE_CAR, actor=1, distance_m=10.5)) == answer(key, SURE_CAR)

    def test_status_that_no_image_shows_is_not_asked(self, answer: Callable[..., str | None]) -> None:
        assert answer(("status", "car"), replace(SURE_CAR, status=None)) is None

    def test_more_than_four_are_not_counted(self, answer: Callable[..., str | None]) -> None:
        cars = [replace(SURE_CAR, actor=i) for i in range(5)]
        assert answer(("count", "cars"), *cars[:4]) == "4"
        assert answer(("count", "cars"), *cars) is None

    def test_of_two_kinds_that_are_not_there_nothing_is_asked(self, answer: Callable[..., str | None]) -> None:
        assert answer(("more than", "trucks", "buses"), SURE_CAR) is None
        assert answer(("more than", "trucks", "cars"), SURE_CAR) == "no"


def driving(keyframe: Keyframe, kind: str, *slots: str) -> Question | None:
    asked: Iterator[Question] = (q for q in ask_all(keyframe).questions if q.kind == kind and q.slots == slots)
    return next(asked, None)


def answer_of(question: Question | None) -> str | None:
    return None if question is None else question.answer


def light_ahead(state: int, gap_m: float) -> Road:
    """The road with a traffic light that stays as it is, so far from the ego vehicle's front to its stop line."""
    lasts = {GREEN: (90.0, 1.0, 1.0), YELLOW: (0.0, 90.0, 1.0), RED: (0.0, 0.0, 90.0)}
    return with_light(ROAD, EGO_FRONT_M + 3.5 + gap_m, lasts[state])


def car_ahead(gap_m: float) -> Actor:
    """A car of 4.8 m in the ego vehicle's lane, so far from bumper to bumper."""
    return place(CAR, EGO_FRONT_M + gap_m + 2.4, lane=0)


BYSTANDER = pedestrian(12.0, -9.5)


class TestLaneChange:
    @pytest.mark.parametrize(
        ("x", "expected"),
        [(30.0, SAFE), (13.0, None), (10.0, OCCUPIED), (2.0, OCCUPIED), (-11.5, OCCUPIED), (-15.0, None), (-20.0, SAFE)],
    )
    @pytest.mark.parametrize(("side", "name"), [(1, "left"), (-1, "right")])
    def test_depends_on_who_is_beside(self, side: int, name: str, x: float, expected: str | None) -> None:
        """In the way from 10 m behind the rear axle to 8 m before it, in doubt for another 4 m: 2.4 m is half the car."""
        keyframe = observe(stage(place(CAR, x, side * 3.5, lane=1 if side > 0 else 2)), 0)
        assert answer_of(driving(keyframe, "lane_change", name)) == expected
        assert answer_of(driving(keyframe, "lane_change", "right" if side > 0 else "left")) == SAFE

    def test_without_a_lane_there_is_none_to_change_to(self) -> None:
        keyframe = observe(stage(BYSTANDER, road=replace(ROAD, num_left=0, num_right=2)), 0)
        assert answer_of(driving(keyframe, "lane_change", "left")) == NO_LANE
        assert answer_of(driving(keyframe, "lane_change", "right")) == SAFE

    def test_vehicles_farther_aside_and_people_do_not_count(self) -> None:
        others = (
            place(CAR, 2.0, 7.0, yaw=np.pi, lane=3),
            place(CAR, 2.0, -6.6),
            place(BUS, 14.0, lane=0),
            pedestrian(2.0, 3.5),
        )
        keyframe = observe(stage(*others), 0)
        assert [answer_of(driving(keyframe, "lane_change", name)) for name in ("left", "right")] == [SAFE, SAFE]

    def test_a_rider_in_the_lane_counts(self) -> None:
        keyframe = observe(stage(place(BICYCLE, 3.0, 3.0, mps=4.0)), 0)
        assert answer_of(driving(keyframe, "lane_change", "left")) == OCCUPIED

    def test_what_no_camera_surely_shows_is_in_doubt(self) -> None:
        keyframe = observe(stage(place(CAR, 2.0, 3.5, lane=1)), 0)
        unsure = {channel: tuple(replace(one, sure=False) for one in seen) for channel, seen in keyframe.shown.items()}
        drawn = {channel: replace(one, visible_px=np.minimum(one.visible_px, 2000)) for channel, one in keyframe.drawn.items()}
        assert driving(replace(keyframe, shown=unsure, drawn=drawn), "lane_change", "left") is None
        assert answer_of(driving(replace(keyframe, shown=unsure), "lane_change", "left")) == OCCUPIED, "it fills an image"

    def test_by_camera_tells_where_the_vehicle_shows(self) -> None:
        question = driving(observe(stage(place(CAR, -9.0, 3.5, lane=1)), 0), "lane_change", "left")
        assert question is not None
        by_camera = dict(zip(NUSCENES_CAMERAS, question.by_camera, strict=True))
        assert by_camera == {
            "CAM_FRONT": SAFE,
            "CAM_FRONT_LEFT": SAFE,
            "CAM_FRONT_RIGHT": None,
            "CAM_BACK": OCCUPIED,
            "CAM_BACK_LEFT": SAFE,
            "CAM_BACK_RIGHT": None,
        }


class TestDistance:
    @pytest.mark.parametrize(
        ("gap_m", "expected"),
        [
            (5.0, "less than 10 meters"),
            (9.4, None),
            (10.7, None),
            (15.0, "10 to 20 meters"),
            (19.0, None),
            (30.0, "20 to 40 meters"),
            (38.0, None),
            (50.0, None),
            (56.0, NO_VEHICLE),
        ],
    )
    def test_is_a_band_and_in_doubt_near_its_ends(self, gap_m: float, expected: str | None) -> None:
        assert answer_of(driving(observe(stage(car_ahead(gap_m)), 0), "distance")) == expected

    def test_is_that_of_the_nearest_in_the_lane(self) -> None:
        others = (place(CAR, 9.0, 3.5, lane=1), place(CAR, -9.0, lane=0), pedestrian(8.0, 4.0))
        assert answer_of(driving(observe(stage(car_ahead(30.0), car_ahead(14.0), *others), 0), "distance")) == "10 to 20 meters"
        assert answer_of(driving(observe(stage(*others), 0), "distance")) == NO_VEHICLE

    def test_to_one_that_is_not_surely_shown_is_in_doubt(self) -> None:
        keyframe = observe(stage(car_ahead(14.0)), 0)
        front = tuple(replace(one, sure=False) for one in keyframe.shown[FRONT])
        assert front
        for shown in (front, ()):
            assert driving(replace(keyframe, shown={**keyframe.shown, FRONT: shown}), "distance") is None


class TestLight:
    @pytest.mark.parametrize(
        ("light", "expected"), [(0, "no traffic light"), (GREEN, "green"), (YELLOW, "yellow"), (RED, "red")]
    )
    def test_is_told_by_its_name(self, keyframes: list[Keyframe], light: int, expected: str) -> None:
        question = driving(replace(keyframes[0], light=light), "light")
        assert question is not None
        assert question.answer == expected
        assert question.by_camera == (expected, None, None, None, None, None)

    def test_in_doubt_is_not_asked(self, keyframes: list[Keyframe]) -> None:
        assert driving(replace(keyframes[0], light=None), "light") is None


class TestAction:
    @pytest.mark.parametrize(
        ("who", "road", "expected"),
        [
            ((BYSTANDER,), ROAD, GO_CLEAR),
            ((BYSTANDER,), light_ahead(RED, 20.0), STOP_RED),
            ((BYSTANDER,), light_ahead(YELLOW, 20.0), SLOW_YELLOW),
            ((BYSTANDER,), light_ahead(GREEN, 20.0), GO_GREEN),
            ((BYSTANDER,), light_ahead(RED, 42.0), None),
            ((BYSTANDER,), light_ahead(RED, 50.0), None),
            ((pedestrian(12.0, 1.0),), ROAD, STOP_PERSON),
            ((pedestrian(12.0, -3.5),), ROAD, STOP_PERSON),
            ((pedestrian(12.0, 1.0),), light_ahead(GREEN, 20.0), STOP_PERSON),
            ((pedestrian(12.0, 1.0),), light_ahead(RED, 20.0), STOP_RED),
            ((pedestrian(12.0, 5.0),), ROAD, None),
            ((pedestrian(27.0, 1.0),), ROAD, None),
            ((pedestrian(35.0, 1.0),), ROAD, GO_CLEAR),
            ((pedestrian(-6.0, 1.0),), ROAD, GO_CLEAR),
            ((car_ahead(6.0),), ROAD, KEEP_DISTANCE),
            ((car_ahead(6.0),), light_ahead(GREEN, 20.0), KEEP_DISTANCE),
            ((car_ahead(12.0),), ROAD, None),
            ((car_ahead(25.0),), ROAD, GO_CLEAR),
            ((car_ahead(25.0),), light_ahead(GREEN, 20.0), GO_GREEN),
            ((car_ahead(7.5), pedestrian(6.5, 1.5)), ROAD, STOP_PERSON),
        ],
    )
    def test_minds_lights_then_people_then_the_vehicle_ahead(
        self, who: tuple[Actor, ...], road: Road, expected: str | None
    ) -> None:
        assert answer_of(driving(observe(stage(*who, road=road), 0), "action")) == expected

    def test_in_doubt_about_the_light_or_the_vehicle_ahead_is_not_asked(self) -> None:
        keyframe = observe(stage(car_ahead(6.0)), 0)
        assert answer_of(driving(keyframe, "action")) == KEEP_DISTANCE
        assert driving(replace(keyframe, light=None), "action") is None
        assert driving(replace(keyframe, shown={**keyframe.shown, FRONT: ()}), "action") is None

    def test_a_person_who_is_not_surely_shown_is_in_doubt(self) -> None:
        keyframe = observe(stage(pedestrian(12.0, 1.0)), 0)
        assert driving(replace(keyframe, shown=dict.fromkeys(NUSCENES_CAMERAS, ())), "action") is None


class TestAskAll:
    def test_every_answer_is_one_of_those_that_there_are(self, asked: list[Asked]) -> None:
        assert len(set(ANSWERS)) == len(ANSWERS)
        given = {question.answer for one in asked for question in one.questions}
        assert given <= set(ANSWERS)
        assert len(given) > 30
        named = {answer for one in asked for question in one.questions for answer in question.by_camera} - {None}
        assert named <= set(ANSWERS)

    def test_every_type_is_asked(self, asked: list[Asked]) -> None:
        assert {question.kind for one in asked for question in one.questions} == set(QUESTION_TYPES)

    def test_nothing_is_asked_twice(self, asked: list[Asked]) -> None:
        for one in asked:
            keys = [(question.form, question.slots) for question in one.questions]
            assert len(set(keys)) == len(keys)

    def test_asking_again_gives_the_same(self, keyframes: list[Keyframe], asked: list[Asked]) -> None:
        assert ask_all(keyframes[3]) == asked[3]
        assert ask_all(keyframes[4]) != asked[3]
