"""Plans: written whole, refused with TensorRT's words when they are not this machine's."""

import numpy as np
import pytest

from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import PRODUCT_PROFILE, WEIGHT, build, load, new_log, product
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16

FAILED = "Engine deserialization failed"


def deserialized(plan: bytes) -> tuple[object, list[str]]:
    import tensorrt

    log = new_log()
    return tensorrt.Runtime(log).deserialize_cuda_engine(plan), log.texts


def a_plan() -> bytes:
    plan = build(new_log(), product(), [PRODUCT_PROFILE])
    assert plan is not None
    return plan


def test_a_plan_of_another_release_is_refused(edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_3)
    plan = a_plan()
    assert deserialized(plan)[0] is not None
    edge_machine(tensorrt=TENSORRT_10_16)
    engine, texts = deserialized(plan)
    assert engine is None
    assert "Version tag does not match. Note: Current Version: 1016, Serialized Engine Version: 1003" in texts[0]
    assert FAILED in texts[1]
    edge_machine(tensorrt="10.3.1")
    assert "expecting library version 10.3.1 got 10.3.0, please rebuild" in deserialized(plan)[1][0]


def test_a_plan_of_another_device_is_refused(edge_machine: InstallMachine) -> None:
    edge_machine(compute_capability=(8, 9))
    plan = a_plan()
    edge_machine()
    engine, texts = deserialized(plan)
    assert engine is None
    assert "incompatible device, expecting compute 8.7 got compute 8.9, please rebuild" in texts[0]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda plan: b"nope" + plan[4:], "Magic tag does not match"),
        (lambda plan: plan[:-1], "Size specified in header does not match archive size"),
        (lambda plan: plan[:-20] + bytes([plan[-20] ^ 1]) + plan[-19:], "Checksum"),
        (lambda plan: b"", "Magic tag does not match"),  # noqa: ARG005
    ],
)
def test_a_damaged_plan_is_refused(damage: object, text: str, edge_machine: InstallMachine) -> None:
    edge_machine()
    assert callable(damage)
    engine, texts = deserialized(damage(a_plan()))
    assert engine is None
    assert text in texts[0]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("plan-version", "Version tag does not match"),
        ("plan-device", "incompatible device"),
        ("deserialize-memory", "OutOfMemory"),
    ],
)
def test_a_machine_can_refuse_good_plans(fault: str, text: str, edge_machine: InstallMachine) -> None:
    edge_machine()
    plan = a_plan()
    machine = edge_machine(faults=(fault,))
    engine, texts = deserialized(plan)
    assert engine is None
    assert any(text in one for one in texts)
    assert machine.live() == {}


def test_an_engine_says_what_it_takes_and_gives(edge_machine: InstallMachine) -> None:
    machine = edge_machine()
    import tensorrt

    log = new_log()
    engine = load(log, a_plan())
    names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
    assert names == ["x", "y"]
    assert [engine.get_tensor_mode(name).name for name in names] == ["INPUT", "OUTPUT"]
    assert engine.get_tensor_dtype("x") == tensorrt.float32
    assert [tuple(engine.get_tensor_shape(name)) for name in names] == [(-1, 4), (-1, 3)]
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 0)] == [(1, 4), (2, 4), (8, 4)]
    assert engine.get_tensor_name(2) is None
    assert log.texts == []
    engine.get_tensor_profile_shape("x", 1)
    assert engine.get_tensor_mode("z") == tensorrt.TensorIOMode.NONE
    assert len(log.texts) == 2
    assert machine.live() == {"tensorrt engines": 1}
    del engine
    assert machine.live() == {}


def test_an_inspector_says_as_much_as_the_plan_was_built_to_keep(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    text = load(new_log(), a_plan()).create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    assert text == '{"Layers": ["product"], "Bindings": ["x", "y"]}'


def test_a_plan_holds_its_weights(edge_machine: InstallMachine) -> None:
    edge_machine()
    assert WEIGHT.astype(np.float32).tobytes() in a_plan()
