"""The node with answers that take longer: `slow_node.py BUNDLE SECONDS [ROS arguments]`, run with -m."""

from __future__ import annotations

import sys
from typing import Any

from leo_edge.ros_node import node
from leo_edge.ros_node.main import main
from leo_edge.runtime.pipeline import open_pipeline
from tests.ros_node.pipelines import SlowPipeline

if __name__ == "__main__":
    bundle, seconds = sys.argv[1], float(sys.argv[2])

    def open_slowly(*args: Any, **options: Any) -> SlowPipeline:
        return SlowPipeline.of(open_pipeline(*args, **options), seconds)

    node.open_pipeline = open_slowly  # type: ignore[attr-defined]
    sys.exit(main(["slow_node", "--ros-args", "-p", f"leo_edge:bundle:={bundle}", *sys.argv[3:]]))
