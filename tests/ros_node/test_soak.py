"""A long drive: memory and answers stay as they are. LEO_EDGE_SOAK_MINUTES says how long, 20 if it is not set."""

from __future__ import annotations

import os
import time

import pytest

pytest.importorskip("leo_edge_msgs", reason="needs ROS 2 and leo_edge_msgs: make env")

import numpy as np

from tests.ros_node.conftest import NODE, Start
from tests.ros_node.rig import Rig

HZ = 12
MINUTES = float(os.environ.get("LEO_EDGE_SOAK_MINUTES", "20"))


@pytest.mark.slow
def test_a_long_drive(start: Start, rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    node = start(*NODE, "deadline_ms=1000")
    rig.connect()
    rig.run(5, hz=HZ)
    memory: list[tuple[float, float]] = []  # seconds, MB
    rates: list[float] = []
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 60 * MINUTES:
        rig.answers.clear()
        at = time.monotonic()
        rig.run(5, hz=HZ)
        rates.append(len(rig.answers) / (time.monotonic() - at))
        memory.append((passed, node.resident_mb()))
    later = np.array([pair for pair in memory if pair[0] > 0.25 * 60 * MINUTES])
    slope_mb_per_h = float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 3600
    resident_mb = float(later[:, 1].mean())
    with capsys.disabled():
        print(f"\n{MINUTES:g} minutes: {resident_mb:.0f} MB, slope {slope_mb_per_h:+.1f} MB an hour", end="; ")
        print(f"answers a second: mean {np.mean(rates):.2f}, worst of 5 s {min(rates):.2f}")
    assert later[-1, 1] < 1.02 * later[0, 1]
    assert np.mean(rates) > 0.95 * HZ
    assert "ERROR" not in node.text()
