"""Records topics to a rosbag2 in MCAP: cameras, answers and whatever else is named, byte for byte as it came.

Messages are taken from their subscriptions in turn, not by an executor: rclpy's goes through all its subscriptions for every
message, and with the forty topics of a rig it falls behind.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from leo_edge.ros_node.process import share_path
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from rclpy.node import Node

DEFAULT_TOPICS = (r"/leo_edge/(input|output)/.*", "/diagnostics", "/tf_static", "/clock")
_DEPTH = 50
_LOOK_S, _POLL_S = 0.2, 0.005
_NO_NUMBER = 2**63  # what a middleware that numbers no messages says is above


@dataclass
class _Recorded:
    """A topic that is recorded. `lost` counts gaps in its messages' numbers, which tell only where one publishes alone."""

    subscription: Any
    connection: Connection
    count: int = 0
    lost: int = 0
    last_number: int | None = None


class Recorder:
    """Subscribes to topics as they appear and writes what comes, whenever `poll` is called."""

    def __init__(self, node: Node, directory: Path, patterns: Sequence[str] = DEFAULT_TOPICS) -> None:
        """Begins to record to a new directory.

        Raises:
            LeoEdgeError: the directory is there already or cannot be made, or a pattern is no regular expression.
        """
        self.topics: dict[str, _Recorded] = {}
        self._node, self._store = node, get_typestore(Stores.LATEST)
        try:
            self._patterns = [re.compile(pattern) for pattern in patterns]
            directory.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(directory, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except re.error as error:
            raise LeoEdgeError(f"--topics got {error.pattern!r}, which is no regular expression: {error}") from error
        except (WriterError, OSError) as error:
            raise LeoEdgeError(f"cannot record to {directory} ({error}): name a new directory") from error

    def look(self) -> None:
        """Subscribes to topics that are there now and were not before."""
        for topic, kinds in self._node.get_topic_names_and_types():
            if topic in self.topics or not any(pattern.fullmatch(topic) for pattern in self._patterns):
                continue
            publishers = self._node.get_publishers_info_by_topic(topic)
            if publishers:
                self.topics[topic] = self._record(topic, kinds[0], [publisher.qos_profile for publisher in publishers])

    def poll(self) -> None:
        """Writes what has come since the last call."""
        for recorded in self.topics.values():
            handle, kind = recorded.subscription.handle, recorded.subscription.msg_type
            with handle:
                while (taken := handle.take_message(kind, True)) is not None:
                    self._write(recorded, *taken)

    def run_until(self, ended: Callable[[], bool]) -> None:
        """Records until it is told to end, and what has come by then."""
        look = 0.0
        while not ended():
            if time.monotonic() >= look:
                self.look()
                look = time.monotonic() + _LOOK_S
            self.poll()
            time.sleep(_POLL_S)
        self.poll()

    def close(self) -> None:
        """Ends the recording; only then the bag is whole."""
        self._writer.close()

    def _record(self, topic: str, kind: str, offered: Sequence[QoSProfile]) -> _Recorded:
        self._learn(kind)
        qos = QoSProfile(
            depth=_DEPTH,
            reliability=_weakest(offered, "reliability", ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE),
            durability=_weakest(offered, "durability", DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL),
        )
        connection = self._writer.add_connection(topic, kind, typestore=self._store, offered_qos_profiles=[_recorded(qos)])
        subscription = self._node.create_subscription(_message_class(kind), topic, _unused, qos, raw=True)
        self._node.get_logger().info(f"recording {topic}")
        return _Recorded(subscription, connection)

    def _write(self, recorded: _Recorded, data: bytes, info: Mapping[str, Any]) -> None:
        received_ns = info.get("received_timestamp") or time.time_ns()
        self._writer.write(recorded.connection, received_ns, data)
        recorded.count += 1
        number = info.get("publication_sequence_number") or _NO_NUMBER
        if number < _NO_NUMBER:
            alone = self._node.count_publishers(recorded.connection.topic) == 1
            if recorded.last_number is not None and alone:
                recorded.lost += max(0, number - recorded.last_number - 1)
            recorded.last_number = number

    def _learn(self, kind: str) -> None:
        """Reads the definitions of a package's messages, where rosbags does not know them, from where ROS installs them."""
        package = kind.partition("/")[0]
        if kind in self._store.types:
            return
        if not (paths := sorted((share_path(package) / "msg").glob("*.msg"))):
            raise LeoEdgeError(
                f"no definitions of {package}, whose {kind} is to be recorded: install it, or name other --topics"
            )
        for path in paths:
            self._store.register(get_types_from_msg(path.read_text(encoding="utf-8"), f"{package}/msg/{path.stem}"))


def _unused(_: bytes) -> None:
    """Nothing calls it: messages are taken, not delivered."""


def _message_class(kind: str) -> Any:
    package, _, name = kind.partition("/msg/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _weakest(offered: Sequence[QoSProfile], policy: str, weak: Any, strong: Any) -> Any:
    """The strongest policy that every publisher offers."""
    return strong if all(getattr(profile, policy) == strong for profile in offered) else weak


def _recorded(qos: QoSProfile) -> Qos:
    """A profile as a bag's metadata hold it, for whoever plays the bag."""
    reliable, latched = qos.reliability == ReliabilityPolicy.RELIABLE, qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    forever = QosTime(9223372036, 854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=qos.depth,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
