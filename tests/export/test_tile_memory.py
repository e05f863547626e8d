"""export/tile_memory.py: SAM goes tile by tile, what is small goes together."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from leo_edge.export.config import parse_config
from leo_edge.export.presets import PRESETS
from leo_edge.export.stages import StageOptions, build_stages
from leo_edge.export.tile_memory import tiles_at_once
from leo_edge.export.trace import trace
from tests.commands.test_lint import shallow


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        (("T", 16, 4096, 4096), ir.DataType.FLOAT16, 1),
        (("T", 16, 4096, 4096), ir.DataType.FLOAT, 1),
        (("T", 16, 1025, 1025), ir.DataType.FLOAT16, 15),
        (("16*T", 577, 577), ir.DataType.FLOAT16, 50),
        (("T*25", 16, 196, 196), ir.DataType.FLOAT16, 17),
        ((4,), ir.DataType.INT64, 1 << 24),
    ],
)
def test_the_largest_value_decides(shape: tuple[int | str, ...], dtype: ir.DataType, wanted: int) -> None:
    x = ir.Value(name="x", shape=ir.Shape([]), type=ir.TensorType(dtype))
    node = ir.node("Identity", [x], num_outputs=1)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(shape), ir.TensorType(dtype)
    small = ir.node("Neg", [x])
    small.outputs[0].shape, small.outputs[0].type = ir.Shape([1]), ir.TensorType(dtype)
    graph = ir.Graph([x], [], nodes=[small, node], opset_imports={"": 20})
    assert tiles_at_once(ir.Model(graph, ir_version=10)) == wanted


def test_full_size_experts() -> None:
    config = parse_config(shallow(PRESETS["leo-mini-8b"]))
    options = StageOptions(torch.float16, context_len=64, fused=False)
    stages = {stage.name: stage for stage in build_stages(config, options)}
    assert tiles_at_once(trace(stages["vision.sam"], 20).model) == 1
    assert tiles_at_once(trace(stages["vision.clip"], 20).model) >= 18
