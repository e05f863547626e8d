"""Contexts: shapes, addresses, memory, order, and the numbers that come out."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.doubles.errors import Race, Undefined
from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import PRODUCT_PROFILE, WEIGHT, Device, build, graph, load, new_log, product

X = np.arange(8, dtype=np.float32).reshape(2, 4)


class Bench:
    """The product's engine, a context of it, and memory for its ports."""

    def __init__(self, strategy: str = "STATIC", profiles: Any = (PRODUCT_PROFILE,), model: bytes | None = None) -> None:
        import tensorrt

        self.log, self.device = new_log(), Device()
        self.engine = load(self.log, build(self.log, model or product(), list(profiles)))
        self.strategy = getattr(tensorrt.ExecutionContextAllocationStrategy, strategy)
        self.context = self.engine.create_execution_context(self.strategy)
        self.x, self.y = self.device.allocate(), self.device.allocate()

    def bind(self, rows: int = 2, context: Any = None) -> None:
        context = context or self.context
        assert context.set_input_shape("x", (rows, 4)), self.log.texts
        assert context.set_tensor_address("x", self.x)
        assert context.set_tensor_address("y", self.y)

    def run(self, stream: Any = None, context: Any = None) -> bool:
        return bool((context or self.context).execute_async_v3(int(stream or self.device.stream)))


@pytest.fixture
def bench(edge_machine: InstallMachine) -> Bench:
    edge_machine()
    return Bench()


def test_a_run_computes_what_onnx_says(bench: Bench) -> None:
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    np.testing.assert_array_equal(bench.device.download(bench.y, (2, 3)), X @ WEIGHT)
    assert bench.log.texts == []


def test_a_result_is_not_there_before_the_stream_was_waited_for(bench: Bench) -> None:
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    from tests.doubles.machine import machine

    raw = machine().memory.view(bench.y, 24).view(np.float32)
    assert np.isnan(raw).all()
    bench.device.wait()
    np.testing.assert_array_equal(raw, (X @ WEIGHT).ravel())


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (
            (9, 4),
            "Set dimension [9,4] for tensor x does not satisfy any optimization profiles. "
            "Valid range for profile 0: [1,4]..[8,4]",
        ),
        ((0, 4), "does not satisfy any optimization profiles"),
        (
            (2, 5),
            "Static dimension mismatch while setting input shape for x. "
            "Set dimensions are [2,5]. Expected dimensions are [-1,4]",
        ),
        ((2,), "Static dimension mismatch"),
        ((8, 4), None),
    ],
)
def test_shapes_are_of_the_profile(bench: Bench, shape: tuple[int, ...], text: str | None) -> None:
    assert bench.context.set_input_shape("x", shape) == (text is None)
    assert text is None or text in bench.log.texts[0]


def test_names_are_those_of_the_engine(bench: Bench) -> None:
    assert not bench.context.set_input_shape("y", (2, 3))
    assert not bench.context.set_tensor_address("z", bench.x)
    assert all("Given invalid tensor name" in text for text in bench.log.texts)


def test_shapes_are_inferred_once_the_inputs_have_theirs(bench: Bench) -> None:
    assert bench.context.infer_shapes() == ["x"]
    assert not bench.context.all_binding_shapes_specified
    assert bench.context.get_tensor_shape("y") == (-1, 3)
    bench.bind(5)
    assert bench.context.infer_shapes() == []
    assert bench.context.get_tensor_shape("y") == (5, 3)
    assert bench.context.get_max_output_size("y") == 8 * 3 * 4


def test_addresses_are_aligned_and_the_devices(bench: Bench) -> None:
    pinned = bench.device.pinned(4)[0]
    assert not bench.context.set_tensor_address("x", bench.x + 128)
    assert not bench.context.set_tensor_address("x", pinned)
    assert "The pointer must have at least 256-byte alignment" in bench.log.texts[0]
    assert "is no device memory" in bench.log.texts[1]
    assert bench.context.set_tensor_address("x", bench.x + 256)


def test_a_run_needs_shapes_and_addresses(bench: Bench) -> None:
    assert not bench.run()
    assert "Shapes of x are not set" in bench.log.texts[-1]
    bench.context.set_input_shape("x", (2, 4))
    assert not bench.run()
    assert "Address is not set for input tensor x" in bench.log.texts[-1]
    bench.context.set_tensor_address("x", bench.x)
    assert not bench.run()
    assert "Neither address or allocator is set for output tensor y" in bench.log.texts[-1]
    bench.context.set_tensor_address("y", bench.y)
    assert bench.run()


def test_a_null_address_counts_as_none_for_empty_tensors_too(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench(profiles=[{"x": ((0, 4), (2, 4), (8, 4))}])
    bench.bind(0)
    bench.context.set_tensor_address("x", 0)
    assert not bench.run()
    bench.context.set_tensor_address("x", bench.x)
    assert bench.run()
    bench.device.wait()


def test_memory_that_is_too_small_is_an_illegal_address(bench: Bench) -> None:
    small = bench.device.allocate(512)
    bench.bind()
    bench.context.set_tensor_address("y", small + 256 + 256)
    bench.device.upload(bench.x, X)
    assert bench.run()
    assert bench.device.cuda.cudaStreamSynchronize(bench.device.stream)[0].name == "cudaErrorIllegalAddress"


def test_changing_the_profile_forgets_the_shapes(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench(profiles=[PRODUCT_PROFILE, {"x": ((9, 4), (9, 4), (20, 4))}])
    bench.bind()
    assert bench.context.active_optimization_profile == 0
    assert bench.context.set_optimization_profile_async(1, int(bench.device.stream))
    assert bench.context.infer_shapes() == ["x"]
    assert not bench.context.set_input_shape("x", (2, 4))
    bench.bind(9)
    bench.device.upload(bench.x, np.ones((9, 4), np.float32))
    assert bench.run()
    assert bench.device.download(bench.y, (9, 3))[8, 0] == WEIGHT[:, 0].sum()
    assert not bench.context.set_optimization_profile_async(2, int(bench.device.stream))


def test_a_run_comes_after_the_change_of_its_profile(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench(profiles=[PRODUCT_PROFILE, PRODUCT_PROFILE])
    bench.context.set_optimization_profile_async(1, int(bench.device.new_stream()))
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    with pytest.raises(Undefined, match="change of its profile"):
        bench.device.wait()


def test_contexts_share_a_profile_unless_that_was_switched_off(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    bench = Bench()
    other = bench.engine.create_execution_context()
    assert other.active_optimization_profile == 0
    from tests.doubles.graphs import parsed

    builder, network, _ = parsed(bench.log, product())
    config = builder.create_builder_config()
    config.set_preview_feature(tensorrt.PreviewFeature.PROFILE_SHARING_0806, False)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", *PRODUCT_PROFILE["x"])
    config.add_optimization_profile(profile)
    engine = load(bench.log, bytes(builder.build_serialized_network(network, config)))
    kept = engine.create_execution_context()
    assert kept.active_optimization_profile == 0
    assert engine.create_execution_context().active_optimization_profile == -1
    assert "Profile 0 has been chosen by another IExecutionContext" in bench.log.texts[0]


def test_a_context_without_memory_needs_enough_of_it(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench("USER_MANAGED")
    needed = bench.engine.device_memory_size_v2
    assert bench.engine.get_device_memory_size_for_profile_v2(0) == needed
    scratch = bench.device.allocate(needed)
    bench.bind(8)
    assert not bench.run()
    assert "deviceMemory" in bench.log.texts[-1]
    bench.context.set_device_memory(scratch, needed - 256)
    assert not bench.run()
    bench.context.set_device_memory(scratch + 64, needed - 64)
    assert "256-byte aligned" in bench.log.texts[-1]
    bench.context.set_device_memory(scratch, needed)
    bench.device.upload(bench.x, np.ones((8, 4), np.float32))
    assert bench.run()
    bench.device.wait()


def test_a_context_with_its_own_memory_takes_no_other(bench: Bench) -> None:
    bench.context.set_device_memory(bench.x, 4096)
    assert "kUSER_MANAGED" in bench.log.texts[0]


def test_memory_of_activations_is_overwritten_by_each_run(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench("USER_MANAGED")
    scratch = bench.device.allocate(bench.engine.device_memory_size_v2)
    bench.context.set_device_memory(scratch, bench.engine.device_memory_size_v2)
    bench.device.upload(scratch, np.ones(4, np.float32))
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    assert (bench.device.download(scratch, (4,)) != 1).all()


def shared(bench: Bench) -> Any:
    """Returns a second context that computes in the first one's memory, to other ports."""
    size = bench.engine.device_memory_size_v2
    scratch = bench.device.allocate(size)
    other = bench.engine.create_execution_context(bench.strategy)
    for context in (bench.context, other):
        context.set_device_memory(scratch, size)
        bench.bind(context=context)
    other.set_tensor_address("x", bench.device.allocate())
    other.set_tensor_address("y", bench.device.allocate())
    return other


def test_contexts_that_share_memory_on_two_streams_race(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench("USER_MANAGED")
    other, stream = shared(bench), bench.device.new_stream()
    assert bench.run()
    with pytest.raises(Race, match="activation memory"):
        bench.run(stream, other)


def test_contexts_that_share_memory_take_turns_by_an_event(edge_machine: InstallMachine) -> None:
    edge_machine()
    bench = Bench("USER_MANAGED")
    other, stream, event = shared(bench), bench.device.new_stream(), bench.device.new_event()
    assert bench.run()
    bench.device.ok(bench.device.cuda.cudaEventRecord(event, bench.device.stream))
    bench.device.ok(bench.device.cuda.cudaStreamWaitEvent(stream, event, 0))
    assert bench.run(stream, other)
    bench.device.wait(stream)


def test_one_context_on_two_streams_races(bench: Bench) -> None:
    bench.bind()
    assert bench.run()
    with pytest.raises(Race):
        bench.run(bench.device.new_stream())


def test_an_output_over_an_input_races_with_itself(bench: Bench) -> None:
    bench.bind()
    bench.context.set_tensor_address("y", bench.x)
    with pytest.raises(Race, match="tensor y overlaps tensor x"):
        bench.run()


def test_a_context_that_is_dropped_while_it_runs_is_undefined(bench: Bench) -> None:
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    bench.context = None
    with pytest.raises(Undefined, match="destroyed while its work was queued"):
        bench.device.wait()


def test_an_engine_lives_as_long_as_its_contexts(edge_machine: InstallMachine) -> None:
    machine = edge_machine()
    bench = Bench()
    bench.engine = None
    assert machine.live()["tensorrt engines"] == 1
    bench.context = None
    assert "tensorrt engines" not in machine.live()


@pytest.mark.parametrize(
    ("fault", "text"), [("enqueue", "Cask convolution execution"), ("illegal-address", None), ("context-memory", "OutOfMemory")]
)
def test_a_run_can_fail(fault: str, text: str | None, edge_machine: InstallMachine) -> None:
    edge_machine(faults=(fault,))
    bench = Bench()
    if fault == "context-memory":
        assert bench.context is None
    else:
        bench.bind()
        assert bench.run() == (fault == "illegal-address")
    if text is None:
        assert bench.device.cuda.cudaStreamSynchronize(bench.device.stream)[0].name == "cudaErrorIllegalAddress"
        assert not bench.run()
        assert "an illegal memory access was encountered" in bench.log.texts[-1]
    else:
        assert any(text in one for one in bench.log.texts)


def test_a_machine_runs_out_of_memory_by_itself(edge_machine: InstallMachine) -> None:
    edge_machine(total_memory_bytes=16_384)
    bench = Bench()
    assert bench.context is not None
    assert bench.engine.create_execution_context() is None
    assert "could not be allocated" in bench.log.texts[-2]


def test_types_are_those_of_the_graph(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    nodes = [helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT16), helper.make_node("Add", ["i", "i"], ["j"])]
    ports = [("b", TensorProto.UINT8, [4]), ("i", TensorProto.INT64, [4])]
    model = graph(nodes, ports, [("f", TensorProto.FLOAT16, [4]), ("j", TensorProto.INT64, [4])])
    engine = load(new_log(), build(new_log(), model))
    types = [engine.get_tensor_dtype(name) for name in "bifj"]
    assert types == [tensorrt.uint8, tensorrt.int64, tensorrt.float16, tensorrt.int64]


def test_a_profiler_makes_runs_wait_and_hears_of_each_layer(bench: Bench) -> None:
    import tensorrt

    heard: list[str] = []

    class Profiler(tensorrt.IProfiler):  # type: ignore[misc,unused-ignore]
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            assert ms > 0
            heard.append(layer_name)

    bench.context.profiler = Profiler()
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    assert heard == ["product"]
