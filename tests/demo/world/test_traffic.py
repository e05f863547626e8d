"""demo/world/traffic.py, against the closed forms of the Intelligent Driver Model."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from leo_edge.demo.world.traffic import STEP_S, Start, Traffic, simulate

# Of the model, in the paper's letters: standing gap, time headway.
S0_M, T_S = 2.5, 1.2
LENGTH_M = 4.6
NO_LINES = np.zeros((0, 2))


def queue(*wanted_mps: float, distance_m: float = 60.0, direction: float = 1.0) -> Start:
    """Vehicles in one lane, each `distance_m` behind the one before it, the first one's centre at 0."""
    count = len(wanted_mps)
    return Start(
        position_m=-direction * distance_m * np.arange(count),
        direction=np.full(count, direction),
        lane=np.zeros(count, np.int64),
        length_m=np.full(count, LENGTH_M),
        wanted_mps=np.array(wanted_mps),
    )


def never(seconds: float, num_lines: int = 0) -> npt.NDArray[np.bool_]:
    return np.zeros((int(seconds / STEP_S), num_lines), np.bool_)


def equilibrium_gap_m(speed_mps: float, wanted_mps: float) -> float:
    """The gap at which a follower of a leader at constant speed keeps that speed (equation 3, acceleration 0)."""
    return (S0_M + speed_mps * T_S) / float(np.sqrt(1 - (speed_mps / wanted_mps) ** 4))


class TestFreeRoad:
    @pytest.mark.parametrize("wanted_mps", [4.0, 11.0])
    def test_vehicle_reaches_the_speed_it_wants(self, wanted_mps: float) -> None:
        speed = simulate(queue(wanted_mps), NO_LINES, never(60)).speed_mps[:, 0]
        assert speed[0] == pytest.approx(0.9 * wanted_mps)
        assert speed[-1] == pytest.approx(wanted_mps, rel=1e-3)
        assert (np.diff(speed) >= -1e-12).all()

    def test_not_behind_a_slow_one(self) -> None:
        driven = simulate(queue(4.0, 11.0), NO_LINES, never(60))
        assert driven.speed_mps[-1, 1] < 5

    def test_way_is_the_sum_of_speeds_in_ones_direction(self) -> None:
        for direction in (1.0, -1.0):
            driven = simulate(queue(8.0, direction=direction), NO_LINES, never(5))
            way = direction * np.cumsum(driven.speed_mps[1:, 0]) * STEP_S
            np.testing.assert_allclose(driven.position_m[1:, 0], way, atol=1e-9)


class TestFollowing:
    @pytest.mark.parametrize("direction", [1.0, -1.0])
    @pytest.mark.parametrize("leader_mps", [2.0, 5.0, 8.0])
    def test_gap_is_that_of_the_models_equilibrium(self, leader_mps: float, direction: float) -> None:
        wanted = np.array([10.0, 12.0, 11.0])
        driven = simulate(queue(leader_mps, *wanted, distance_m=30.0, direction=direction), NO_LINES, never(250))
        gaps = direction * (driven.position_m[-1, :-1] - driven.position_m[-1, 1:]) - LENGTH_M
        np.testing.assert_allclose(driven.speed_mps[-1], leader_mps, rtol=1e-3)
        np.testing.assert_allclose(gaps, [equilibrium_gap_m(leader_mps, v) for v in wanted], rtol=5e-3)
        others = [equilibrium_gap_m(leader_mps * 1.05, v) for v in wanted]
        assert (np.abs(gaps / others - 1) > 0.01).all(), "a leader 5 % faster would be told apart"

    def test_who_is_in_another_lane_is_no_leader(self) -> None:
        start = replace(queue(3.0, 10.0), lane=np.array([0, 1]))
        driven = simulate(start, NO_LINES, never(60))
        assert driven.position_m[-1, 1] > driven.position_m[-1, 0]
        assert driven.speed_mps[-1, 1] == pytest.approx(10.0, rel=1e-3)

    def test_nobody_passes_one_who_stops(self) -> None:
        closed = ~never(60, 1)
        driven = simulate(queue(8.0, 9.0, 10.0, distance_m=12.0), np.array([[50.0, 60.0]]), closed)
        gaps = -np.diff(driven.position_m, axis=1) - LENGTH_M
        assert gaps.min() > 0
        np.testing.assert_allclose(gaps[-1], S0_M, atol=0.5)


class TestLines:
    @pytest.mark.parametrize(("direction", "line_m"), [(1.0, 80.0), (-1.0, -90.0)])
    def test_vehicle_stops_before_a_closed_one_and_starts_when_it_opens(self, direction: float, line_m: float) -> None:
        lines = np.array([[80.0, -90.0]])
        closed = never(60, 1)
        closed[:400] = True
        driven = simulate(queue(10.0, direction=direction), lines, closed)
        beyond = direction * driven.position_m[:, 0] + LENGTH_M / 2 - abs(line_m)
        assert driven.speed_mps[399, 0] == 0
        assert -0.8 < beyond[399] <= 0.1
        assert beyond[:400].max() == beyond[399]
        assert driven.speed_mps[-1, 0] > 9
        assert beyond[-1] > 50

    def test_open_one_stops_nobody(self) -> None:
        driven = simulate(queue(10.0), np.array([[80.0, -90.0]]), never(60, 1))
        alone = simulate(queue(10.0), NO_LINES, never(60))
        np.testing.assert_array_equal(driven.speed_mps, alone.speed_mps)
        assert driven.position_m[-1, 0] > 500

    def test_who_can_no_longer_stop_drives_on(self) -> None:
        driven = simulate(queue(10.0), np.array([[LENGTH_M / 2 + 3.0, -90.0]]), ~never(20, 1))
        assert driven.speed_mps.min() >= 9.0

    def test_a_line_behind_stops_nobody(self) -> None:
        driven = simulate(queue(10.0), np.array([[-10.0, 10.0]]), ~never(20, 1))
        assert driven.speed_mps.min() >= 9.0


class TestAt:
    TRAFFIC = Traffic(np.array([[0.0], [1.0], [3.0]]), np.array([[10.0], [10.0], [20.0]]))

    @pytest.mark.parametrize(("time_s", "position_m", "speed_mps"), [(0.0, 0.0, 10.0), (0.1, 1.0, 10.0), (0.15, 2.0, 15.0)])
    def test_is_linear_between_steps(self, time_s: float, position_m: float, speed_mps: float) -> None:
        position, speed = self.TRAFFIC.at(time_s)
        np.testing.assert_allclose([position[0], speed[0]], [position_m, speed_mps], atol=1e-9)

    @pytest.mark.parametrize(("time_s", "position_m"), [(-1.0, 0.0), (0.2, 3.0), (9.0, 3.0)])
    def test_stays_within_what_was_driven(self, time_s: float, position_m: float) -> None:
        assert self.TRAFFIC.at(time_s)[0][0] == pytest.approx(position_m, abs=0.01)
