"""Drives into ROS and back: player, node and recorder in processes of their own, and the bag replayed offline."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("leo_edge_msgs", reason="needs ROS 2 and leo_edge_msgs: make env")

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from leo_edge.cli import main
from leo_edge.replay.nuscenes import NuScenesDrives
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.conftest import MadeOnce
from tests.ros_node.conftest import QUESTION
from tests.ros_node.rig import NodeProcess, environment

Messages = dict[str, list[Any]]


def leo_edge(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "leo_edge", *map(str, arguments)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from leo_edge.demo.dataset.plan import DatasetOptions
    from leo_edge.demo.dataset.writer import write_dataset

    root = tmp_path_factory.mktemp("world") / "drawn"
    write_dataset(root, DatasetOptions(num_scenes=1, split="val", seconds=2.5, size_px=(160, 90)), processes=1)
    return root


@pytest.fixture(scope="module")
def bag(world: Path, micro_bundles: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive that was played, answered and recorded."""
    home = tmp_path_factory.mktemp("recorded")
    recorder = subprocess.Popen(leo_edge("ros-record", home / "bag"), env=environment(), stdout=subprocess.PIPE, text=True)
    node = NodeProcess(home / "log", micro_bundles["plain"], *QUESTION, "always_run=true", "--use-sim-time")
    try:
        command = leo_edge("ros-play", "--nuscenes", world, "--all-frames", "--clock", "--listeners", 2)
        played = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert played.returncode == 0, played.stderr
        assert "frames in" in played.stdout
        time.sleep(1)
        assert node.stop() < 2.0
        recorder.send_signal(signal.SIGINT)
        said, _ = recorder.communicate(timeout=20)
        assert recorder.returncode == 0
        assert f"bag: {home / 'bag'}" in said
        assert " lost" not in said
    finally:
        node.kill()
        recorder.kill()
    return home / "bag"


@pytest.fixture(scope="module")
def messages(bag: Path) -> Messages:
    """What is in the bag, by topic."""
    found: Messages = {}
    with AnyReader([bag], default_typestore=get_typestore(Stores.LATEST)) as reader:
        for connection, _, raw in reader.messages():
            found.setdefault(connection.topic, []).append(reader.deserialize(raw, connection.msgtype))
    return found


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def test_images_and_camera_info_are_those_of_the_drive(world: Path, messages: Messages) -> None:
    drives = NuScenesDrives(world)
    (name,) = drives.scene_names()
    frames = [ref for ref in drives.drive(name, all_frames=True).frames if ref.channel == "CAM_BACK_LEFT"]
    images = {stamp_of(message): message for message in messages["/leo_edge/input/CAM_BACK_LEFT/image"]}
    infos = {stamp_of(message): message for message in messages["/leo_edge/input/CAM_BACK_LEFT/camera_info"]}
    assert len(frames) > 20
    assert set(images) == set(infos) == {ref.stamp_ns for ref in frames}
    for ref in frames[::5]:
        frame = ref.load()
        assert np.array_equal(images[ref.stamp_ns].data.reshape(frame.image.shape), frame.image)
        assert frame.intrinsic is not None
        assert np.array_equal(infos[ref.stamp_ns].k.reshape(3, 3), frame.intrinsic)


def test_static_transforms_are_where_the_cameras_are(world: Path, messages: Messages) -> None:
    pytest.importorskip("tf2_msgs")
    calibrated = json.loads(next(world.glob("v1.0-*/calibrated_sensor.json")).read_text())
    channels = {sensor["token"]: sensor["channel"] for sensor in json.loads(next(world.glob("v1.0-*/sensor.json")).read_text())}
    wanted = {channels[record["sensor_token"]]: record for record in calibrated}
    transforms = {one.child_frame_id: one for message in messages["/tf_static"] for one in message.transforms}
    assert set(transforms) == set(NUSCENES_CAMERAS)
    for channel, one in transforms.items():
        move, turn = one.transform.translation, one.transform.rotation
        assert one.header.frame_id == "base_link"
        assert [move.x, move.y, move.z] == pytest.approx(wanted[channel]["translation"], abs=1e-9)
        quaternion, true = np.array([turn.w, turn.x, turn.y, turn.z]), np.array(wanted[channel]["rotation"])
        assert abs(float(quaternion @ true)) == pytest.approx(1, abs=1e-6)  # q and -q are one rotation


def test_the_clock_is_that_of_the_drive(messages: Messages) -> None:
    times = [message.clock.sec + message.clock.nanosec / 1e9 for message in messages["/clock"]]
    stamps = [stamp_of(message) / 1e9 for message in messages["/leo_edge/input/CAM_FRONT/image"]]
    assert times == sorted(times)
    assert len(times) > 100
    assert times[0] <= stamps[0] + 0.1
    assert abs(times[-1] - stamps[-1]) < 0.1


def test_a_recording_replayed_offline_gives_the_same_answers(
    bag: Path, messages: Messages, micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = messages["/leo_edge/output/answer"]
    assert len(answers) >= 10
    arguments = ["replay", micro, "--bags", bag, "--questions", f"recorded:{bag}", "--out", tmp_path / "run"]
    assert main([*map(str, arguments), "--max-new-tokens", "4", "--json"]) == 0
    recorded = json.loads(capsys.readouterr().out)["scores"]["recorded"]
    calm = [answer for answer in answers if answer.degrade_level == 0 and answer.finish != "deadline"]
    assert (recorded["asked"], recorded["equal"]) == (len(calm), len(calm))
    assert len({answer.answer for answer in answers}) > 1  # else any answer would do


def test_demo_without_a_bundle_is_one_error_line(world: Path, tmp_path: Path) -> None:
    command = leo_edge("demo", "ros", "--bundle", tmp_path / "none", "--nuscenes", world, "--work", tmp_path)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the node cannot configure: ")
    assert str(tmp_path / "none") in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_in_short(world: Path, micro: Path, tmp_path: Path) -> None:
    """What `make ros-demo` does, with a smaller model and a shorter drive."""
    command = leo_edge("demo", "ros", "--bundle", micro, "--nuscenes", world, "--work", tmp_path, "--deadline-ms", 2000)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "node.log").read_text()
    lines = done.stdout.splitlines()
    scrolled = [line for line in lines if "(age " in line]
    assert len(scrolled) >= 6
    assert all(" ms, after " in line for line in scrolled)
    (equal,) = (line.split() for line in lines if "token for token" in line)
    assert equal[0] == equal[2] == str(len(scrolled))
    assert any(line.startswith("frame sets: ") for line in lines)
