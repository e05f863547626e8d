"""export/build_process.py: each engine in a process of its own, whose end, however it comes, is one line."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import BackendError
from tests.doubles.fixtures import InstallMachine
from tests.doubles.install import environment
from tests.doubles.machine import MachineConfig
from tests.export.builds import Build, left, reasons


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """No build's thread outlives its test."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("build ")]


@pytest.fixture
def children(edge_machine: InstallMachine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts this process and its children on an imaginary machine."""

    def install(**fields: Any) -> None:
        edge_machine(**fields)
        for name, value in environment(MachineConfig(**fields)).items():
            monkeypatch.setenv(name, value)

    return install


def _child(parts: str) -> int:
    """Waits for a child of this process whose command line has these parts, and returns its number."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for thread in Path("/proc/self/task").iterdir():
            for pid in (thread / "children").read_text().split():
                if parts in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        time.sleep(0.01)
    raise AssertionError(f"no child with {parts}")


class TestSafeMemory:
    def test_each_graph_is_built_in_a_process_of_its_own_and_its_memory_is_told(
        self, children: Callable[..., None], build: Build, said: list[str]
    ) -> None:
        children()
        report = build(safe_memory=True, only=("fuse", "router"))
        for result in report.results:
            assert result.peak is not None
            # A Python with onnx in it, and not this one with all of its tests.
            assert 20e6 < result.peak.resident_bytes < 2e9
            assert 0 <= result.peak.machine_bytes < 64e9
        assert any("at its peak" in line and "GB of the machine's memory" in line for line in said)
        assert set(reasons(build(only=("fuse", "router"))).values()) == {None}

    def test_plans_are_those_of_a_build_in_this_process(self, children: Callable[..., None], build: Build) -> None:
        children()
        apart = build(safe_memory=True, only=("llm",)).record.engines["llm"]
        here = build(only=("llm",), rebuild=True).record.engines["llm"]
        assert replace(apart, build_seconds=0.0) == replace(here, build_seconds=0.0)

    def test_an_error_of_a_child_is_the_same_line(self, children: Callable[..., None], build: Build) -> None:
        lines = []
        for safe_memory in (False, True):
            children(faults=("build-memory",))
            with pytest.raises(BackendError) as caught:
                build(only=("fuse",), safe_memory=safe_memory)
            lines.append(str(caught.value))
        assert lines[0] == lines[1]
        assert lines[0].startswith("fuse: not enough memory")

    def test_a_child_that_the_system_kills_is_one_line(
        self, children: Callable[..., None], build: Build, plain_bundle: Bundle
    ) -> None:
        children(step_seconds=30.0)
        killer = threading.Thread(target=lambda: os.kill(_child("build_process"), signal.SIGKILL))
        killer.start()
        with pytest.raises(BackendError) as caught:
            build(only=("fuse",), safe_memory=True)
        killer.join()
        assert str(caught.value).startswith("fuse: the system killed the build (it took ")
        assert "as it does when memory runs out: give a smaller --workspace-mb" in str(caught.value)
        assert left(plain_bundle.directory / "engines" / "trt10.3.0-Orin-16mp-sm87") == []

    def test_a_child_that_crashes_is_one_line(self, children: Callable[..., None], build: Build) -> None:
        children(step_seconds=30.0)
        killer = threading.Thread(target=lambda: os.kill(_child("build_process"), signal.SIGSEGV))
        killer.start()
        with pytest.raises(BackendError, match=r"fuse: the build's process ended with signal SIGSEGV \(it took"):
            build(only=("fuse",), safe_memory=True)
        killer.join()
