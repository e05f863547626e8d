"""Vehicles following one another in their lanes and stopping where they must: the Intelligent Driver Model.

Treiber, Hennecke, Helbing, "Congested traffic states in empirical observations and microscopic simulations", 2000
(arXiv cond-mat/0002177), equation 3. Nobody overtakes. Shape letters: V vehicles, L stop lines, T time steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

STEP_S = 0.1
_STANDING_GAP_M, _HEADWAY_S, _ACCELERATION, _BRAKING = 2.5, 1.2, 1.6, 2.2
_HARDEST_BRAKING = 6.0
_FREE_GAP_M = 1e4


@dataclass(frozen=True)
class Traffic:
    """Positions along the road [T, V], of the vehicles' centres, and speeds [T, V] without sign."""

    position_m: Floats
    speed_mps: Floats

    def at(self, time_s: float) -> tuple[Floats, Floats]:
        """Returns positions and speeds [V], interpolated."""
        step = min(max(time_s / STEP_S, 0.0), len(self.position_m) - 1.001)
        low, part = int(step), step % 1
        position, speed = ((1 - part) * table[low] + part * table[low + 1] for table in (self.position_m, self.speed_mps))
        return position, speed


@dataclass(frozen=True)
class Start:
    """Vehicles before the first step: position of the centre, direction (+1 or -1), lane, length, wanted speed, each [V]."""

    position_m: Floats
    direction: Floats
    lane: Ints
    length_m: Floats
    wanted_mps: Floats


def simulate(start: Start, line_m: Floats, closed: Booleans) -> Traffic:
    """Drives until the end of `closed` [T, L]: nobody passes line l, at `line_m[l]` for either direction, while it is closed.

    The lines are where the front comes to rest, [L, 2]: for direction +1 and -1.
    """
    along = start.position_m * start.direction  # growing for everyone
    leader = _leaders(along, start)
    lines = np.where(start.direction[:, None] > 0, line_m[None, :, 0], -line_m[None, :, 1])  # [V, L]
    front = start.length_m / 2
    speed = start.wanted_mps * 0.9
    positions, speeds = [along], [speed]
    for step in range(len(closed) - 1):
        gap = np.where(leader >= 0, along[leader] - along - front - front[leader], _FREE_GAP_M)
        to_line = lines - (along + front)[:, None]
        # Who can no longer stop drives on.
        stopping = closed[step][None, :] & (to_line > speed[:, None] ** 2 / (2 * _HARDEST_BRAKING) - 1.0) & (to_line > -1.0)
        line_gap = np.where(stopping, to_line + _STANDING_GAP_M, _FREE_GAP_M).min(axis=1, initial=_FREE_GAP_M)
        closing = speed - np.where(leader >= 0, speed[leader], speed)
        wanted_gap = [
            _STANDING_GAP_M + np.maximum(0, speed * _HEADWAY_S + speed * rate / (2 * (_ACCELERATION * _BRAKING) ** 0.5))
            for rate in (closing, speed)
        ]
        interaction = np.maximum(wanted_gap[0] / np.maximum(gap, 0.1), wanted_gap[1] / np.maximum(line_gap, 0.1))
        acceleration = _ACCELERATION * (1 - (speed / start.wanted_mps) ** 4 - interaction**2)
        speed = np.maximum(0, speed + np.clip(acceleration, -_HARDEST_BRAKING, _ACCELERATION) * STEP_S)
        speed = np.where(speed < 0.08, 0.0, speed)
        along = along + speed * STEP_S
        positions.append(along)
        speeds.append(speed)
    return Traffic(np.array(positions) * start.direction, np.array(speeds))


def _leaders(along: Floats, start: Start) -> Ints:
    """Returns for every vehicle the index of the one ahead in its lane, -1 for the first."""
    leader = np.full(len(along), -1)
    for lane in np.unique(start.lane):
        members = np.flatnonzero(start.lane == lane)
        order = members[np.argsort(along[members])]
        leader[order[:-1]] = order[1:]
    return leader
