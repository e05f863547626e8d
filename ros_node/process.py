"""What a process that moves camera images over ROS needs to be told before it starts."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from leo_edge.runtime.errors import LeoEdgeError

CONFIG = Path(__file__).parent / "config"
FAST_DDS_PROFILE = CONFIG / "fastdds.xml"
# From rmw_fastrtps_cpp 9 (kilted) on, and before. With both set kilted reads the file twice, and refuses the second.
_VARIABLE, _VARIABLE_BEFORE_9 = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"

# As in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30
_NUM_ARENAS = 2


def prepare_process() -> None:
    """Sets the Fast DDS profile, unless the user has set one, and malloc's thresholds. Call it before rclpy.init.

    Fast DDS's own shared-memory segment of 512 kB is smaller than an image: frames are lost. And an image's buffer, which
    malloc maps and unmaps each time, costs more in page faults than in copying: kept buffers took the subscriber of six
    1600x900 cameras at 12 Hz from 75 to 21 % of a core. What is kept is kept per arena, of which malloc would make one for
    each thread up to eight per core: two took the same subscriber from 560 to 390 MB.

    Raises:
        LeoEdgeError: there is ROS, but the messages of the node are not built.
    """
    if find_spec("rclpy") is not None and find_spec("leo_edge_msgs") is None:
        raise LeoEdgeError(
            "the node's messages, leo_edge_msgs, are not built: colcon build --base-paths . ros_node/leo_edge_msgs and source "
            "install/setup.bash, or with ROS as wheels python -m leo_edge.ros_node.build_messages"
        )
    if not {_VARIABLE, _VARIABLE_BEFORE_9} & set(os.environ):
        os.environ[profile_variable()] = str(FAST_DDS_PROFILE)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, _NUM_ARENAS)


def release_memory() -> None:
    """Gives back to the system what is not used any more, which malloc keeps by the thresholds that were set."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's, as above
    if trim is not None:
        trim(0)


def profile_variable() -> str:
    """Returns the environment variable in which the installed middleware looks for its profile."""
    try:
        package = ElementTree.parse(share_path("rmw_fastrtps_cpp") / "package.xml")
    except OSError:
        return _VARIABLE  # another middleware: it does not look at either
    major = int((package.findtext("version") or "0").partition(".")[0])
    return _VARIABLE if major >= 9 else _VARIABLE_BEFORE_9


def share_path(package: str) -> Path:
    """Returns where a package's share folder is: in a sourced ROS, or in the environment that wheels were installed into."""
    roots = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(root) / "share" / package for root in roots if root]
    return next((folder for folder in folders if folder.is_dir()), folders[-1])
