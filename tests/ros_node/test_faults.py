"""What cameras and users do to a running node: it goes on, and says what it saw. One node serves most of the tests."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("leo_edge_msgs", reason="needs ROS 2 and leo_edge_msgs: make env")

from diagnostic_msgs.msg import DiagnosticStatus
from leo_edge_msgs.msg import CameraUse, SceneAnswer

from tests.conftest import MadeOnce
from tests.ros_node.conftest import NODE
from tests.ros_node.rig import CAMERAS, NodeProcess, Rig, image_message, now_ns, stamp_of

ERROR, OK = DiagnosticStatus.ERROR, DiagnosticStatus.OK
MS = 1_000_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, micro_bundles: MadeOnce) -> Iterator[NodeProcess]:
    """One node for all; that it still stops in time at the end shows that none of it harmed it."""
    log = tmp_path_factory.mktemp("node") / "log"
    node = NodeProcess(log, micro_bundles["plain"], *NODE, "max_camera_age_ms=400")
    yield node
    try:
        assert node.stop() < 2.0
    finally:
        node.kill()


@pytest.fixture
def live(node: NodeProcess, rig: Rig) -> Rig:
    """The rig, connected, after a whole set was answered."""
    rig.connect()
    rig.wait_for_answer(rig.run(0.3)[0])
    time.sleep(0.15)  # the next frames are of another round
    assert node.process.poll() is None, node.text()
    return rig


def states(answer: SceneAnswer) -> dict[str, int]:
    return {camera.name: camera.state for camera in answer.cameras}


def assert_whole(rig: Rig) -> None:
    """A whole set is answered, with no camera stale."""
    answer = rig.wait_for_answer(rig.run(0.5)[2])
    assert states(answer) == dict.fromkeys(CAMERAS, CameraUse.FRESH)


def test_a_camera_that_dies_goes_stale_then_missing_and_returns(live: Rig) -> None:
    stamps = live.run(1.5, ("front", "right"))
    seen = [states(answer)["left"] for answer in live.answers if stamp_of(answer) in stamps]
    assert seen[-1] == CameraUse.MISSING
    assert CameraUse.STALE in seen
    missing = live.wait_for_answer(stamps[-3])
    assert list(missing.missing) == ["left"]
    live.run(1.5, ("front", "right"))
    live.wait_for_status("camera left", "no frame for", level=ERROR)
    assert_whole(live)
    live.run(1.2)
    live.wait_for_status("camera left", "Hz", level=OK)


def test_without_the_anchor_answers_go_on(live: Rig) -> None:
    stamps = live.run(1.5, ("left", "right"))
    answer = live.wait_for_answer(stamps[-3])
    assert list(answer.missing) == ["front"]
    assert_whole(live)


def test_lost_and_staggered_frames_lose_no_set(live: Rig) -> None:
    lost = random.Random(1)
    before, hz, seconds = len(live.answers), 10, 6
    num_lost = 0
    start = time.monotonic()
    for number in range(hz * seconds):
        for i, channel in enumerate(CAMERAS):
            time.sleep(max(0.0, start + number / hz + 0.015 * i - time.monotonic()))
            if lost.random() < 0.05:
                num_lost += 1
            else:
                live.fire(number, (channel,))
    time.sleep(0.5)
    answers = live.answers[before:]
    assert num_lost >= 5
    assert len(answers) >= 0.9 * hz * seconds  # the usual policy would make 3 in 4 sets of three cameras at best
    assert all(not answer.missing for answer in answers[1:])


def test_stamps_that_run_backwards_a_little_are_left_out(live: Rig) -> None:
    stamp_ns = live.fire(0)
    live.wait_for_answer(stamp_ns)
    for channel in CAMERAS:
        live.publish(channel, image_message(channel, 1, stamp_ns - 50 * MS))
    time.sleep(0.3)
    assert max(stamp_of(answer) for answer in live.answers) == stamp_ns
    live.run(1.2)
    live.wait(lambda: value(live, "camera front", "late_frames") >= 1, "late frames are counted")
    assert_whole(live)


def test_a_jump_far_back_begins_anew(live: Rig) -> None:
    past_ns = now_ns() - 3600 * 1000 * MS
    for channel in CAMERAS:
        live.publish(channel, image_message(channel, 1, past_ns))
    answer = live.wait_for_answer(0)
    live.wait(lambda: any(stamp_of(answer) == past_ns for answer in live.answers), "the set of the past is answered")
    answer = next(answer for answer in live.answers if stamp_of(answer) == past_ns)
    assert states(answer) == dict.fromkeys(CAMERAS, CameraUse.FRESH)
    assert_whole(live)
    live.wait(lambda: value(live, "frame sets", "time_jumps") >= 1, "the jump is counted")


def test_zero_stamps_are_replaced_by_the_time_of_arrival(live: Rig) -> None:
    began_ns = now_ns()
    for channel in CAMERAS:
        live.publish(channel, image_message(channel, 1, 0))
    answer = live.wait_for_answer(began_ns)
    assert not answer.missing
    live.wait_for_status("camera front", "stamps are zero", level=DiagnosticStatus.WARN)
    assert_whole(live)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "rgb9"}, "rgb9"),
        ({"height": 0, "width": 0, "step": 0, "data": b""}, "0"),
        ({"height": 91}, "left"),
        ({"step": 100}, "step"),
    ],
    ids=["wrong encoding", "zero size", "wrong size", "wrong step"],
)
def test_an_image_that_is_none_is_an_error_in_the_diagnostics(live: Rig, changes: dict[str, Any], message: str) -> None:
    stamps = []
    for _ in range(15):
        stamps.append(live.fire(0, ("front", "right")))
        live.publish("left", image_message("left", 0, stamps[-1], **changes))
        time.sleep(0.1)
    assert states(live.wait_for_answer(stamps[-5]))["left"] == CameraUse.MISSING
    status = live.wait_for_status("camera left", message, level=ERROR)
    assert int({pair.key: pair.value for pair in status.values}["errors"]) >= 1
    assert_whole(live)


def value(rig: Rig, status: str, key: str) -> float:
    """A number of the diagnostics; -1 while it is not there."""
    found = rig.statuses.get(status)
    return float({pair.key: pair.value for pair in found.values}.get(key, -1)) if found else -1.0


def test_duplicated_frames_are_left_out(live: Rig) -> None:
    stamp_ns = live.fire(0)
    live.wait_for_answer(stamp_ns)
    for channel in CAMERAS:
        live.publish(channel, image_message(channel, 0, stamp_ns))
    time.sleep(0.3)
    assert [stamp_of(answer) for answer in live.answers].count(stamp_ns) == 1
    live.wait(lambda: value(live, "camera front", "duplicate_frames") >= 1, "duplicates are counted")


def test_the_log_has_each_trouble_once(node: NodeProcess, live: Rig) -> None:
    """The last test: fifteen frames a fault were refused above."""
    assert_whole(live)
    assert node.text().count("rgb9") == 1
    assert Path(node.log).stat().st_size < 20_000
