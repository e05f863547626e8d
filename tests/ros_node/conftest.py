"""What the tests between processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import MadeOnce

if TYPE_CHECKING:
    from tests.ros_node.rig import NodeProcess, Rig

QUESTION = ("--set", "questions=[what]", "question.what.text='What is ahead?'", "question.what.period_s=0", "max_new_tokens=4")
CAMERAS = ("cameras=[front, left, right]", "threads=1")
NODE = (*QUESTION, *CAMERAS)
"""Options of a node for the rig, with one question about every set."""
SLOW = "tests.ros_node.slow_node"

Start = Callable[..., "NodeProcess"]


def slow(seconds: float) -> tuple[str, ...]:
    """Arguments of a slow node."""
    given = [pair for pair in NODE if pair != "--set"]
    parameters = [f"leo_edge:{name}:={value}" for name, _, value in (pair.partition("=") for pair in given)]
    return (str(seconds), *(word for parameter in parameters for word in ("-p", parameter)))


@pytest.fixture
def micro(micro_bundles: MadeOnce) -> Path:
    return micro_bundles["plain"]


@pytest.fixture
def rig() -> Iterator[Rig]:
    pytest.importorskip("leo_edge_msgs", reason="needs ROS 2 and leo_edge_msgs: make env")
    from tests.ros_node.rig import Rig

    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def start(tmp_path: Path, micro: Path) -> Iterator[Start]:
    """Starts nodes; those that still run at the end must stop in time."""
    pytest.importorskip("leo_edge_msgs", reason="needs ROS 2 and leo_edge_msgs: make env")
    from tests.ros_node.rig import NodeProcess

    nodes: list[NodeProcess] = []

    def run(*arguments: object, bundle: Path = micro, module: str = "leo_edge ros") -> NodeProcess:
        nodes.append(NodeProcess(tmp_path / f"log-{len(nodes)}", bundle, *arguments, module=module))
        return nodes[-1]

    yield run
    took = []
    for node in nodes:
        try:
            if node.process.poll() is None:
                took.append(node.stop())
        finally:
            node.kill()
    assert all(seconds < 2.0 for seconds in took), took
