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
SAMPLE_S, PER_MINUTE = 5, 12
MOST_PER_HOUR = 0.05  # of the memory that is held
STEP_MB = 2.0  # what one step of an allocator may be: in a short run it would make a steep slope


@pytest.mark.slow
def test_a_long_drive(start: Start, rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    node = start(*NODE, "deadline_ms=1000")
    rig.connect()
    rig.run(SAMPLE_S, hz=HZ)
    samples: list[tuple[float, float, float]] = []  # hours, MB, answers a second
    began = time.monotonic()
    while (hours := (time.monotonic() - began) / 3600) < MINUTES / 60:
        rig.answers.clear()
        at = time.monotonic()
        rig.run(SAMPLE_S, hz=HZ)
        samples.append((hours, node.resident_mb(), len(rig.answers) / (time.monotonic() - at)))
    log = node.text()
    took = node.stop()
    times, memory, rates = np.array(samples)[len(samples) // 4 :].T  # the first quarter is warm-up
    slope, _ = np.polyfit(times, memory, 1)
    by_minute = [float(np.mean(rates[i : i + PER_MINUTE])) for i in range(0, len(rates), PER_MINUTE)]
    with capsys.disabled():
        print(f"\n{MINUTES:g} minutes, the first quarter left out: memory {memory[0]:.1f} to {memory[-1]:.1f} MB, ", end="")
        print(f"slope {slope:+.1f} MB an hour; answers a second {rates.mean():.2f}; stopped in {took:.2f} s")
        print("answers a second, by minute: " + " ".join(f"{rate:.2f}" for rate in by_minute))
    assert slope * (times[-1] - times[0]) < max(STEP_MB, MOST_PER_HOUR * memory.mean() * (times[-1] - times[0]))
    assert rates.mean() > 0.95 * HZ
    assert min(by_minute) > 0.9 * HZ
    assert took < 2.0
    assert "ERROR" not in log
    assert "WARN" not in log  # a deadline that was missed twice
