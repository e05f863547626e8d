"""Everything that the doubles have, the real bindings of that release have too."""

from pathlib import Path

import pytest

from tests.doubles.fixtures import InstallMachine
from tests.doubles.install import ROOT
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4
from tests.doubles.surface import differences, read_surface

STUBS = ROOT / ".stubs"


def stub_of(name: str, module: str) -> Path:
    found = next(iter(sorted(STUBS.glob(f"{name}*/{module}"))), None)
    if found is None:
        pytest.skip(f"no stubs of {name} in .stubs: `python -m tests.bindings.stubs` makes them")
    return found


@pytest.mark.parametrize("release", [TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4])
def test_the_tensorrt_double_has_nothing_that_the_bindings_have_not(release: str, edge_machine: InstallMachine) -> None:
    stub = stub_of(release, "tensorrt/__init__.pyi")
    edge_machine(tensorrt=release)
    import tensorrt

    assert differences(tensorrt, read_surface(stub)) == []


@pytest.mark.parametrize(("name", "cuda"), [("cuda-12", "12.6"), ("cuda-13", "13.2")])
def test_the_cuda_double_has_nothing_that_the_bindings_have_not(name: str, cuda: str, edge_machine: InstallMachine) -> None:
    stub = stub_of(name, "cuda/bindings/runtime.pyi")
    edge_machine(cuda=cuda)
    from cuda.bindings import runtime

    assert differences(runtime, read_surface(stub)) == []


def test_a_name_a_member_and_an_argument_too_much_are_found(tmp_path: Path, edge_machine: InstallMachine) -> None:
    edge_machine()
    import tensorrt

    stub = tmp_path / "tensorrt.pyi"
    stub.write_text("class Dims: ...\nclass Builder:\n    logger: int\n    def create_network(self, flag: int) -> int: ...\n")
    found = differences(tensorrt, read_surface(stub))

    assert "Runtime is not in the real module" in found
    assert "Builder.build_serialized_network is not in the real class" in found
    assert "Builder.create_network takes ['flags'], the real one [['flag']]" in found
    assert not [one for one in found if "logger" in one and "Builder" in one]
