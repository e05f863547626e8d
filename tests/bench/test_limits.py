"""What the machine can do: the arithmetic on a clock of our own, and the real thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leo_edge.bench.limits import FP32, INT8, GemmModel, Limits, measure_limits, read_gb_s
from leo_edge.commands.gemm_models import gemm_models
from leo_edge.runtime.ort import OrtSession

_BUFFER_BYTES = 8 << 20


def _clock(steps_ns: list[int]) -> Callable[[], int]:
    """A clock whose passes take these times in turn, the last one for ever."""
    now, calls = 0, 0

    def read() -> int:
        nonlocal now, calls
        if calls % 2:
            now += steps_ns.pop(0) if len(steps_ns) > 1 else steps_ns[0]
        calls += 1
        return now

    return read


def test_bandwidth_is_that_of_the_fastest_pass() -> None:
    clock = _clock([4_000_000, 1_000_000, 2_000_000])
    assert read_gb_s(2, seconds=0.0, buffer_bytes=_BUFFER_BYTES, clock=clock) == pytest.approx(_BUFFER_BYTES / 1e6)


def test_a_measurement_goes_on_for_its_time() -> None:
    clock = _clock([3_000_000] * 5 + [1_000_000])
    assert read_gb_s(1, seconds=0.014, buffer_bytes=_BUFFER_BYTES, clock=clock) == pytest.approx(_BUFFER_BYTES / 3e6)


def test_the_better_of_two_measurements_counts() -> None:
    assert Limits(1.0, None, 3.0).best(Limits(2.0, None, None)) == Limits(2.0, None, 3.0)


@pytest.mark.parametrize("model", gemm_models(), ids=lambda model: f"{model.precision}-{model.spec.inputs[0].dtype}")
def test_a_model_computes_the_product_that_it_is_counted_as(model: GemmModel) -> None:
    port = model.spec.inputs[0]
    rows, depth = (int(dim) for dim in port.shape)
    columns = int(model.spec.outputs[0].shape[1])
    session = OrtSession(Path("gemm.onnx"), model.spec, threads=1, int8=model.precision == INT8, model=model.model)
    a = np.zeros((rows, depth), np.dtype(port.dtype))
    a[0, :3] = 1
    out = session.run({"a": a})["y"]
    scale = 0.01 if model.precision == INT8 else 1.0
    np.testing.assert_allclose(out[0], 3 * scale, rtol=1e-5)
    assert not out[1:].any()
    assert model.operations == 2 * rows * depth * columns


def test_a_cpu_is_measured_with_and_without_models() -> None:
    with_models = measure_limits(1, gemm_models(), seconds=0.0)
    assert min(value or 0 for value in vars(with_models).values()) > 0.1
    assert {model.precision for model in gemm_models()} == {FP32, INT8}
    without = measure_limits(1, (), seconds=0.0)
    assert without.gemm_int8_gops is None
    assert (without.gemm_fp32_gops or 0) > 0.1
