"""Runs the node in this process, with or without a ROS launch."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence

from leo_edge.ros_node.process import prepare_process
from leo_edge.runtime.errors import LeoEdgeError

_END_S = 1.0  # for a callback that is under way when the node is told to end


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

    # A handler that raises would do so inside rclpy's C++, which makes other errors of it.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopped.set())
    try:
        rclpy.init(args=list(sys.argv if argv is None else argv), signal_handler_options=SignalHandlerOptions.NO)
        node = LeoEdgeNode()
    except (RuntimeError, ParameterException) as error:  # rcl's own errors are RuntimeErrors
        return _fail(str(error))
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass  # ROS itself was shut down
        finally:
            stopped.set()

    node.autostart()
    spinning = threading.Thread(target=spin, name="leo_edge executor", daemon=True)
    spinning.start()
    stopped.wait()
    executor.shutdown(timeout_sec=0)
    spinning.join(_END_S)
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def _fail(message: str) -> int:
    """Prints an error as one line and returns the exit code of bad input."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
