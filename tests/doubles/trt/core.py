"""What contexts need of an engine, without being the engine."""

from __future__ import annotations

import weakref
from typing import Any

import onnx

from tests.doubles.machine import Machine
from tests.doubles.trt.execution import make_session, scratch_size
from tests.doubles.trt.model import Model, Port, Shape
from tests.doubles.trt.plan import Plan


class EngineCore:
    """What contexts need of an engine, without being the engine."""

    def __init__(self, plan: Plan, state: Machine) -> None:
        self.plan, self.machine = plan, state
        self.model = Model(onnx.load_model_from_string(plan.model))
        self.inputs = {port.name: port for port in self.model.inputs}
        self.outputs = {port.name: port for port in self.model.outputs}
        self.ports: dict[str, Port] = {**self.inputs, **self.outputs}
        self.session = make_session(self.model)
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()

    def scratch_bytes(self, profile: int) -> int:
        """Returns how much memory the activations take in a profile."""
        return self.scratch_bytes_of({name: ranges[2] for name, ranges in self.plan.profiles[profile].items()})

    def scratch_bytes_of(self, shapes: dict[str, Shape]) -> int:
        """Returns how much memory the activations take for such inputs."""
        return scratch_size({**shapes, **self.model.output_shapes(shapes)})
