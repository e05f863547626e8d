"""How the doubles take the place of the modules, and how a machine is described."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.doubles.fixtures import InstallMachine, MachineEnvironment
from tests.doubles.install import FOLDER, installed
from tests.doubles.machine import TENSORRT_10_16, VARIABLE, Machine, MachineConfig

PROGRAM = """
import tensorrt
from cuda.bindings import runtime
error, properties = runtime.cudaGetDeviceProperties(0)
device = properties and (properties.name, properties.major, properties.minor, properties.totalGlobalMem)
print(tensorrt.__version__, error.name, device)
"""


def test_a_child_process_is_on_the_machine_too(machine_environment: MachineEnvironment, tmp_path: Path) -> None:
    def run(env: dict[str, str]) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    env = machine_environment(
        tensorrt=TENSORRT_10_16, device_name="Thor", compute_capability=(11, 0), total_memory_bytes=1 << 37
    )
    assert run(env) == f"10.16.1.11 cudaSuccess (b'Thor', 11, 0, {1 << 37})"
    assert run(machine_environment(num_devices=0)) == "10.3.0 cudaErrorNoDevice None"
    file = tmp_path / "machine.json"
    file.write_text(env[VARIABLE])
    assert run({**env, VARIABLE: str(file)}) == run(env)


def test_nothing_is_left_behind(edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    assert tensorrt.__file__ == str(FOLDER / "tensorrt" / "__init__.py")
    with installed(MachineConfig()):
        assert "tensorrt" not in sys.modules
    assert "tensorrt" not in sys.modules
    assert not any(name.startswith("tests.doubles.trt") for name in sys.modules)


def test_each_machine_is_a_fresh_one(edge_machine: InstallMachine) -> None:
    first = edge_machine()
    from cuda.bindings import runtime

    assert runtime.cudaMalloc(64)[0].name == "cudaSuccess"
    assert first.live() == {"device allocations": 1}
    assert edge_machine().live() == {}


def test_modules_that_hold_a_double_are_imported_anew(edge_machine: InstallMachine) -> None:
    edge_machine()
    from leo_edge.runtime import device_array as before
    from leo_edge.runtime import errors

    edge_machine()
    from leo_edge.runtime import device_array as after

    assert before is not after
    assert sys.modules["leo_edge.runtime.errors"] is errors


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"faults": ("gremlins",)}, "unknown faults"), ({"tensorrt": "8.6.1"}, "knows 10 and 11")],
)
def test_a_machine_that_cannot_be_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MachineConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown fields"):
        MachineConfig.from_json('{"gpu": 1}')


def test_a_fault_can_show_from_some_time_on() -> None:
    machine = Machine(MachineConfig(faults=("malloc:3",)))
    assert [machine.fails("malloc") for _ in range(4)] == [False, False, True, True]
    assert not machine.fails("enqueue")


def test_a_machine_is_the_same_from_json() -> None:
    config = MachineConfig(faults=("enqueue:2",), compute_capability=(11, 0))
    assert MachineConfig.from_json(config.to_json()) == config
