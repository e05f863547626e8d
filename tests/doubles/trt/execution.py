"""Runs a plan's graph with onnxruntime on the CPU, on the imaginary device's memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnxruntime as ort

from tests.doubles.trt.model import Model

_CPU_INFO = Path("/proc/cpuinfo")


def make_session(model: Model) -> Any:
    """Returns onnxruntime's session of a graph, with the options that the project's own onnxruntime backend has.

    Only so are INT8 results the same to the last bit: leo_edge/runtime/ort.py says what each option is for.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    flags = _CPU_INFO.read_text(encoding="ascii", errors="replace").lower() if _CPU_INFO.exists() else ""
    if "avx2" in flags and "vnni" not in flags:
        options.add_session_config_entry("session.x64quantprecision", "1")
    quantized = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for _, node in model.nodes())
    return ort.InferenceSession(
        model.proto.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatMulAddFusion"] if quantized else None,
    )


def scratch_size(shapes: dict[str, tuple[int, ...]]) -> int:
    """Returns how many bytes the activations take for such inputs and outputs: the double's own measure."""
    volume = sum(max(0, math.prod(shape)) for shape in shapes.values())
    return -(-(8 * volume + 4096) // 512) * 512
