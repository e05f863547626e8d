"""ROS bags as drives to be replayed: each is one, and what a vehicle was asked in it makes its keyframes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from leo_edge.replay.bag import Bag
from leo_edge.replay.bag_cameras import camera_topics, read_calibration, read_frame
from leo_edge.replay.scene_answers import Keyframe, keyframes, read_answers
from leo_edge.replay.source import Drive, FrameRef
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import NUSCENES_CAMERAS


@dataclass(frozen=True)
class BagOptions:
    """Which bags, each of them a drive; which frames: all, or those that its recorded answers are about; which cameras."""

    paths: tuple[Path, ...]
    all_frames: bool = False
    channels: tuple[str, ...] | None = None
    """In prompt order; None: those of the recorded answers, else all, nuScenes' first and others by name."""
    topics: Mapping[str, str] | None = None
    """Image topics by camera, where the topic's name does not say whose it is; see `camera_topics`."""

    def open(self) -> BagSource:
        """Opens the bags; see `BagSource`."""
        return BagSource(self)


class BagSource:
    """Drives by the names of their bags. Frames have the stamps of their headers, by which they are ordered."""

    def __init__(self, options: BagOptions) -> None:
        """Opens every bag; messages are read when a drive is asked for, and images when they are played.

        Raises:
            DatasetError: no such bag, a broken one, two of one name, or a camera without a topic.
        """
        self._options = options
        bags = [Bag(path) for path in options.paths]
        self._bags = {bag.name: bag for bag in bags}
        if len(self._bags) < len(bags):
            raise DatasetError(f"two bags have one name, which names the drive: {', '.join(map(str, options.paths))}")
        self._topics = {bag.name: camera_topics(bag, options.topics or {}, options.channels) for bag in bags}
        self._drives: dict[str, Drive] = {}

    def describe(self) -> dict[str, str]:
        """Returns frames, cameras, and what tells each bag from others. Not the folders: they may have been moved."""
        given = [f"{camera}={topic}" for camera, topic in (self._options.topics or {}).items()]
        return {
            "kind": "bags",
            "frames": "all camera frames" if self._options.all_frames else "keyframes",
            "cameras": " ".join(self._options.channels or ["all"]),
            "camera_topics": " ".join(given or ["by their names"]),
            "bags_sha256": " ".join(bag.fingerprint for bag in self._bags.values()),
        }

    def drive_names(self) -> tuple[str, ...]:
        """Names of the bags, as they were given."""
        return tuple(self._bags)

    def drive(self, name: str) -> Drive:
        """Returns a bag's drive. Its messages are read through for their stamps the first time.

        Raises:
            DatasetError: no such drive, a broken bag, or none of the frames that its answers are about is in it.
        """
        if name not in self._bags:
            raise DatasetError(f"no drive {name!r}: there is {', '.join(self._bags)}")
        if name not in self._drives:
            self._drives[name] = self._make(self._bags[name], self._topics[name])
        return self._drives[name]

    def _make(self, bag: Bag, topics: Mapping[str, str]) -> Drive:
        asked = keyframes(bag.name, read_answers(bag))
        channels = self._options.channels or _cameras_of(asked) or _in_prompt_order(topics)
        if not any(channel in topics for channel in channels):
            raise DatasetError(
                f"the answers in bag {bag.path} are about {', '.join(channels)}, of which it has no images by that name: its "
                f"cameras are {', '.join(topics)}; name topics with --camera-topics {channels[0]}=TOPIC"
            )
        frames, notes = _read_index(bag, {channel: topics[channel] for channel in channels if channel in topics})
        if not asked or self._options.all_frames:
            return Drive(bag.name, channels, tuple(frames), {}, notes=notes)
        return _of_keyframes(bag, channels, frames, asked, notes)


def _cameras_of(asked: Iterable[Keyframe]) -> tuple[str, ...]:
    """The cameras of the recorded answers, in prompt order, those that were missing among them."""
    return tuple(dict.fromkeys(channel for keyframe in asked for channel, _ in keyframe.cameras))


def _in_prompt_order(cameras: Iterable[str]) -> tuple[str, ...]:
    known = [channel for channel in NUSCENES_CAMERAS if channel in cameras]
    return (*known, *sorted(set(cameras) - set(known)))


def _read_index(bag: Bag, topics: Mapping[str, str]) -> tuple[list[FrameRef], tuple[str, ...]]:
    """Returns the frames of cameras by stamp, unread, and what is to be noted. Of equal stamps the first is taken."""
    calibrations = {channel: read_calibration(bag, topic) for channel, topic in topics.items()}
    channels = {topic: channel for channel, topic in topics.items()}
    frames: dict[tuple[str, int], FrameRef] = {}
    repeated: Counter[str] = Counter()
    for message in bag.messages(channels):
        channel, stamp_ns = channels[message.topic], message.stamp_ns
        if (channel, stamp_ns) in frames:
            repeated[channel] += 1
            continue
        where = (channel, message.topic, message.received_ns, stamp_ns, calibrations[channel])
        frames[channel, stamp_ns] = FrameRef(channel, stamp_ns, partial(read_frame, bag, *where))
    notes = (f"frames of {channel} that repeat a stamp and are left out: {count}" for channel, count in repeated.items())
    return sorted(frames.values(), key=lambda ref: ref.stamp_ns), tuple(notes)


def _of_keyframes(
    bag: Bag, channels: tuple[str, ...], frames: Sequence[FrameRef], asked: Sequence[Keyframe], notes: tuple[str, ...]
) -> Drive:
    """Makes the drive of those frames that were asked about. A frame may belong to several keyframes."""
    by_stamp = {(ref.channel, ref.stamp_ns): ref for ref in frames}
    found: list[FrameRef] = []
    stamps_ns: dict[str, int] = {}
    lacking: Counter[str] = Counter()
    for keyframe in asked:
        wanted = [(channel, at_ns) for channel, at_ns in keyframe.cameras if at_ns is not None and channel in channels]
        there = [replace(by_stamp[one], sample=keyframe.token) for one in wanted if one in by_stamp]
        lacking.update(one[0] for one in wanted if one not in by_stamp)
        if there:
            found += there
            stamps_ns[keyframe.token] = keyframe.stamp_ns
    if not found:
        raise DatasetError(
            f"none of the frames of {', '.join(channels)} that the answers in bag {bag.path} are about is in it: "
            f"play its frames as they come with --all-frames, or give other --cameras"
        )
    notes += tuple(
        f"frames of {channel} that were asked about and are not in it: {count}" for channel, count in lacking.items()
    )
    if lost := len(asked) - len(stamps_ns):
        notes += (f"keyframes that have no frame in it and are left out: {lost} of {len(asked)}",)
    return Drive(bag.name, channels, tuple(sorted(found, key=lambda ref: ref.stamp_ns)), stamps_ns, notes=notes)
