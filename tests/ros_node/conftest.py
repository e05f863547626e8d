"""What the tests between processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import MadeOnce

if TYPE_CHECKING:
    from tests.ros_node.rig import Rig

QUESTION = ("--set", "questions=[what]", "question.what.text='What is ahead?'", "question.what.period_s=0", "max_new_tokens=4")
CAMERAS = ("cameras=[front, left, right]", "threads=1")
NODE = (*QUESTION, *CAMERAS)
"""Options of a node for the rig, with one question about every set."""


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
