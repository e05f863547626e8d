"""export/quantize/weights.py against onnxruntime's own DequantizeLinear."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from leo_edge.export.quantize.weights import INT4_BLOCK, quantize_blocks, quantize_channels, round_blocks, round_columns

RANDOM = np.random.default_rng(2)
WEIGHT = (RANDOM.standard_normal((256, 24)) * RANDOM.uniform(0.01, 4, 24)).astype(np.float32)


def dequantized(integers: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], attributes: str) -> np.ndarray[Any, Any]:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]> g (int8 w, float s) => (float[a,b] y)'
        f"{{ y = DequantizeLinear<{attributes}>(w, s) }}"
    )
    (node,) = list(model.graph)
    model.graph.inputs.clear()
    for place, (name, array) in enumerate((("w", integers), ("s", scales))):
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        value.const_value = ir.tensor(array, name=name)
        model.graph.initializers[name] = value
        node.replace_input_with(place, value)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return np.asarray(session.run(None, {})[0])


def test_int8_columns() -> None:
    integers, scales = quantize_channels(WEIGHT, 1, np.dtype(np.float32))
    assert integers.dtype == np.int8
    assert (integers.shape, scales.shape) == (WEIGHT.shape, (24,))
    assert (np.abs(integers).max(axis=0) == 127).all()
    np.testing.assert_allclose(dequantized(integers, scales, "axis=1"), WEIGHT, atol=float((scales / 2).max()) * 1.0001)
    np.testing.assert_array_equal(dequantized(integers, scales, "axis=1"), round_columns(WEIGHT))


def test_int8_of_a_convolution_goes_by_its_first_axis() -> None:
    weight = RANDOM.standard_normal((6, 3, 5, 5)).astype(np.float32)
    integers, scales = quantize_channels(weight, 0, np.dtype(np.float32))
    assert scales.shape == (6,)
    assert np.abs(integers * scales[:, None, None, None] - weight).max() <= scales.max() * 0.5001


def test_int4_blocks() -> None:
    integers, scales = quantize_blocks(WEIGHT, np.dtype(np.float32))
    assert scales.shape == (256 // INT4_BLOCK, 24)
    assert np.abs(integers).max() <= 7
    got = dequantized(integers.astype(ml_dtypes.int4), scales, f"axis=0, block_size={INT4_BLOCK}")
    np.testing.assert_array_equal(got, round_blocks(WEIGHT))
    plain = np.abs(WEIGHT.reshape(2, 128, 24)).max(axis=1) / 7
    naive = np.rint(WEIGHT / np.repeat(plain, 128, axis=0)) * np.repeat(plain, 128, axis=0)
    assert ((got - WEIGHT) ** 2).sum() < ((naive - WEIGHT) ** 2).sum()


@pytest.mark.parametrize("quantize", [lambda w, d: quantize_channels(w, 1, d), quantize_blocks])
def test_integers_fit_the_scales_that_float16_can_hold(quantize: Any) -> None:
    """Small weights' scales lose bits in float16: integers are rounded to the stored ones."""
    small = WEIGHT * 1e-4
    integers, scales = quantize(small, np.dtype(np.float16))
    assert scales.dtype == np.float16
    wide = scales.astype(np.float32) if scales.ndim == 1 else np.repeat(scales.astype(np.float32), 128, axis=0)
    limit = 0.51 if scales.ndim == 1 else 2.0  # blocks are clipped, at 0.8 of their largest at the least
    assert (np.abs(integers * wide - small) <= limit * wide).all()


def test_zero_columns_have_a_scale() -> None:
    integers, scales = quantize_channels(np.zeros((4, 2), np.float32), 1, np.dtype(np.float32))
    assert scales.tolist() == [1, 1]
    assert not integers.any()
