"""Plans of the double: a header as TensorRT checks it, then JSON and the ONNX graph with its weights.

The layout and the version tags are the double's own; only the order of the checks and the texts of the refusals are TensorRT's.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.doubles.machine import machine

_MAGIC = b"dblT"
_HEADER = struct.Struct("<4sIQI")
_LENGTH = struct.Struct("<I")
Ranges = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Of a profile, by input: min, opt and max shape."""


class PlanError(Exception):
    """A plan that TensorRT refuses, in its words."""


@dataclass(frozen=True)
class Plan:
    """What is in a plan. `aliases` are outputs that are written in place, by the input that they share memory with."""

    tensorrt: str
    compute_capability: tuple[int, int]
    device_name: str
    profiles: list[Ranges]
    strongly_typed: bool
    aliases: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    model: bytes = b""


def write_plan(plan: Plan) -> bytes:
    """Returns a plan as bytes."""
    described = asdict(plan)
    del described["model"]
    text = json.dumps(described).encode()
    body = _LENGTH.pack(len(text)) + text + plan.model
    return _HEADER.pack(_MAGIC, _tag(plan.tensorrt), len(body), zlib.crc32(body)) + body


def read_plan(data: bytes, *, check: bool = True) -> Plan:
    """Reads a plan; without `check`, of whatever machine it is.

    Raises:
        PlanError: it is none, not whole, or not for this machine.
    """
    magic, tag, size, checksum = _HEADER.unpack(data[: _HEADER.size].ljust(_HEADER.size, b"\0"))
    body = data[_HEADER.size :]
    config = machine().config
    if magic != _MAGIC:
        raise PlanError(_serialization("magicTagRead == kMAGIC_TAG failed.Magic tag does not match"))
    current = _tag(config.tensorrt)
    if check and machine().fails("plan-version"):
        tag = current - 1
    if check and tag != current:
        note = f"Note: Current Version: {current}, Serialized Engine Version: {tag}"
        raise PlanError(_serialization(f"stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. {note}"))
    if size != len(body):
        raise PlanError(
            _serialization("header.size == archiveSize failed.Size specified in header does not match archive size")
        )
    if zlib.crc32(body) != checksum:
        raise PlanError(_serialization("checksum failed.Checksum of the plan does not match"))
    plan = _parse(body)
    if check:
        _check_machine(plan)
    return plan


def _parse(body: bytes) -> Plan:
    (length,) = _LENGTH.unpack_from(body)
    described = json.loads(body[_LENGTH.size : _LENGTH.size + length])
    described["compute_capability"] = tuple(described["compute_capability"])
    described["profiles"] = [
        {name: tuple(tuple(shape) for shape in ranges) for name, ranges in profile.items()} for profile in described["profiles"]
    ]
    return Plan(**described, model=body[_LENGTH.size + length :])


def _check_machine(plan: Plan) -> None:
    config = machine().config
    if plan.tensorrt != config.tensorrt:
        raise PlanError(
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible with this "
            f"version of TensorRT, expecting library version {config.tensorrt} got {plan.tensorrt}, please rebuild.)"
        )
    built = (8, 9) if machine().fails("plan-device") else plan.compute_capability
    if built != config.compute_capability:
        expected, got = (f"{major}.{minor}" for major, minor in (config.compute_capability, built))
        raise PlanError(
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
            f"incompatible device, expecting compute {expected} got compute {got}, please rebuild.)"
        )


def _tag(version: str) -> int:
    major, minor, *_ = (int(part) for part in version.split("."))
    return major * 100 + minor


def _serialization(what: str) -> str:
    return f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion {what})"
