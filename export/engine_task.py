"""What building one engine takes and gives, as data that goes to a child process and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from leo_edge.runtime.engines import Profile
from leo_edge.runtime.manifest import from_json


@dataclass(frozen=True)
class EngineTask:
    """One engine to be built.

    onnx, plan: the graph's file and where the plan goes.
    timing_cache: what TensorRT has measured so far; read where it is there, and written. `renew_timing_cache`: one that does
        not fit is replaced; else it is an error.
    workspace_mb: the most scratch memory that a kernel may take; None leaves it to TensorRT: all that the device has.
    tf32: whether float32 products may round their factors to 10 places.
    """

    graph: str
    onnx: str
    plan: str
    timing_cache: str
    renew_timing_cache: bool
    profiles: tuple[Profile, ...]
    opt_level: int
    workspace_mb: int | None
    tf32: bool

    def to_json(self) -> str:
        """Returns it as JSON."""
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that was written. `notes` are worth a line each."""

    size_bytes: int
    sha256: str
    build_seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns it as JSON."""
        return json.dumps(dataclasses.asdict(self))


def read_task(text: str) -> EngineTask:
    """Reads `EngineTask.to_json`."""
    return from_json(EngineTask, json.loads(text), "task")


def read_built(text: str) -> BuiltPlan:
    """Reads `BuiltPlan.to_json`."""
    return from_json(BuiltPlan, json.loads(text), "result")
