"""What a replay plays: drives as camera frames with their own stamps, wherever they are kept, and the sets that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import CameraFrame, FrameSet, load_frames


@dataclass(frozen=True)
class FrameRef:
    """A camera frame that is not read yet. `sample` is the token of the keyframe that it belongs to, None between keyframes."""

    channel: str
    stamp_ns: int
    load: Callable[[], CameraFrame]
    sample: str | None = None


@dataclass(frozen=True)
class Box:
    """A labelled object of a keyframe in the vehicle's coordinates (x ahead, y left, z up): what, where, how large, how turned.

    size_m: along its own x (ahead), y and z. rotation_wxyz: the quaternion that turns its own axes into the vehicle's.
    """

    category: str
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]


def _no_boxes(_sample: str) -> tuple[Box, ...]:
    return ()


@dataclass(frozen=True)
class Drive:
    """A recorded drive: its frames by stamp, the cameras in prompt order, and the stamps of its keyframes by token.

    `boxes` returns what is labelled in a keyframe, by its token. `description` is what its makers say of it; `notes` say what
    it lacks, and are shown with a replay's results.
    """

    name: str
    channels: tuple[str, ...]
    frames: tuple[FrameRef, ...]
    sample_stamps_ns: dict[str, int]
    boxes: Callable[[str], tuple[Box, ...]] = _no_boxes
    description: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.frames:
            raise DatasetError(f"drive {self.name} has no camera frame of {', '.join(self.channels)}: give other cameras")
        if any(later.stamp_ns < earlier.stamp_ns for earlier, later in zip(self.frames, self.frames[1:], strict=False)):
            raise ValueError(f"frames of drive {self.name} must be in the order of their stamps")


class FrameSource(Protocol):
    """Drives of one kind: a nuScenes dataset, folders of images, videos."""

    def describe(self) -> dict[str, str]:
        """Returns what tells this source from others, for the record of a run."""

    def drive_names(self) -> tuple[str, ...]:
        """Returns the names of all drives."""

    def drive(self, name: str) -> Drive:
        """Returns a drive, its images unread.

        Raises:
            DatasetError: there is no such drive, or it is incomplete.
        """


class SourceOptions(Protocol):
    """What a source is opened with: plain values, which can be sent to another process."""

    def open(self) -> FrameSource:
        """Opens the source.

        Raises:
            DatasetError: there is nothing like it, or it is broken.
        """


@dataclass(frozen=True)
class PlannedSet:
    """Frames that go to the model together. They are all there at `ready_ns`, on the drive's clock.

    `sample` is the keyframe that they belong to; `stamp_ns` is its stamp, or that of the newest frame between keyframes.
    """

    number: int
    frames: tuple[FrameRef, ...]
    channels: tuple[str, ...]
    stamp_ns: int
    ready_ns: int
    sample: str | None

    def load(self) -> FrameSet:
        """Reads the images.

        Raises:
            LeoEdgeError: an image is absent or unreadable.
        """
        frames = load_frames([ref.load for ref in self.frames])
        return FrameSet.of(frames, expected_channels=self.channels, stamp_ns=self.stamp_ns)


def plan_sets(drive: Drive) -> tuple[PlannedSet, ...]:
    """Gathers a drive's frames into sets, in the order in which they are complete.

    The frames of a keyframe are one set; a camera without one is missing in it. Between keyframes a set is complete, as on a
    vehicle that waits for no camera, when every camera has fired, or when one fires again.
    """
    by_sample: dict[str, list[FrameRef]] = {}
    between: list[FrameRef] = []
    for ref in drive.frames:
        (between if ref.sample is None else by_sample.setdefault(ref.sample, [])).append(ref)
    groups = [*by_sample.values(), *_rounds(between, len(drive.channels))]
    groups.sort(key=lambda group: group[-1].stamp_ns)
    return tuple(_set_of(drive, number, group) for number, group in enumerate(groups))


def _rounds(frames: Iterable[FrameRef], num_cameras: int) -> Iterator[list[FrameRef]]:
    group: list[FrameRef] = []
    for ref in frames:
        if any(ref.channel == other.channel for other in group):
            yield group
            group = []
        group.append(ref)
        if len(group) == num_cameras:
            yield group
            group = []
    if group:
        yield group


def _set_of(drive: Drive, number: int, group: Sequence[FrameRef]) -> PlannedSet:
    newest, sample = group[-1].stamp_ns, group[0].sample
    stamp_ns = newest if sample is None else drive.sample_stamps_ns[sample]
    return PlannedSet(number, tuple(group), drive.channels, stamp_ns, newest, sample)
