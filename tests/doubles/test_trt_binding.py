"""Classes as pybind11 binds them: what can be constructed, set and passed, by release."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.errors import Crash
from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import PRODUCT_PROFILE, build, load, new_log, parsed, product
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4


def test_the_version_is_the_machines_and_members_come_and_go_with_it(edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_3)
    import tensorrt as old

    assert old.__version__ == "10.3.0"
    assert hasattr(old.ICudaEngine, "device_memory_size")
    assert not hasattr(old.ICudaEngine, "get_aliased_input_tensor")
    assert int(old.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 1
    edge_machine(tensorrt=TENSORRT_11_4)
    import tensorrt as new

    assert new.__version__ == TENSORRT_11_4
    assert not hasattr(new.ICudaEngine, "device_memory_size")
    assert hasattr(new.ICudaEngine, "get_aliased_input_tensor")
    assert int(new.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 0
    with pytest.raises(AttributeError):
        _ = new.BuilderFlag.INT8
    assert old.BuilderFlag.INT8.name == "INT8"


def test_members_are_numbers_only_after_int(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    assert repr(tensorrt.DataType.HALF) == "<DataType.HALF: 1>"
    assert tensorrt.DataType.HALF != 1
    assert tensorrt.BuilderFlag.TF32 == 6
    with pytest.raises(TypeError):
        _ = 1 << tensorrt.BuilderFlag.TF32
    assert tensorrt.float16 is tensorrt.DataType.HALF
    assert tensorrt.nptype(tensorrt.DataType.INT64) is np.int64
    with pytest.raises(TypeError, match="equivalent numpy"):
        tensorrt.nptype(tensorrt.DataType.BF16)


def test_a_class_of_the_application_must_call_the_constructor(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    class Silent(tensorrt.ILogger):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.texts: list[str] = []

    with pytest.raises(TypeError, match=r"ILogger.__init__\(\) must be called when overriding __init__"):
        Silent()
    assert new_log().texts == []


def test_what_the_library_makes_cannot_be_constructed_and_takes_no_new_attribute(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    with pytest.raises(TypeError, match="No constructor defined"):
        tensorrt.IExecutionContext()
    config = tensorrt.Builder(new_log()).create_builder_config()
    config.builder_optimization_level = 2
    with pytest.raises(AttributeError, match="no attribute 'max_workspace_size'"):
        config.max_workspace_size = 1 << 20


def test_sizes_are_sequences_of_whole_numbers(edge_machine: InstallMachine) -> None:
    edge_machine()
    profile = parsed(new_log(), product())[0].create_optimization_profile()
    profile.set_shape("x", np.array([1, 4]), [2, 4], (3, 4))
    assert [tuple(shape) for shape in profile.get_shape("x")] == [(1, 4), (2, 4), (3, 4)]
    for wrong in ((1.0, 4), "14", (1,) * 9, 4):
        with pytest.raises(TypeError):
            profile.set_shape("x", wrong, (2, 4), (3, 4))


def test_dims_are_compared_with_tuples_alone(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    shape = tensorrt.Dims([2, 3])
    assert shape == (2, 3)
    assert shape != (2, 4)
    assert (len(shape), tuple(shape), shape[1]) == (2, (2, 3), 3)
    with pytest.raises(TypeError):
        _ = shape == tensorrt.Dims([2, 3])
    with pytest.raises(TypeError):
        hash(shape)


def test_a_plan_has_a_buffer_and_nothing_else_of_bytes(edge_machine: InstallMachine) -> None:
    edge_machine()
    builder, network, _ = parsed(new_log(), product(rows=2))
    plan: Any = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan.nbytes == len(bytes(plan)) == memoryview(plan).nbytes
    assert plan
    with pytest.raises(TypeError):
        len(plan)
    with pytest.raises(TypeError):
        _ = plan[:4]
    with pytest.raises(AttributeError):
        plan.hex()


def test_files_are_named_by_text(edge_machine: InstallMachine, tmp_path: Path) -> None:
    edge_machine()
    parser = parsed(new_log(), product())[2]
    with pytest.raises(TypeError):
        parser.parse_from_file(tmp_path)
    assert not parser.parse_from_file(str(tmp_path / "none.onnx"))
    assert "Failed to parse ONNX model from file" in parser.get_error(0).desc()


def test_what_is_written_only_cannot_be_read(edge_machine: InstallMachine) -> None:
    edge_machine()
    log = new_log()
    context = load(log, build(log, product(), [PRODUCT_PROFILE])).create_execution_context()
    with pytest.raises(AttributeError):
        _ = context.device_memory


@pytest.mark.parametrize(("fault", "number"), [("no-device", 100), ("driver-too-old", 35)])
def test_without_a_device_there_is_no_builder_and_the_runtime_crashes(
    edge_machine: InstallMachine, fault: str, number: int
) -> None:
    edge_machine(faults=(fault,))
    import tensorrt
    from cuda.bindings import runtime

    error, count = runtime.cudaGetDeviceCount()
    assert (int(error), count) == (number, None)
    log = new_log()
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        tensorrt.Builder(log)
    assert f"CUDA initialization failure with error: {number}" in log.texts[0]
    dead = tensorrt.Runtime(log)
    with pytest.raises(Crash):
        dead.deserialize_cuda_engine(b"")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("no-libnvinfer", "libnvinfer.so.10: cannot open shared object file"),
        ("no-libnvdla", "libnvdla_compiler.so: cannot open"),
        ("no-tensorrt", "No module named 'tensorrt'"),
    ],
)
def test_imports_can_fail(edge_machine: InstallMachine, fault: str, text: str) -> None:
    edge_machine(faults=(fault,))
    with pytest.raises(ImportError, match=text):
        import tensorrt  # noqa: F401


def test_cuda_can_be_missing(edge_machine: InstallMachine) -> None:
    edge_machine(faults=("no-cuda-bindings",))
    with pytest.raises(ModuleNotFoundError, match="No module named 'cuda'"):
        from cuda.bindings import runtime  # noqa: F401


def test_newer_releases_have_runtime_configurations(edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_16)
    import tensorrt

    log = new_log()
    engine = load(log, build(log, product(), [PRODUCT_PROFILE]))
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED)
    assert engine.create_execution_context(config) is not None
