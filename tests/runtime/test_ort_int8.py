"""INT8 products in onnxruntime as `OrtSession` opens them: equal to integer arithmetic, on full-range values, on any CPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from leo_edge.runtime.manifest import GraphSpec, TensorSpec
from leo_edge.runtime.ort import OrtSession, _saturates

S, K, N = 5, 512, 32
SCALE_X, SCALE_W = 0.02, 0.01
WEIGHT = np.random.default_rng(1).choice([-127, 127], (K, N)).astype(np.int8)


def int8_product(path: Path) -> OrtSession:
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[S, {K}] x) => (float[S, {N}] y) <float sx = {{{SCALE_X}}}, int8 z = {{0}}> {{
        q = QuantizeLinear(x, sx, z)
        d = DequantizeLinear(q, sx, z)
        wd = DequantizeLinear<axis=1>(w, sw)
        y = MatMul(d, wd)
    }}"""
    model = parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "w"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(N, SCALE_W, np.float32), "sw"))
    path.write_bytes(model.SerializeToString())
    ports = (TensorSpec("x", "float32", ("S", K)),), (TensorSpec("y", "float32", ("S", N)),)
    return OrtSession(path, GraphSpec(path.name, None, *ports, num_parameters=0))


def test_full_range_products_do_not_saturate(tmp_path: Path) -> None:
    """Pairs of 127 x 127 summed in 16 bits would be cut off at 32767: a quarter would be lost here."""
    integers = np.random.default_rng(2).choice([-128, 127], (S, K)).astype(np.int64)
    got = int8_product(tmp_path / "g.onnx").run({"x": (integers * SCALE_X).astype(np.float32)})["y"]
    exact = integers @ WEIGHT.astype(np.int64)
    np.testing.assert_allclose(got, exact * (SCALE_X * SCALE_W), rtol=1e-5, atol=1e-3)
    # The control: what AVX2's saturating pairs would give is far from it.
    unsigned = integers + 128
    pairs = unsigned[:, :, None] * WEIGHT.astype(np.int64)
    cut = np.clip(pairs[:, 0::2] + pairs[:, 1::2], -32768, 32767).sum(axis=1) - 128 * WEIGHT.astype(np.int64).sum(axis=0)
    assert np.abs(cut - exact).max() > 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [
        ("flags : fpu sse4_2 avx avx2 fma", True),
        ("flags : avx2 avx512f avx512_vnni", False),
        ("flags : avx2 avx_vnni", False),
        ("Features : fp asimd asimddp i8mm", False),
    ],
)
def test_which_cpus_need_the_exact_kernels(tmp_path: Path, flags: str, saturates: bool) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    assert _saturates(tmp_path / "cpuinfo") is saturates


def test_an_unknown_cpu_needs_none(tmp_path: Path) -> None:
    assert _saturates(tmp_path / "none") is False
