"""Recorded ROS bags: their topics, and their messages by topic and time. Neither ROS nor its types need to be installed."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag1 import ReaderError as Reader1Error
from rosbags.rosbag2 import ReaderError as Reader2Error
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from leo_edge.runtime.errors import DatasetError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

_NS = 1_000_000_000
_DEFINITIONS = Path(__file__).parent.parent / "ros_node" / "leo_edge_msgs" / "msg"
# What rosbags, and what it reads with, raise for files that were cut off or altered, found by doing so.
_READ_ERRORS = (
    AnyReaderError,
    Reader1Error,
    Reader2Error,
    TypesysError,
    apsw.Error,
    zstd.ZstdError,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class BagMessage:
    """A message as it was recorded. `content` has the fields of its type."""

    topic: str
    received_ns: int
    content: Any

    @property
    def stamp_ns(self) -> int:
        """Its header's stamp; where that is zero, when the recorder got it."""
        return time_ns(self.content.header.stamp) or self.received_ns


def time_ns(time: Any) -> int:
    """Returns a message's builtin_interfaces/Time in nanoseconds; one before 1970 is 0."""
    return max(0, int(time.sec) * _NS + int(time.nanosec))


class Bag:
    """An open bag: a rosbag2 folder, one of its .mcap or .db3 files, or a ROS 1 .bag. Its name is that of the folder or file.

    `topics` are those that have messages, with their types such as sensor_msgs/msg/Image.
    """

    def __init__(self, path: Path) -> None:
        """Opens a bag.

        Raises:
            DatasetError: there is none, or it is not whole.
        """
        if not path.exists():
            raise DatasetError(f"no bag {path}: check the path")
        self.path = path
        self.name = path.resolve().name if path.is_dir() else path.resolve().stem
        self._lock = threading.Lock()
        with self._readable():
            self._reader = AnyReader([path], default_typestore=_known_types())
            self._reader.open()
            self._connections: dict[str, list[Connection]] = defaultdict(list)
            for connection in self._reader.connections:
                if connection.msgcount:
                    self._connections[connection.topic].append(connection)
            self.topics = {topic: found[0].msgtype for topic, found in sorted(self._connections.items())}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what tells it from others without a look at every message: when it was recorded, and how much of what."""
        counts = {topic: sum(one.msgcount for one in self._connections[topic]) for topic in self.topics}
        what = [self._reader.start_time, self._reader.end_time, self.topics, counts]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def of_type(self, *kinds: str) -> list[str]:
        """Returns the topics of some types."""
        return [topic for topic, kind in self.topics.items() if kind in kinds]

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Yields the messages of some topics in the order in which they were recorded; not beside `read` in another thread.

        Raises:
            DatasetError: the bag is not whole.
        """
        with self._readable():
            yield from self._messages(topics)

    def read(self, topic: str, received_ns: int, stamp_ns: int) -> BagMessage:
        """Returns one message. Threads may call it at once.

        Raises:
            DatasetError: the bag is not whole, or was altered since.
        """
        with self._lock, self._readable():
            for message in self._messages([topic], received_ns, received_ns + 1):
                if message.stamp_ns == stamp_ns:
                    return message
        raise DatasetError(f"bag {self.path} no longer has the message of {topic} at {stamp_ns} ns: it was altered, start anew")

    def _messages(self, topics: Collection[str], start: int | None = None, stop: int | None = None) -> Iterator[BagMessage]:
        connections = [one for topic in topics for one in self._connections.get(topic, [])]
        if not connections:
            return
        for connection, received_ns, raw in self._reader.messages(connections, start, stop):
            yield BagMessage(connection.topic, received_ns, self._reader.deserialize(raw, connection.msgtype))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Says in one line what rosbags stumbled over."""
        try:
            yield
        except _READ_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatasetError(
                f"cannot read bag {self.path} ({reason}): give a whole rosbag2 folder, .mcap, .db3 or ROS 1 .bag; "
                f"`ros2 bag reindex` mends one whose recording was cut off"
            ) from error


@lru_cache(maxsize=1)
def _known_types() -> Typestore:
    """The types of bags that do not hold their own, as those of ROS 2 before Iron: ROS's and this package's."""
    store = get_typestore(Stores.LATEST)
    for path in sorted(_DEFINITIONS.glob("*.msg")):
        store.register(get_types_from_msg(path.read_text(encoding="utf-8"), f"leo_edge_msgs/msg/{path.stem}"))
    return store
