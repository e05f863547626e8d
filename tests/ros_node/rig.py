"""A rig of cameras in this process and the node in another one, which talk over loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from leo_edge_msgs.msg import SceneAnswer
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from leo_edge.ros_node.process import FAST_DDS_PROFILE, profile_variable

CAMERAS = ("front", "left", "right")
DOMAIN = 1 + os.getpid() % 100
WAIT_S = 20.0
_NS = 1_000_000_000
_ENVIRONMENT = {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": "1"}
# It is the sender's shared memory that must hold an image: without the profile, half of 640x480 is lost. The node sets its own.
_OWN = {profile_variable(): str(FAST_DDS_PROFILE)}


def environment() -> dict[str, str]:
    """What the node's process and this one agree on."""
    return {name: value for name, value in (os.environ | _ENVIRONMENT).items() if name not in _OWN}


class NodeProcess:
    """The node, run as a user would run it."""

    def __init__(self, log: Path, bundle: Path, *arguments: object, module: str = "leo_edge ros") -> None:
        self.log = log
        self._command = [sys.executable, "-m", *module.split(), str(bundle), *map(str, arguments)]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=environment(), stdout=log, stderr=log)

    def stop(self, number: int = signal.SIGINT) -> float:
        """Stops it and returns the seconds that took; it must have ended by itself, without an error."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(10)
        took = time.monotonic() - began
        assert code == 0, self.text()
        assert "Traceback" not in self.text(), self.text()
        return took

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS:"))


class Rig:
    """Cameras that fire when they are told to, and ears for what the node says."""

    def __init__(self, cameras: Iterable[str] = CAMERAS, *, compressed: bool = False, reliable: bool = True) -> None:
        os.environ.update(_ENVIRONMENT | _OWN)
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node("rig", context=self.context)
        self.cameras = tuple(cameras)
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
        kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
        self.publishers: dict[str, Any] = {
            c: self.node.create_publisher(kind, f"/leo_edge/input/{c}/image{suffix}", qos) for c in self.cameras
        }
        self.answers: list[SceneAnswer] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.node.create_subscription(SceneAnswer, "/leo_edge/output/answer", self.answers.append, 100)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        self.context.try_shutdown()

    def _hear(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name.partition(": ")[2]: status for status in message.status})

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"{what}: { ({n: (s.level, s.message) for n, s in self.statuses.items()}) }"
            time.sleep(0.01)

    def connect(self) -> None:
        """Waits until the node listens to the cameras and is heard."""
        self.wait(lambda: all(p.get_subscription_count() for p in self.publishers.values()), "the node hears the cameras")
        self.wait(lambda: self.node.count_publishers("/leo_edge/output/answer"), "the node offers answers")
        time.sleep(0.2)

    def fire(self, number: int, channels: Iterable[str] | None = None, **changes: Any) -> int:
        """Fires cameras once, together; returns the stamp. `changes` are fields of the images."""
        stamp_ns = now_ns()
        for channel in self.cameras if channels is None else channels:
            self.publish(channel, image_message(channel, number, stamp_ns, **changes))
        return stamp_ns

    def publish(self, channel: str, message: Any) -> None:
        self.publishers[channel].publish(message)

    def run(self, seconds: float, channels: Iterable[str] | None = None, hz: float = 10, **changes: Any) -> list[int]:
        """Fires cameras at a rate; returns the stamps."""
        stamps, start = [], time.monotonic()
        for number in range(round(seconds * hz)):
            time.sleep(max(0.0, start + number / hz - time.monotonic()))
            stamps.append(self.fire(number, channels, **changes))
        return stamps

    def wait_for_answer(self, stamp_ns: int) -> SceneAnswer:
        """Returns the first answer about a set that is no older than this."""
        found: list[SceneAnswer] = []

        def look() -> bool:
            found[:] = [answer for answer in list(self.answers) if stamp_of(answer) >= stamp_ns][:1]
            return bool(found)

        self.wait(look, f"an answer about {stamp_ns} or later")
        return found[0]

    def wait_for_status(self, name: str, part: str, *, level: bytes | None = None) -> DiagnosticStatus:
        def look() -> bool:
            status = self.statuses.get(name)
            return status is not None and part in status.message and level in (None, status.level)

        self.wait(look, f"{name} says {part!r}")
        return self.statuses[name]

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = WAIT_S) -> Any:
        """Calls a service of the node."""
        client: Any = self.node.create_client(kind, f"/leo_edge/{name}")
        try:
            assert client.wait_for_service(timeout_s), f"no service {name}"
            future = client.call_async(request)
            self.wait(future.done, f"{name} is answered", timeout_s)
            return future.result()
        finally:
            self.node.destroy_client(client)


def now_ns() -> int:
    return time.time_ns()


def stamp_of(answer: SceneAnswer) -> int:
    return int(answer.header.stamp.sec) * _NS + int(answer.header.stamp.nanosec)


def pixels(channel: str, number: int) -> np.ndarray:  # type: ignore[type-arg]
    seed = [CAMERAS.index(channel) if channel in CAMERAS else 99, number]
    return np.random.default_rng(seed).integers(0, 256, (90, 160, 3), np.uint8)


def header(stamp_ns: int) -> Header:
    return Header(stamp=Time(sec=stamp_ns // _NS, nanosec=stamp_ns % _NS))


def image_message(channel: str, number: int, stamp_ns: int, **changes: Any) -> Image:
    fields = {"height": 90, "width": 160, "encoding": "rgb8", "step": 480} | changes
    data = fields.pop("data", None)
    message = Image(header=header(stamp_ns), **fields)
    message.data = array("B")
    message.data.frombytes(pixels(channel, number).tobytes() if data is None else data)
    return message
