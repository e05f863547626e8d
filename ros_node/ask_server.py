"""The service `~/ask`, on a thread of its own.

It waits for answers, and in rclpy waiting inside a callback is never free: awaiting a future makes the executor go round and
round (rclpy 9.1), and a blocked callback stops the cameras. So it has a node and an executor for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from leo_edge_msgs.srv import Ask
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

if TYPE_CHECKING:
    from rclpy.context import Context

Serve = Callable[[Ask.Request, Ask.Response], Ask.Response]


class AskServer:
    """Serves one question after another. `serve` may block."""

    def __init__(self, name: str, namespace: str, serve: Serve, context: Context) -> None:
        self._node = Node(
            f"{name}_ask", namespace=namespace, context=context, use_global_arguments=False, start_parameter_services=False
        )
        self._node.create_service(Ask, f"{namespace.rstrip('/')}/{name}/ask", serve)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="leo_edge ask", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Takes the service down. What is being served must have been told to end."""
        self._executor.shutdown(timeout_sec=0)
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._node.destroy_node()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return  # the process is being ended
