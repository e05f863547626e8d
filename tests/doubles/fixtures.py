"""Fixtures that put the doubles in the place of `tensorrt` and `cuda.bindings.runtime`.

A test package imports the ones that it uses into its conftest:

    from tests.doubles.fixtures import edge_machine, machine_environment  # noqa: F401

In the process: `edge_machine()` installs a machine and returns it; called again it installs another, whatever the first held is
forgotten. Imports of tensorrt, cuda and of what uses them belong into the test, after it:

    def test_a_plan_of_another_release_is_refused(edge_machine):
        edge_machine(tensorrt=TENSORRT_10_16)
        from leo_edge.runtime.trt import TrtEngine

In a child process: `subprocess.run([...], env=machine_environment(faults=("no-device",)))`.

Arguments of both are the fields of `MachineConfig`; `Machine.live()` says what was not given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.doubles.install import environment, installed
from tests.doubles.machine import Machine, MachineConfig

InstallMachine = Callable[..., Machine]
MachineEnvironment = Callable[..., dict[str, str]]


@pytest.fixture
def edge_machine() -> Iterator[InstallMachine]:
    """Installs an imaginary machine in this process for the test."""
    with ExitStack() as stack:

        def install(**fields: Any) -> Machine:
            stack.close()
            return stack.enter_context(installed(MachineConfig(**fields)))

        yield install


@pytest.fixture
def machine_environment() -> MachineEnvironment:
    """Returns the environment of a child process on an imaginary machine."""
    return lambda **fields: environment(MachineConfig(**fields))
