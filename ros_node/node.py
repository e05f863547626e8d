"""The lifecycle node `leo_edge`: parameters, transitions, services. What it does is in the modules that it wires together.

unconfigured --configure--> inactive: parameters and bundle are checked, publishers are made
inactive --activate--> active: the model is loaded, cameras are subscribed, the worker runs
active --deactivate--> inactive: the worker is stopped, the model is freed
inactive --cleanup--> unconfigured
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from leo_edge_msgs.srv import Ask
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from leo_edge.ros_node.ask_server import AskServer
from leo_edge.ros_node.cameras import CameraInputs
from leo_edge.ros_node.health import ERROR, OK, Health, Status
from leo_edge.ros_node.messages import answer_message, diagnostics_message
from leo_edge.ros_node.outputs import Outputs
from leo_edge.ros_node.parameters import (
    SPECS,
    NodeParameters,
    ParameterSpec,
    check_change,
    check_parameters,
    question_specs,
)
from leo_edge.ros_node.process import release_memory
from leo_edge.ros_node.worker import Worker
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.pipeline import open_pipeline

NODE_NAME = "leo_edge"
_DIAGNOSTICS_S = 1.0
_STOP_S = 1.5  # a worker that has not stopped by then is left to end by itself: shutdown may not be held up
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@dataclass
class _Configured:
    """What exists from configure to cleanup."""

    parameters: NodeParameters
    bundle: Bundle
    health: Health
    outputs: Outputs


@dataclass
class _Active:
    """What exists from activate to deactivate."""

    worker: Worker
    inputs: CameraInputs
    backend: str


class LeoEdgeNode(LifecycleNode):
    """Cameras in, answers out; see docs/ros.md for topics, parameters and services."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self._configured: _Configured | None = None
        self._active: _Active | None = None
        self._trouble = ""  # why the last transition failed
        self._started_ns = time.perf_counter_ns()
        for spec in SPECS:
            self._declare(spec)
        self._declare_questions()
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # /clock may stop or go back
        self._timer = self.create_timer(_DIAGNOSTICS_S, self._publish_diagnostics, clock=steady)
        self._enable = self.create_service(SetBool, "~/enable", self._on_enable)
        self._ask = AskServer(self.get_name(), self.get_namespace(), self._serve_ask, self.context)

    def autostart(self) -> None:
        """Configures and activates, if the parameter says so. What fails is in the log and in the diagnostics."""
        if self.get_parameter("autostart").value:
            self._go_active()

    def close(self) -> None:
        """Stops all work; the node can be destroyed then."""
        self._stop_work()
        self._ask.close(_STOP_S)

    # Transitions. rclpy swallows what they raise, so each tells of it.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Checks parameters and bundle and makes the publishers."""
        return self._try("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Loads the model and starts to work."""
        return self._try("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Stops the work and frees the model."""
        return self._try("deactivate", self._stop_work)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Takes the publishers down."""
        return self._try("cleanup", self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Stops everything."""
        return self._try("shutdown", self._clean_up)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:  # noqa: ARG002
        """Goes back to unconfigured."""
        return self._try("error handling", self._clean_up)

    def _try(self, what: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except LeoEdgeError as error:
            self._trouble = f"cannot {what}: {error}"
            self.get_logger().error(self._trouble)
            return _FAILURE
        except Exception as error:
            self._trouble = f"{what} failed: {type(error).__name__}: {error}"
            self.get_logger().error(self._trouble)
            raise
        self._trouble = ""
        return _SUCCESS

    def _configure(self) -> None:
        self._declare_questions()
        parameters = check_parameters({name: parameter.value for name, parameter in self._own_parameters().items()})
        bundle = open_bundle(parameters["bundle"])
        health = Health(parameters.rules.channels, time.perf_counter_ns())
        self._configured = _Configured(parameters, bundle, health, Outputs(self, health, parameters["frame_id"]))
        self._apply(parameters)
        self.get_logger().info(f"bundle {bundle.id}, cameras {', '.join(parameters.rules.channels)}")

    def _activate(self) -> None:
        configured = self._of(self._configured)
        parameters = configured.parameters
        pipeline = open_pipeline(configured.bundle, parameters["backend"], threads=parameters["threads"])
        worker = Worker(pipeline, parameters.rules, parameters.new_ladder(), parameters.settings, configured.outputs)
        inputs = CameraInputs(self, worker, configured.health, parameters["image_transport"], parameters["reliability"])
        self._active = _Active(worker, inputs, pipeline.backend)
        worker.start()
        self.get_logger().info(f"active: {pipeline.backend}, {len(parameters.settings.questions)} questions")

    def _stop_work(self) -> None:
        active, self._active = self._active, None
        if active is None:
            return
        active.inputs.destroy()
        if not active.worker.stop(_STOP_S):
            self.get_logger().warning(f"the model is still at work after {_STOP_S:g} s; it is freed when it comes to its end")
        del active
        release_memory()

    def _clean_up(self) -> None:
        self._stop_work()
        configured, self._configured = self._configured, None
        if configured is not None:
            configured.outputs.destroy()

    # Parameters.

    def _declare(self, spec: ParameterSpec) -> None:
        if self.has_parameter(spec.name):
            return
        descriptor = ParameterDescriptor(description=spec.description, dynamic_typing=True)
        if spec.choices:
            descriptor.additional_constraints = "one of " + ", ".join(spec.choices)
        if spec.bounds is not None and isinstance(spec.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(spec.bounds[0]), to_value=float(spec.bounds[1]))
            ]
        elif spec.bounds is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(spec.bounds[0]), to_value=int(spec.bounds[1]), step=1)]
        self.declare_parameter(spec.name, spec.default, descriptor)

    def _declare_questions(self) -> None:
        for question_id in self.get_parameter("questions").value or ():
            for spec in question_specs(str(question_id)):
                self._declare(spec)

    def _own_parameters(self) -> dict[str, Parameter[Any]]:
        names = [spec.name for spec in SPECS]
        for question_id in self.get_parameter("questions").value or ():
            names += [spec.name for spec in question_specs(str(question_id))]
        return {name: self.get_parameter(name) for name in names}

    def _on_set_parameters(self, changes: Sequence[Parameter[Any]]) -> SetParametersResult:
        """Refuses what cannot be; applies the rest at once where the node is configured."""
        configured = self._configured
        try:
            for change in changes:
                check_change(change.name, configured=configured is not None)
            if configured is None:
                return SetParametersResult(successful=True)  # all of them together are checked when it is configured
            values = {name: parameter.value for name, parameter in self._own_parameters().items()}
            configured.parameters = check_parameters(values | {change.name: change.value for change in changes})
        except LeoEdgeError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._apply(configured.parameters)
        return SetParametersResult(successful=True)

    def _apply(self, parameters: NodeParameters) -> None:
        outputs = self._of(self._configured).outputs
        outputs.always_run, outputs.publish_overlay = parameters["always_run"], parameters["publish_overlay"]
        if self._active is not None:
            self._active.worker.settings, self._active.worker.rules = parameters.settings, parameters.rules

    # Services.

    def _go_active(self) -> bool:
        """Takes the transitions to active that are left to take; says whether it is there."""
        if self._configured is None and self.trigger_configure() != _SUCCESS:
            return False
        return self._active is not None or self.trigger_activate() == _SUCCESS

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            response.success = self._go_active()
        else:
            response.success = self._active is None or self.trigger_deactivate() == _SUCCESS
        state = "active" if self._active is not None else "not active"
        response.message = state if response.success else f"{state}: {self._trouble}"
        return response

    def _serve_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        """Waits for an answer, in the thread of the service."""
        active, configured = self._active, self._configured
        if active is None or configured is None:
            response.message = "the node is not active: call ~/enable with true"
            return response
        asked = active.worker.ask(request.question, request.max_new_tokens or None, request.deadline_ms or None)
        try:
            report = asked.result()
        except LeoEdgeError as error:
            response.message = str(error)
            return response
        clock_ns = self.get_clock().now().nanoseconds
        response.answer = answer_message(report, configured.parameters["frame_id"], clock_ns, time.perf_counter_ns())
        response.success = True
        return response

    # Diagnostics.

    def _publish_diagnostics(self) -> None:
        hardware_id = "" if self._configured is None else self._configured.bundle.id
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(diagnostics_message(stamp, name, hardware_id, self._statuses()))

    def _statuses(self) -> list[Status]:
        configured, active = self._configured, self._active
        state = "unconfigured" if configured is None else "inactive" if active is None else "active"
        node = Status("node", ERROR if self._trouble else OK, self._trouble or state, {"state": state})
        if configured is None or active is None:
            return [node]
        facts = {"backend": active.backend, "bundle": configured.bundle.id, "bundle_path": configured.parameters["bundle"]}
        return [node, *configured.health.statuses(time.perf_counter_ns(), active.worker.counts, facts)]

    @staticmethod
    def _of(part: _Configured | None) -> _Configured:
        assert part is not None, "the lifecycle allows this only when configured"
        return part
