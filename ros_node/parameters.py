"""The node's parameters: what each is, its bounds, whether it may change while the node runs, and what they make together.

Values come as ROS gives them (str, bool, int, float, lists of str); rclpy is not needed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leo_edge.ros_node.ladder import DEFAULT_STEPS, Ladder, parse_ladder
from leo_edge.ros_node.questions import DEFAULT_QUESTIONS, StandingQuestion
from leo_edge.ros_node.synchronizer import SyncRules
from leo_edge.ros_node.worker import Settings
from leo_edge.runtime.engine_choice import BACKENDS
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS

Value = Any  # what a ROS parameter can hold
_TRANSPORTS, _RELIABILITIES = ("raw", "compressed"), ("best_effort", "reliable")
_DAY_MS = 86_400_000.0


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. `bounds` are of a number, `choices` of a string. `live`: it may change while the node is configured."""

    name: str
    default: Value
    description: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: Value) -> Value:
        """Returns a value in this parameter's type; an integer is taken where a number is meant.

        Raises:
            LeoEdgeError: it has another type, or is out of bounds.
        """
        wanted = type(self.default)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if wanted is list:
            value = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise LeoEdgeError(f"{self.name} must be a list of strings, got {value!r}")
        elif type(value) is not wanted:
            raise LeoEdgeError(f"{self.name} must be of type {wanted.__name__}, got {value!r}")
        if self.bounds is not None and not self.bounds[0] <= value <= self.bounds[1]:
            raise LeoEdgeError(f"{self.name} must be {self.bounds[0]:g} to {self.bounds[1]:g}, got {value:g}")
        if self.choices and value not in self.choices:
            raise LeoEdgeError(f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}")
        return value


SPECS = (
    ParameterSpec("bundle", "", "Directory of the bundle. Needed."),
    ParameterSpec("backend", "auto", "Inference engine.", choices=BACKENDS),
    ParameterSpec("threads", 0, "Threads of the engine; 0: its own choice.", (0, 1024)),
    ParameterSpec("autostart", True, "Configure and activate at the start."),
    ParameterSpec("cameras", list(NUSCENES_CAMERAS), "Cameras in prompt order; each has topics ~/input/<camera>/..."),
    ParameterSpec("anchor_camera", "", "The camera whose stamp a frame set takes; empty: the first one."),
    ParameterSpec("image_transport", "raw", "raw: <camera>/image; compressed: <camera>/image/compressed.", choices=_TRANSPORTS),
    ParameterSpec("reliability", "best_effort", "Reliability of the image subscriptions.", choices=_RELIABILITIES),
    ParameterSpec("frame_id", "base_link", "frame_id of the answers."),
    ParameterSpec("degrade", list(DEFAULT_STEPS), "What is given up, step by step, when time is short."),
    ParameterSpec("questions", list(DEFAULT_QUESTIONS), "Ids; question.<id>.text and .period_s say the rest."),
    ParameterSpec("always_run", False, "Answer even when nobody listens.", live=True),
    ParameterSpec("deadline_ms", 0.0, "Of an answer, from when its frame set is there; 0: none.", (0, _DAY_MS), live=True),
    ParameterSpec("max_new_tokens", 32, "Tokens of the longest answer.", (1, 4096), live=True),
    ParameterSpec("max_camera_age_ms", 1000.0, "Older frames are not used: the camera is missing.", (1, _DAY_MS), live=True),
    ParameterSpec("max_camera_time_diff_ms", 150.0, "An older frame in a set is called stale.", (1, _DAY_MS), live=True),
    ParameterSpec("max_wait_ms", 80.0, "How long a set waits for late cameras.", (0, _DAY_MS), live=True),
    ParameterSpec("min_cameras", 1, "With fewer fresh cameras there is no set.", (1, 64), live=True),
    ParameterSpec("publish_overlay", False, "Publish a mosaic of the cameras with question and answer.", live=True),
)
SPEC_BY_NAME = {spec.name: spec for spec in SPECS}


def question_specs(question_id: str) -> tuple[ParameterSpec, ParameterSpec]:
    """Returns the two parameters of a question."""
    return (
        ParameterSpec(f"question.{question_id}.text", DEFAULT_QUESTIONS.get(question_id, ""), "The question.", live=True),
        ParameterSpec(
            f"question.{question_id}.period_s", 1.0, "How often it is asked; 0: of every set.", (0, 86_400), live=True
        ),
    )


@dataclass(frozen=True)
class NodeParameters:
    """Parameters that fit together."""

    values: Mapping[str, Value]
    rules: SyncRules
    settings: Settings

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def new_ladder(self) -> Ladder:
        """Returns a ladder at its top."""
        return Ladder(self.values["degrade"])


def check_parameters(values: Mapping[str, Value]) -> NodeParameters:
    """Checks every value, and all of them together.

    Raises:
        LeoEdgeError: one is wrong, or they contradict each other.
    """
    specs = dict(SPEC_BY_NAME)
    ids = SPEC_BY_NAME["questions"].check(values["questions"])
    for question_id in ids:
        specs |= {spec.name: spec for spec in question_specs(question_id)}
    checked = {name: spec.check(values[name]) for name, spec in specs.items()}
    if not checked["bundle"]:
        raise LeoEdgeError("the parameter bundle is empty: give the directory of a bundle, bundle:=/path/to/bundle")
    parse_ladder(checked["degrade"])
    for channel in checked["cameras"]:
        if not channel.isidentifier():
            raise LeoEdgeError(
                f"cameras has {channel!r}: a name is part of a topic, of letters, digits and _ (not first a digit)"
            )
    rules = SyncRules(
        channels=tuple(checked["cameras"]),
        anchor=checked["anchor_camera"] or next(iter(checked["cameras"]), ""),
        max_time_diff_ms=checked["max_camera_time_diff_ms"],
        max_age_ms=checked["max_camera_age_ms"],
        max_wait_ms=checked["max_wait_ms"],
        min_cameras=checked["min_cameras"],
    )
    deadline_ms = checked["deadline_ms"] if checked["deadline_ms"] > 0 else None
    return NodeParameters(checked, rules, Settings(_questions(ids, checked), deadline_ms, checked["max_new_tokens"]))


def check_change(name: str, *, configured: bool) -> None:
    """Checks that a parameter may change now.

    Raises:
        LeoEdgeError: it may not, while the node is configured.
    """
    spec = SPEC_BY_NAME.get(name)
    if configured and spec is not None and not spec.live:
        raise LeoEdgeError(f"{name} cannot change while the node is configured: deactivate it, clean it up, then set {name}")


def _questions(ids: Sequence[str], values: Mapping[str, Value]) -> tuple[StandingQuestion, ...]:
    if not ids:
        raise LeoEdgeError("questions is empty: give the ids of one or more questions")
    if len(set(ids)) != len(ids):
        raise LeoEdgeError(f"questions names one twice: {', '.join(ids)}")
    made = []
    for question_id in ids:
        text, period_s = values[f"question.{question_id}.text"], values[f"question.{question_id}.period_s"]
        if not text.strip():
            raise LeoEdgeError(
                f"question.{question_id}.text is empty: write the question, or take {question_id} out of questions"
            )
        made.append(StandingQuestion(question_id, text, period_s if math.isfinite(period_s) else 0.0))
    return tuple(made)
