"""Runs the node in this process, with or without a ROS launch."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from leo_edge.ros_node.process import prepare_process
from leo_edge.runtime.errors import LeoEdgeError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the node until it is interrupted or terminated; `argv` as ROS has it, `--ros-args` and what follows included.

    Returns 2 where it cannot run here; what goes wrong later is in the node's log and diagnostics.
    """
    try:
        prepare_process()
    except LeoEdgeError as error:
        return _fail(str(error))
    import rclpy  # after prepare_process: the middleware reads its profile when it is loaded
    from rclpy.exceptions import ParameterException
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from leo_edge.ros_node.node import LeoEdgeNode

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        rclpy.init(args=list(sys.argv if argv is None else argv), signal_handler_options=SignalHandlerOptions.NO)
        node = LeoEdgeNode()
    except (RuntimeError, ParameterException) as error:  # rcl's own errors are RuntimeErrors
        return _fail(str(error))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.close()
        executor.shutdown(timeout_sec=0)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _fail(message: str) -> int:
    """Prints an error as one line and returns the exit code of bad input."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
