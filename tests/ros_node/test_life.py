"""The node from its start to its end: transitions, services, parameters, and what goes wrong with them."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("leo_edge_msgs", reason="needs ROS 2 and leo_edge_msgs: make env")

from diagnostic_msgs.msg import DiagnosticStatus
from leo_edge_msgs.msg import AnswerPiece, DegradeState
from leo_edge_msgs.srv import Ask
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

from tests.ros_node.conftest import NODE, SLOW, Start, slow
from tests.ros_node.rig import CAMERAS, WAIT_S, Rig, environment, header, image_message, now_ns, pixels, stamp_of

ERROR = DiagnosticStatus.ERROR
MS = 1_000_000


def set_parameter(rig: Rig, name: str, value: Any) -> tuple[bool, str]:
    kinds = {
        str: (ParameterType.PARAMETER_STRING, "string_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
    }
    kind, field = kinds[type(value)]
    parameter = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
    (result,) = rig.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[parameter])).results
    return result.successful, result.reason


def state(rig: Rig) -> int:
    return int(rig.call(GetState, "get_state", GetState.Request()).current_state.id)


def change(rig: Rig, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(rig.call(ChangeState, "change_state", request).success)


def test_a_camera_that_is_dead_at_the_start(start: Start, rig: Rig) -> None:
    start(*NODE)
    rig.connect()
    stamps = rig.run(1, ("front", "left"))
    assert list(rig.wait_for_answer(stamps[0]).missing) == ["right"]
    rig.wait_for_status("camera right", "no frame", level=ERROR)


def test_corrupt_and_whole_jpegs(start: Start) -> None:
    import io

    from PIL import Image as PilImage

    def jpeg(channel: str, number: int) -> bytes:
        buffer = io.BytesIO()
        PilImage.fromarray(pixels(channel, number)).save(buffer, "JPEG")
        return buffer.getvalue()

    start(*NODE, "image_transport=compressed", "max_camera_age_ms=300")
    rig = Rig(compressed=True)
    try:
        rig.connect()
        for number in range(20):
            stamp_ns = now_ns()
            for channel in CAMERAS:
                data = jpeg(channel, number)[: 500 if channel == "left" and number >= 5 else None]
                rig.publish(channel, CompressedImage(header=header(stamp_ns), format="jpeg", data=data))
            time.sleep(0.1)
        answer = rig.wait_for_answer(stamp_ns)
        assert list(answer.missing) == ["left"]
        assert any(not answer.missing for answer in rig.answers)
        rig.wait_for_status("camera left", "cannot decode", level=ERROR)
    finally:
        rig.close()


def test_a_qos_mismatch_is_reported(start: Start) -> None:
    start(*NODE, "reliability=reliable")
    rig = Rig(reliable=False)
    try:
        rig.wait_for_status("camera front", "QoS mismatch (reliability)", level=ERROR)
        rig.run(0.3)
        assert rig.answers == []
    finally:
        rig.close()


def test_killed_and_started_again_while_the_cameras_run(start: Start, rig: Rig) -> None:
    node = start(*NODE)
    rig.connect()
    rig.wait_for_answer(rig.run(0.5)[0])
    node.kill()
    rig.run(0.5)
    node.start()
    began_ns = now_ns()
    rig.wait(lambda: rig.run(0.2) and any(stamp_of(answer) > began_ns for answer in rig.answers), "answers come again")


def test_without_a_whole_bundle_it_stays_unconfigured_and_can_be_configured_later(
    start: Start, rig: Rig, tmp_path: Path, micro: Path
) -> None:
    broken = tmp_path / "bundle"
    node = start(*NODE, bundle=broken)
    rig.wait_for_status("node", "cannot configure: ", level=ERROR)
    assert str(broken) in rig.statuses["node"].message
    assert state(rig) == State.PRIMARY_STATE_UNCONFIGURED
    shutil.copytree(micro, broken)
    with (broken / "fuse.onnx").open("ab") as file:
        file.write(b"more")
    assert not change(rig, Transition.TRANSITION_CONFIGURE)
    rig.wait_for_status("node", "fuse.onnx", level=ERROR)
    assert set_parameter(rig, "bundle", str(micro)) == (True, "")
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert change(rig, Transition.TRANSITION_ACTIVATE)
    assert state(rig) == State.PRIMARY_STATE_ACTIVE
    rig.connect()
    assert rig.wait_for_answer(rig.run(0.5)[0]).bundle_id
    assert "Traceback" not in node.text()
    assert set_parameter(rig, "bundle", "other")[1].startswith("bundle cannot change while the node is configured")
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE):
        assert change(rig, transition)


def test_deactivated_during_an_answer(start: Start, rig: Rig) -> None:
    start(*slow(30), module=SLOW)
    rig.connect()
    rig.run(0.3)
    ask: Any = rig.node.create_client(Ask, "/leo_edge/ask")
    assert ask.wait_for_service(10)
    waiting = ask.call_async(Ask.Request(question="What is ahead?"))
    time.sleep(0.3)
    assert not waiting.done()
    began = time.monotonic()
    assert rig.call(SetBool, "enable", SetBool.Request(data=False)).success
    assert time.monotonic() - began < 2.0
    rig.wait(waiting.done, "the question is refused")
    assert not waiting.result().success
    assert "deactivated" in waiting.result().message
    assert rig.answers == []
    refused = rig.call(Ask, "ask", Ask.Request(question="What is ahead?"))
    assert (refused.success, refused.message) == (False, "the node is not active: call ~/enable with true")
    assert rig.call(SetBool, "enable", SetBool.Request(data=True)).success
    assert state(rig) == State.PRIMARY_STATE_ACTIVE
    rig.run(0.3)  # and it is stopped during the next answer, within two seconds


def test_a_parameter_changed_during_an_answer_counts_from_the_next_one(start: Start, rig: Rig) -> None:
    start(*slow(0.6), module=SLOW)
    rig.connect()
    rig.run(0.2)
    assert set_parameter(rig, "question.what.text", "What is behind?") == (True, "")
    assert set_parameter(rig, "max_new_tokens", 2) == (True, "")
    ok, reason = set_parameter(rig, "deadline_ms", -1.0)
    assert not ok
    assert reason
    ok, reason = set_parameter(rig, "max_camera_age_ms", 10.0)
    assert (ok, "max_camera_age_ms must be at least" in reason) == (False, True)
    rig.run(1.5)
    rig.wait(lambda: len(rig.answers) >= 2, "two answers")
    assert [answer.question for answer in rig.answers[:2]] == ["What is ahead?", "What is behind?"]
    assert len(rig.answers[1].token_ids) <= 2


def test_the_clock_jumps_back_when_a_bag_begins_again(start: Start, rig: Rig) -> None:
    start(*NODE, "--use-sim-time")
    rig.connect()
    clock = rig.node.create_publisher(Clock, "/clock", 10)
    bag_ns = 1_500_000_000_000 * MS
    rig.wait(clock.get_subscription_count, "the node hears /clock")
    for _ in range(5):  # until it has come, stamps of 2017 count from their arrival
        clock.publish(Clock(clock=header(bag_ns).stamp))
        time.sleep(0.1)
    for _ in range(2):
        for number in range(10):
            stamp_ns = bag_ns + number * 200 * MS  # a bag at twice its pace
            clock.publish(Clock(clock=header(stamp_ns + 7 * MS).stamp))
            time.sleep(0.02)
            for channel in CAMERAS:
                rig.publish(channel, image_message(channel, number, stamp_ns))
            time.sleep(0.08)
    rig.wait(lambda: len(rig.answers) >= 14, "answers in both rounds")
    stamps = [stamp_of(answer) for answer in rig.answers]
    assert sum(later < earlier for earlier, later in itertools.pairwise(stamps)) == 1
    ages = [camera.age_ms for answer in rig.answers for camera in answer.cameras]
    assert all(round(age - 7, 1) % 200 == 0 for age in ages), ages  # by the clock of the bag, not by that of the machine


def test_asked_and_heard_in_every_way(start: Start, rig: Rig) -> None:
    heard: dict[str, list[Any]] = {"text": [], "piece": [], "overlay": [], "degrade": []}
    create = rig.node.create_subscription
    create(String, "/leo_edge/output/answer_text", heard["text"].append, 10)
    create(AnswerPiece, "/leo_edge/output/answer_piece", heard["piece"].append, 100)
    create(Image, "/leo_edge/output/overlay", heard["overlay"].append, 1)
    create(DegradeState, "/leo_edge/output/degrade", heard["degrade"].append, 10)
    start(*NODE, "publish_overlay=true", "deadline_ms=0.001", "degrade=[max_new_tokens=2]")
    rig.connect()
    rig.run(1)
    rig.wait(lambda: heard["degrade"] and heard["overlay"], "degrade and overlay")
    answer = rig.answers[0]
    assert (answer.deadline_met, answer.finish, len(answer.token_ids)) == (False, "deadline", 1)
    assert heard["text"][0].data == f"{answer.question} {answer.answer}"
    pieces = [piece for piece in heard["piece"] if piece.header == answer.header]
    assert "".join(piece.text for piece in pieces) == answer.answer
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert list(heard["degrade"][-1].steps) == ["max_new_tokens=2"]
    assert heard["overlay"][0].width == 960
    assert {"convert", "tiles", "prefill", "decode"} <= {stage.name for stage in answer.stages}
    asked = rig.call(Ask, "ask", Ask.Request(question="What is behind?", max_new_tokens=3))
    assert (asked.success, asked.answer.question, asked.answer.question_id) == (True, "What is behind?", "ask")
    assert 1 <= len(asked.answer.token_ids) <= 3
    empty = rig.call(Ask, "ask", Ask.Request(question=" "))
    assert "the question is empty" in empty.message


def test_ended_by_sigterm(start: Start, rig: Rig) -> None:
    node = start(*NODE)
    rig.connect()
    rig.run(0.3)
    assert node.stop(signal.SIGTERM) < 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["deadline_ms=-5.0"], "deadline_ms"),
        (["cameras=[front"], "arse"),
        (["deadline_ms"], "--set got 'deadline_ms': expected NAME=VALUE"),
    ],
    ids=["out of range", "no YAML", "no value"],
)
def test_options_that_cannot_be_are_one_error_line(options: list[str], message: str, micro: Path) -> None:
    command = [sys.executable, "-m", "leo_edge", "ros", str(micro), "--set", *options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr


def test_options_win_over_the_file_in_a_namespace_too(start: Start, micro: Path, tmp_path: Path) -> None:
    file = tmp_path / "car.param.yaml"
    other = {"bundle": "/nowhere", "max_new_tokens": 9, "deadline_ms": 123}
    entry = "".join(f"    {name}: {value}\n" for name, value in other.items())
    file.write_text(f"/car/leo_edge:\n  ros__parameters:\n{entry}")
    rig = Rig()
    try:
        node = start(*NODE, "--params-file", file, "--namespace", "car")
        client: Any = rig.node.create_client(GetParameters, "/car/leo_edge/get_parameters")
        assert client.wait_for_service(WAIT_S), node.text()
        future = client.call_async(GetParameters.Request(names=["bundle", "max_new_tokens", "deadline_ms"]))
        rig.wait(future.done, "parameters")
        bundle, tokens, deadline = future.result().values
        assert (bundle.string_value, tokens.integer_value) == (str(micro), 4)
        assert 123 in (deadline.integer_value, deadline.double_value)  # what only the file has is taken
    finally:
        rig.close()
