"""demo/world/scene.py: a scene follows from two numbers, and what moves in it moves as things do."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from leo_edge.demo.world.road import CROSSING_M, STOP_LINE_M
from leo_edge.demo.world.scene import EGO_LENGTH_M, LOOKS, SCENE_SECONDS, SPLITS, Scene, make_scene, scene_indices, split_of
from leo_edge.demo.world.shapes import BRAKING, GREEN, RED, ROLLING, YELLOW
from leo_edge.demo.world.traffic import STEP_S

Floats = npt.NDArray[np.float64]
# A vehicle that brakes as hard as it can.
BRAKING_MPS2 = 6.0


def world_x(scene: Scene, time_s: float) -> Floats:
    moment = scene.at(time_s)
    return moment.x + moment.ego_x


@dataclass(frozen=True)
class Driven:
    """The vehicles in the lanes, the ego vehicle last: lane, direction and length [V], front bumper along its way [T, V]."""

    lane: npt.NDArray[np.int64]
    direction: Floats
    length_m: Floats
    front_m: Floats

    @classmethod
    def of(cls, scene: Scene) -> "Driven":
        drivers = [scene.actors[i] for i in scene.in_traffic]
        lane = np.array([driver.lane for driver in drivers] + [0], np.int64)
        direction = np.array([scene.road.lanes()[i][1] for i in lane], np.float64)
        length = np.array([driver.look.size_m[1] for driver in drivers] + [EGO_LENGTH_M])
        return cls(lane, direction, length, scene.traffic.position_m * direction + length / 2)

    def gaps(self) -> list[Floats]:
        """Returns bumper to bumper metres between neighbours in a lane at every step, an array [T, neighbours] per lane."""
        found = []
        for lane in np.unique(self.lane):
            members = np.flatnonzero(self.lane == lane)
            members = members[np.argsort(self.front_m[0, members])]
            front, rear = self.front_m[:, members], (self.front_m - self.length_m)[:, members]
            found.append(rear[:, 1:] - front[:, :-1])
        return found


class TestMakeScene:
    @pytest.mark.parametrize(("seed", "index"), [(0, 3), (5, 0)])
    def test_same_two_numbers_give_the_same_scene(self, seed: int, index: int) -> None:
        one, other = make_scene(seed, index), make_scene(seed, index)
        assert one.actors == other.actors
        assert one.props == other.props
        assert one.road == other.road
        assert (one.look, one.road_to_map) == (other.look, other.road_to_map)
        for mine, its in ((one.traffic, other.traffic), (one.faces, other.faces)):
            for name, values in vars(mine).items():
                np.testing.assert_array_equal(values, getattr(its, name))

    @pytest.mark.parametrize(("seed", "index"), [(0, 4), (1, 3), (3, 0)])
    def test_others_give_another(self, seed: int, index: int) -> None:
        one, other = make_scene(0, 3), make_scene(seed, index)
        assert one.road != other.road
        assert not set(one.actors) & set(other.actors)

    def test_scenes_are_not_all_of_one_look(self, scenes: list[Scene]) -> None:
        assert {scene.look for scene in scenes} == set(LOOKS)


class TestSplits:
    def test_every_scene_is_in_one_split_eight_to_one_to_one(self) -> None:
        for ten in range(0, 200, 10):
            splits = [split_of(index) for index in range(ten, ten + 10)]
            assert [splits.count(split) for split in SPLITS] == [8, 1, 1]

    def test_first_scenes_of_the_splits_are_disjoint_and_leave_none_out(self) -> None:
        of = {split: scene_indices(split, count) for split, count in zip(SPLITS, (80, 10, 10), strict=True)}
        assert sorted(index for indices in of.values() for index in indices) == list(range(100))
        assert all(indices == sorted(indices) for indices in of.values())
        assert scene_indices("train", 3) == of["train"][:3]


class TestMotion:
    def test_nothing_jumps(self, scenes: list[Scene]) -> None:
        """Between and at the steps of the simulation: nobody is faster than 15 m/s, so 1 ms moves nobody by more than 15 mm."""
        farthest = 0.0
        for scene in scenes[:6]:
            for time_s in (0.0, 0.0995, 0.1, 1.2345, 7.9999, 12.05, SCENE_SECONDS - 0.001):
                before, after = scene.at(time_s), scene.at(time_s + 0.001)
                way = np.hypot(world_x(scene, time_s + 0.001) - world_x(scene, time_s), after.y - before.y)
                farthest = max(farthest, float(way.max()), after.ego_x - before.ego_x)
                np.testing.assert_array_equal(after.yaw, before.yaw)
        assert 0.005 < farthest < 0.015

    def test_speed_is_how_fast_it_moves(self, scenes: list[Scene]) -> None:
        """Over 0.1 s no speed changes by more than the hardest braking gives; who sets out or arrives is left out."""
        for scene in scenes[:6]:
            count = len(scene.actors)
            for time_s in (1.0, 6.35, 15.2):
                before, after = scene.at(time_s), scene.at(time_s + 0.1)
                way = np.hypot(world_x(scene, time_s + 0.1) - world_x(scene, time_s), after.y - before.y)[:count]
                walkers = np.array([np.isfinite(actor.y_limits[0]) for actor in scene.actors])
                steady = ~walkers | (before.speed_mps == after.speed_mps)
                error = np.abs(way / 0.1 - before.speed_mps)[steady]
                assert error.max() < BRAKING_MPS2 * 0.1 + 1e-6
                assert (before.speed_mps > 1).sum() > 20

    def test_what_has_no_motion_stays(self, scenes: list[Scene]) -> None:
        for scene in scenes[:6]:
            still = [i for i, a in enumerate(scene.actors) if a.lane is None and a.velocity == (0.0, 0.0)]
            parked = [i for i, actor in enumerate(scene.actors) if actor.parked]
            props = range(len(scene.actors), len(scene.actors) + len(scene.props))
            assert len(parked) > 5
            assert set(parked) <= set(still)
            standing = [*still, *props]
            for time_s in (0.0, 9.87, 20.0):
                moment = scene.at(time_s)
                placed = [(a.x, a.y) for a in scene.actors] + [(p.x, p.y) for p in scene.props]
                np.testing.assert_allclose(world_x(scene, time_s)[standing], [placed[i][0] for i in standing], atol=1e-9)
                np.testing.assert_array_equal(moment.y[standing], [placed[i][1] for i in standing])
                assert (moment.speed_mps[still] == 0).all()

    def test_walkers_go_from_kerb_to_kerb_and_no_farther(self, scenes: list[Scene]) -> None:
        crossed = 0
        for scene in scenes[:6]:
            walkers = [i for i, actor in enumerate(scene.actors) if np.isfinite(actor.y_limits[0])]
            y = np.array([scene.at(time_s).y[walkers] for time_s in np.arange(0, 20.01, 0.25)])
            low, high = scene.road.kerb(-1), scene.road.kerb(1)
            assert (y > low - 1.3).all()
            assert (y < high + 1.3).all()
            crossed += int(((y[0] < low) & (y[-1] > high) | (y[0] > high) & (y[-1] < low)).sum())
        assert crossed > 10


class TestTraffic:
    def test_nobody_overlaps_in_a_lane(self, scenes: list[Scene]) -> None:
        nearest = min(float(gaps.min()) for scene in scenes for gaps in Driven.of(scene).gaps() if gaps.size)
        # The other bound is the negative control: some do stand in a queue, so vehicles longer by 3 m would overlap.
        assert 0 < nearest < 3

    def test_nobody_enters_a_closed_crossing_who_could_stop(self, scenes: list[Scene]) -> None:
        entered, could = self._entered(scenes, late_s=0.0)
        assert entered == 0
        assert could > 1000

    def test_a_crossing_that_closes_at_other_times_would_be_entered(self, scenes: list[Scene]) -> None:
        entered, _ = self._entered(scenes, late_s=5.0)
        assert entered > 20

    @staticmethod
    def _entered(scenes: list[Scene], *, late_s: float) -> tuple[int, int]:
        """Returns how many vehicles were on the zebra's near edge while it was closed, of how many that could have stopped.

        `late_s` moves the times at which crossings close.
        """
        entered = could_stop = 0
        for scene in scenes:
            driven, speed = Driven.of(scene), scene.traffic.speed_mps
            for crossing in scene.road.crossings:
                closed = [crossing.closed_at(step * STEP_S - late_s) for step in range(len(speed))]
                changes = np.flatnonzero(np.diff([False, *closed, False]))
                for start, end in changes.reshape(-1, 2).tolist():
                    to_line = driven.direction * crossing.x - STOP_LINE_M - driven.front_m[start]
                    could = to_line > speed[start] ** 2 / (2 * BRAKING_MPS2) + 0.6
                    edge = driven.direction * crossing.x - CROSSING_M / 2
                    on_it = (driven.front_m[start:end] > edge).any(axis=0)
                    entered += int((could & on_it).sum())
                    could_stop += int(could.sum())
        return entered, could_stop

    def test_brakes_are_held_by_those_who_stand(self, scenes: list[Scene]) -> None:
        held = rolling = 0
        for scene in scenes[:6]:
            for time_s in (2.0, 9.0, 16.0):
                moment = scene.at(time_s)
                stands = world_x(scene, time_s + 0.02) - world_x(scene, time_s) < 0.15 * 0.02
                stands &= world_x(scene, time_s + 0.02) - world_x(scene, time_s) > -0.15 * 0.02
                # Who is about to stand or to start is near the limit, and left out.
                clear = [i for i in scene.in_traffic if not 0.1 < moment.speed_mps[i] < 0.3]
                expected = np.where(stands[clear], BRAKING, ROLLING)
                np.testing.assert_array_equal(moment.state[clear], expected)
                held, rolling = held + int((expected == BRAKING).sum()), rolling + int((expected == ROLLING).sum())
        assert held > 20
        assert rolling > 100


class TestLights:
    def test_follow_their_order_and_show_at_their_crossing(self, scenes: list[Scene]) -> None:
        follows = {(GREEN, YELLOW), (YELLOW, RED), (RED, GREEN)}
        seen = set()
        for scene in scenes[:6]:
            moments = [scene.at(time_s) for time_s in np.arange(0, 20.0, 0.5)]
            for before, after in pairwise(moments):
                seen |= {pair for pair in zip(before.lights, after.lights, strict=True) if pair[0] != pair[1]}
            for moment in moments:
                for i, prop in enumerate(scene.props, start=len(scene.actors)):
                    if prop.crossing is not None:
                        assert moment.state[i] == moment.lights[prop.crossing]
        assert seen == follows
