"""Caches of both graph levels: updated in place, and a prefix with new rows behind it."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.doubles.errors import Race
from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import Device, build, cache_update, graph, load, new_log
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16


class Cache:
    """The update of a cache [1, 2, 16, 8] in place."""

    def __init__(self) -> None:
        self.log, self.device = new_log(), Device()
        rows = {"rows": ((1, 2, 1, 8), (1, 2, 1, 8), (1, 2, 4, 8))}
        self.engine = load(self.log, build(self.log, cache_update(), [rows], static={"past": (1, 2, 16, 8)}))
        self.context = self.engine.create_execution_context()
        self.cache, self.rows, self.at = (self.device.allocate() for _ in range(3))
        for name, address in {"past": self.cache, "new": self.cache, "rows": self.rows, "at": self.at}.items():
            assert self.context.set_tensor_address(name, address)
        assert self.context.set_input_shape("rows", (1, 2, 2, 8))


def test_a_cache_is_updated_in_place_and_keeps_its_other_rows(edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_16)
    made = Cache()
    device, before = made.device, np.arange(256, dtype=np.float32).reshape(1, 2, 16, 8)
    device.upload(made.cache, before)
    device.upload(made.rows, np.full((1, 2, 2, 8), -1, np.float32))
    device.upload(made.at, np.array([5], np.int64))
    assert made.context.execute_async_v3(int(device.stream)), made.log.texts
    after = device.download(made.cache, (1, 2, 16, 8))
    assert (after[:, :, 5:7] == -1).all()
    kept = [row for row in range(16) if row not in (5, 6)]
    np.testing.assert_array_equal(after[:, :, kept], before[:, :, kept])
    assert made.engine.get_aliased_input_tensor("new") == "past"


def test_a_cache_is_not_copied_to_another_place(edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_16)
    made = Cache()
    made.context.set_tensor_address("new", made.device.allocate())
    assert not made.context.execute_async_v3(int(made.device.stream))
    assert "Aliased tensors must have the same address" in made.log.texts[-1]


def test_rows_behind_a_prefix_of_one_buffer_do_not_overlap_it(edge_machine: InstallMachine) -> None:
    """The opset-20 cache: past is the buffer's beginning, the new rows lie right behind it."""
    edge_machine(tensorrt=TENSORRT_10_3)
    node = helper.make_node("Relu", ["rows"], ["new"])
    total = helper.make_node("ReduceSum", ["past"], ["sum"], keepdims=0)
    ports = [("rows", TensorProto.FLOAT, ["S", 64]), ("past", TensorProto.FLOAT, ["P", 64])]
    model = graph([node, total], ports, [("new", TensorProto.FLOAT, ["S", 64]), ("sum", TensorProto.FLOAT, [])])
    log, device = new_log(), Device()
    ranges = {"rows": ((1, 64), (1, 64), (4, 64)), "past": ((0, 64), (1, 64), (8, 64))}
    context = load(log, build(log, model, [ranges])).create_execution_context()
    buffer, rows, result = device.allocate(16 * 256), device.allocate(), device.allocate()
    for step in range(3):
        device.upload(rows, np.full((1, 64), step + 1, np.float32))
        assert context.set_input_shape("rows", (1, 64))
        assert context.set_input_shape("past", (step, 64))
        for name, address in {"rows": rows, "past": buffer, "new": buffer + 256 * step, "sum": result}.items():
            assert context.set_tensor_address(name, address)
        assert context.execute_async_v3(int(device.stream)), log.texts
        device.wait()
    assert device.download(result, ()) == 64 * (1 + 2)
    context.set_tensor_address("new", buffer + 256)
    with pytest.raises(Race, match="tensor new overlaps tensor past"):
        context.execute_async_v3(int(device.stream))
