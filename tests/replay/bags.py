"""What tests of bags share: rosbag2 bags written with rosbags' Writer, from frames and answers as the node publishes them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from leo_edge.replay.bag_cameras import CAMERA_INFO, COMPRESSED, IMAGE
from leo_edge.replay.bag_source import BagOptions
from leo_edge.replay.scene_answers import SCENE_ANSWER
from leo_edge.replay.source import Drive
from leo_edge.runtime.frames import CameraFrame

DEFINITIONS = Path(__file__).parents[2] / "ros_node" / "leo_edge_msgs" / "msg"
ANSWER_TOPIC = "/leo_edge/output/answer"
MS, NS = 1_000_000, 1_000_000_000
SIZE = (6, 8)
INTRINSIC = np.array([[1266.4, 0, 816.3], [0, 1266.4, 491.5], [0, 0, 1]])
FRESH, STALE, MISSING = range(3)

Topic = Callable[[str], str]
"""A camera's image topic."""


def node_topic(channel: str) -> str:
    return f"/leo_edge/input/{channel}/image"


def known_types() -> Typestore:
    """ROS's types, and ours from their definitions."""
    store = get_typestore(Stores.LATEST)
    for path in DEFINITIONS.glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"leo_edge_msgs/msg/{path.stem}"))
    return store


@dataclass(frozen=True)
class Given:
    """An answer as it is to be recorded: of cameras, the stamps of their frames, None where one is missing."""

    stamp_ns: int
    cameras: Mapping[str, int | None]
    answer: str
    question: str = "What is ahead?"
    question_id: str = "ahead"
    finish: str = "stop_token"
    degrade_level: int = 0


@dataclass
class BagWriter:
    """Writes messages to an open bag. A message is received `delay_ns` after its stamp, unless it is said when."""

    writer: Writer
    delay_ns: int = 3_000_000
    types: Typestore = field(default_factory=known_types)
    _connections: dict[str, Connection] = field(default_factory=dict)

    def message(self, kind: str, **fields: Any) -> Any:
        """Makes a message of a type such as std_msgs/msg/Header."""
        return self.types.types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str = "") -> Any:
        return self.message("std_msgs/msg/Header", stamp=self.time(stamp_ns), frame_id=frame_id)

    def time(self, stamp_ns: int) -> Any:
        return self.message("builtin_interfaces/msg/Time", sec=stamp_ns // NS, nanosec=stamp_ns % NS)

    def write(self, topic: str, kind: str, stamp_ns: int, received_ns: int | None = None, **fields: Any) -> None:
        """Writes a message that has a header."""
        if topic not in self._connections:
            self._connections[topic] = self.writer.add_connection(topic, kind, typestore=self.types)
        message = self.message(kind, header=self.header(stamp_ns), **fields)
        when_ns = stamp_ns + self.delay_ns if received_ns is None else received_ns
        self.writer.write(self._connections[topic], when_ns, self.types.serialize_cdr(message, kind))

    def image(
        self, topic: str, image: npt.NDArray[np.uint8], stamp_ns: int, received_ns: int | None = None, **fields: Any
    ) -> None:
        """Writes an image as rgb8, or with other `fields` of sensor_msgs/Image."""
        height, width, _ = image.shape
        said = {
            "height": height,
            "width": width,
            "encoding": "rgb8",
            "is_bigendian": 0,
            "step": 3 * width,
            "data": image.reshape(-1),
        }
        self.write(topic, IMAGE, stamp_ns, received_ns, **(said | fields))

    def compressed(self, topic: str, data: bytes, stamp_ns: int) -> None:
        """Writes the bytes of an image file."""
        self.write(topic, COMPRESSED, stamp_ns, format="jpeg", data=np.frombuffer(data, np.uint8))

    def camera_info(self, topic: str, intrinsic: npt.NDArray[np.float64], size: tuple[int, int], stamp_ns: int) -> None:
        """Writes a camera's intrinsic [3, 3] for images of a width and height."""
        roi = self.message("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        matrices = {"k": intrinsic.reshape(-1), "r": np.eye(3).reshape(-1), "p": np.zeros(12)}
        said = {"distortion_model": "", "d": np.zeros(0), "binning_x": 0, "binning_y": 0, "roi": roi, **matrices}
        self.write(topic, CAMERA_INFO, stamp_ns, width=size[0], height=size[1], **said)

    def answer(self, given: Given, topic: str = ANSWER_TOPIC) -> None:
        """Writes an answer as the node gives it, half a second after its set."""
        uses = [
            self.message(
                "leo_edge_msgs/msg/CameraUse",
                name=name,
                state=MISSING if stamp_ns is None else FRESH if stamp_ns == given.stamp_ns else STALE,
                stamp=self.time(stamp_ns or 0),
                age_ms=float("nan"),
            )
            for name, stamp_ns in given.cameras.items()
        ]
        same = {"deadline_met": True, "deadline_ms": 0.0, "waited_ms": 0.0, "first_token_ms": 1.0, "since_set_ms": 2.0}
        self.write(
            topic,
            SCENE_ANSWER,
            given.stamp_ns,
            given.stamp_ns + NS // 2,
            question_id=given.question_id,
            question=given.question,
            answer=given.answer,
            finish=given.finish,
            degrade_level=given.degrade_level,
            token_ids=np.zeros(0, np.int32),
            cameras=uses,
            missing=[name for name, stamp_ns in given.cameras.items() if stamp_ns is None],
            stages=[],
            degraded=["max_tiles=1"] if given.degrade_level else [],
            bundle_id="bundle",
            backend="ort",
            **same,
        )


def jpeg(image: npt.NDArray[np.uint8], quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_bag(
    path: Path,
    write: Callable[[BagWriter], object],
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Writes a rosbag2 folder with whatever `write` puts into it."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        write(BagWriter(writer))
    return path


def write_drive_bag(
    path: Path, frames: Iterable[CameraFrame], answers: Sequence[Given] = (), *, topic: Topic = node_topic, **options: Any
) -> Path:
    """Writes frames as raw images, with camera_info where they are calibrated, then answers."""

    def write(bag: BagWriter) -> None:
        for one in frames:
            bag.image(topic(one.channel), one.image, one.stamp_ns)
            if one.intrinsic is not None:
                info = topic(one.channel).rpartition("/")[0] + "/camera_info"
                bag.camera_info(info, one.intrinsic, (one.width, one.height), one.stamp_ns)
        for answer in answers:
            bag.answer(answer)

    return write_bag(path, write, **options)


def picture(seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def frame(channel: str, stamp_ms: float, **more: Any) -> CameraFrame:
    stamp_ns = round(stamp_ms * MS)
    return CameraFrame(channel, picture(stamp_ns // MS), stamp_ns, **more)


def rounds(count: int = 3, channels: str = "AB") -> list[CameraFrame]:
    """Camera A at 100, 200, .. ms, B 20 ms later."""
    return [frame(channel, 100 * (i + 1) + 20 * j) for i in range(count) for j, channel in enumerate(channels)]


def given(stamp_ms: int, a: int | None, b: int | None, **more: Any) -> Given:
    """An answer about frames of A and B at these milliseconds."""
    stamps = {"A": a, "B": b}
    return Given(stamp_ms * MS, {name: None if at is None else at * MS for name, at in stamps.items()}, "yes", **more)


def open_drive(path: Path, **more: Any) -> Drive:
    source = BagOptions((path,), **more).open()
    return source.drive(source.drive_names()[0])


def shape(drive: Drive) -> list[tuple[str, float, str | None]]:
    return [(ref.channel, ref.stamp_ns / MS, ref.sample) for ref in drive.frames]
