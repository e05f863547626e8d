"""ros_node/health.py and rates.py: what the diagnostics say, and at which level."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from leo_edge.ros_node.health import ERROR, OK, WARN, Health, Status, resident_mb
from leo_edge.ros_node.rates import LatencyWindow, RateMeter
from leo_edge.ros_node.synchronizer import SyncCounts, Taken

S = 1_000_000_000
FACTS = {"backend": "onnxruntime"}


def test_a_rate_is_that_of_the_last_five_seconds() -> None:
    meter = RateMeter()
    for i in range(120):
        meter.tick(i * S // 12)
    assert meter.per_second(10 * S) == pytest.approx(12, rel=0.03)
    assert 0 < meter.per_second(13 * S) < 8
    assert meter.per_second(16 * S) == 0


def test_percentiles_are_of_the_last_latencies() -> None:
    window = LatencyWindow()
    assert math.isnan(window.percentile(50))
    for ms in range(1000):
        window.add(ms)
    assert len(window) == 512
    assert window.percentile(0) == 488
    assert window.percentile(100) == 999


def by_name(health: Health, now_s: float, sync: SyncCounts | None = None) -> dict[str, Status]:
    return {status.name: status for status in health.statuses(round(now_s * S), sync or SyncCounts(), FACTS)}


def running(seconds: float = 3) -> Health:
    health = Health(["front", "left"], 0)
    for i in range(round(seconds * 12)):
        for channel in ("front", "left"):
            health.frame(channel, i * S // 12, zero_stamp=False)
    return health


def test_cameras_that_deliver_are_ok_and_silent_ones_are_errors() -> None:
    health = running()
    assert [by_name(health, 3)[f"camera {c}"].level for c in ("front", "left")] == [OK, OK]
    assert by_name(health, 3)["camera front"].message == "11.7 Hz"
    assert (by_name(health, 6)["camera front"].level, by_name(health, 6)["camera front"].message) == (ERROR, "no frame for 3 s")
    assert by_name(Health(["front"], 0), 2.5)["camera front"].message == "no frame for 2 s"


def test_an_error_is_shown_for_five_seconds_and_told_as_news_once() -> None:
    health = running(20)
    assert health.camera_error("left", "no JPEG", 10 * S)
    assert not health.camera_error("left", "no JPEG", 11 * S)
    assert health.camera_error("left", "other", 11 * S)
    left = by_name(health, 12)["camera left"]
    assert (left.level, left.message, left.values["errors"]) == (ERROR, "other", "3")
    assert by_name(health, 17)["camera left"].level == OK
    health.error("no model", 17 * S)
    assert by_name(health, 18)["frame sets"].message == "no model"
    assert by_name(health, 23)["frame sets"].level == OK


def test_a_clock_that_is_apart_and_zero_stamps_are_told() -> None:
    sync = SyncCounts(apart_ms={"left": 5000.0})
    sync.frames["left", Taken.DUPLICATE] = 4
    left = by_name(running(), 3, sync)["camera left"]
    assert (left.level, left.message) == (ERROR, "its stamps are +5000 ms from the other cameras': look at its clock")
    assert left.values["duplicate_frames"] == "4"
    health = running()
    health.frame("front", 3 * S, zero_stamp=True)
    assert by_name(health, 3)["camera front"].level == WARN


def test_a_qos_mismatch_is_told_until_frames_come() -> None:
    health = Health(["front"], 0)
    health.qos_mismatch("front", "reliability")
    assert "QoS mismatch (reliability)" in by_name(health, 1)["camera front"].message
    health.frame("front", S, zero_stamp=False)
    assert by_name(health, 1)["camera front"].level == OK


def test_answers_are_counted_and_their_latencies_told() -> None:
    health = running()
    for i in range(10):
        health.answer({"decode": 10.0 * i}, i * S, late=i > 7, cut=i > 8)
    answers = by_name(health, 9)["answers"]
    assert (answers.level, answers.values["answers"], answers.values["late"], answers.values["cut"]) == (OK, "10", "2", "1")
    assert (answers.values["decode_p50_ms"], answers.values["decode_p99_ms"]) == ("45.0", "89.1")
    health.degraded(1, ("max_tiles=3",))
    assert by_name(health, 9)["answers"].level == WARN
    assert by_name(health, 9)["answers"].message == "given up to be in time: max_tiles=3"


def test_memory_is_what_the_kernel_says() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert resident_mb() == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, rel=0.2)
