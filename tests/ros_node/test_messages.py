"""The messages, as built: fields are set and read, constants have the values that others rely on."""

import math

import numpy as np
import pytest

pytest.importorskip("leo_edge_msgs", reason="the messages are not built: python -m leo_edge.ros_node.build_messages")

from builtin_interfaces.msg import Time
from leo_edge_msgs.msg import AnswerPiece, CameraUse, DegradeState, SceneAnswer, StageLatency
from leo_edge_msgs.srv import Ask
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from leo_edge.ros_node.encoder import CameraUse as Use
from leo_edge.ros_node.messages import age_ms, image_message
from leo_edge.ros_node.synchronizer import CameraState


def test_constants_of_a_cameras_state() -> None:
    assert (CameraUse.FRESH, CameraUse.STALE, CameraUse.MISSING) == (0, 1, 2)
    assert CameraUse().state == CameraUse.FRESH


def test_answer_comes_back_as_it_was_sent() -> None:
    header = Header(stamp=Time(sec=12, nanosec=500), frame_id="base_link")
    answer = SceneAnswer(
        header=header,
        question="Is there a pedestrian?",
        answer="Yes.",
        finish="stop_token",
        token_ids=[5, -1],
        deadline_met=True,
        cameras=[CameraUse(name="CAM_FRONT", state=CameraUse.STALE, stamp=header.stamp, age_ms=62.5)],
        missing=["CAM_BACK"],
        stages=[StageLatency(name="decode", ms=40.0)],
    )
    received = deserialize_message(serialize_message(answer), SceneAnswer)
    assert received == answer
    assert (received.header.stamp.nanosec, list(received.token_ids), received.stages[0].ms) == (500, [5, -1], 40.0)
    assert (received.cameras[0].name, received.cameras[0].state, received.missing) == ("CAM_FRONT", 1, ["CAM_BACK"])


def test_another_answer_differs() -> None:
    """The negative control."""
    sent = serialize_message(SceneAnswer(answer="Yes."))
    assert deserialize_message(sent, SceneAnswer) != SceneAnswer(answer="No.")


def test_pieces_and_degradation_come_back_as_they_were_sent() -> None:
    for message in (
        AnswerPiece(question_id="ask", index=3, text=" a", last=True),
        DegradeState(level=1, steps=["tiles"], reason="p99 412 ms"),
    ):
        assert deserialize_message(serialize_message(message), type(message)) == message


def test_service_takes_a_question_and_gives_an_answer() -> None:
    request = Ask.Request(question="What is ahead?", max_new_tokens=16, deadline_ms=400.0)
    assert (request.question, request.max_new_tokens, request.deadline_ms) == ("What is ahead?", 16, 400.0)
    response = Ask.Response(success=True, answer=SceneAnswer(question_id="ask"))
    received = deserialize_message(serialize_message(response), Ask.Response)
    assert (received.success, received.message, received.answer.question_id) == (True, "", "ask")


@pytest.mark.parametrize(("field", "value"), [("state", 256), ("name", 1), ("age_ms", "old")])
def test_values_of_another_type_are_refused_where_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(AssertionError, match=f"The '{field}' field must be"):
        CameraUse(check_fields=True, **{field: value})


def test_transforms_are_known_by_the_name_and_type_that_tf_has() -> None:
    from tf2_msgs.msg import TFMessage

    assert TFMessage.get_fields_and_field_types() == {"transforms": "sequence<geometry_msgs/TransformStamped>"}


def test_ages_count_from_stamps_or_from_arrival_where_stamps_are_on_another_clock() -> None:
    second = 1_000_000_000
    now_ns, monotonic_ns = 1_700_000_000 * second, 500 * second
    near = Use("front", CameraState.FRESH, now_ns - second, monotonic_ns - second // 5)
    far = Use("left", CameraState.FRESH, now_ns - 3600 * second, monotonic_ns - second // 5)
    assert age_ms(near, now_ns, monotonic_ns) == 1000
    assert age_ms(far, now_ns, monotonic_ns) == 200
    assert math.isnan(age_ms(Use("right", CameraState.MISSING), now_ns, monotonic_ns))


def test_an_image_message_holds_the_image() -> None:
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    message = image_message(image, Header())
    assert (message.height, message.width, message.step, message.encoding) == (2, 4, 12, "rgb8")
    assert bytes(message.data) == image.tobytes()
    mirrored = image_message(image[:, ::-1], Header())
    assert bytes(mirrored.data) == image[:, ::-1].tobytes()
