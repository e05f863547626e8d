"""Encodes a frame set, no camera twice: what was encoded before is used again where its frame is the same or young enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from leo_edge.ros_node.inputs import CameraInfo, Picture
from leo_edge.ros_node.ladder import Economy
from leo_edge.ros_node.synchronizer import Arrival, CameraState, ReadySet, SyncRules, state_at
from leo_edge.runtime.errors import FrameError
from leo_edge.runtime.frames import CameraFrame, FrameSet, RgbImage
from leo_edge.runtime.pipeline import Pipeline
from leo_edge.runtime.spans import Span, SpanRecorder
from leo_edge.runtime.stage_model import EncodeWork
from leo_edge.runtime.tiles import choose_grid, num_tiles
from leo_edge.runtime.tokens import CameraTokens, VisualTokens


@dataclass(frozen=True)
class CameraUse:
    """What an encoded set has of a camera. Stamp and arrival are its frame's; None where it is missing."""

    channel: str
    state: CameraState
    stamp_ns: int | None = None
    arrived_ns: int | None = None


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """A frame set, encoded. `images` are those that were encoded for it; `waited_ms` from its being there to its turn."""

    number: int
    stamp_ns: int
    waited_ms: float
    tokens: VisualTokens
    cameras: tuple[CameraUse, ...]
    images: Mapping[str, RgbImage]


@dataclass(frozen=True)
class SetShape:
    """What a set will be: what of it is to be encoded, and how many cameras and visual tokens its questions are about."""

    encode: EncodeWork
    cameras: int
    visual_tokens: int


@dataclass(frozen=True, eq=False)
class _Kept:
    """A camera's tokens, and when their frame arrived."""

    tokens: CameraTokens
    arrived_ns: int


class Encoder:
    """Holds each camera's last tokens. `infos` are the cameras' sizes and intrinsics, filled in by others."""

    def __init__(
        self,
        pipeline: Pipeline,
        check_stopped: Callable[[], None],
        on_camera_error: Callable[[str, str], None],
        clock: Callable[[], int],
    ) -> None:
        self.infos: dict[str, CameraInfo] = {}
        self._pipeline, self._check_stopped, self._clock = pipeline, check_stopped, clock
        self._on_camera_error = on_camera_error
        self._kept: dict[str, _Kept] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def shape(self, ready: ReadySet[Picture], rules: SyncRules, economy: Economy) -> SetShape | None:
        """Returns what `encode` would have to do; None where a camera's image size is not known yet."""
        new = {a.channel for a in ready.frames.values() if not self._reusable(a, ready, rules, economy)}
        tiling, fuse = self._pipeline.bundle.manifest.tiling.at_most(economy.max_tiles), self._pipeline.bundle.manifest.fuse
        tiles: dict[str, int] = {}
        for channel in rules.channels:
            if channel in new:
                if channel not in self._sizes:
                    return None
                tiles[channel] = num_tiles(choose_grid(*self._sizes[channel], tiling), tiling)
            elif (kept := self._kept.get(channel)) is not None:
                tiles[channel] = kept.tokens.num_tiles
        most = self.most_visual_tokens(economy) or math.inf
        visual = sum(min(most, fuse.num_tokens * (count if fuse.unit == "tile" else 1)) for count in tiles.values())
        encode = EncodeWork(len(new), sum(tiles[channel] for channel in new))
        return SetShape(encode, len(tiles), int(visual))

    def most_visual_tokens(self, economy: Economy) -> int | None:
        """Returns how many of a camera's visual tokens are used under an economy; None: all of them."""
        if economy.visual_tokens == 1:
            return None
        fuse = self._pipeline.bundle.manifest.fuse
        tiles = 1 if fuse.unit == "image" else max((kept.tokens.num_tiles for kept in self._kept.values()), default=1)
        return max(1, round(economy.visual_tokens * fuse.num_tokens * tiles))

    def encode(self, ready: ReadySet[Picture], rules: SyncRules, economy: Economy, taken_ns: int) -> EncodedSet | None:
        """Encodes a set; None where no camera has anything to show."""
        self._drop_other_times(ready, rules)
        recorder = SpanRecorder(self._clock)
        with recorder.measure("convert"):
            frames = self._decode([a for a in ready.frames.values() if not self._reusable(a, ready, rules, economy)])
        spans = tuple(recorder.spans)
        if frames:
            spans += self._run_experts(ready, frames, economy)
        uses = tuple(self._use(channel, ready, rules) for channel in rules.channels)
        used = [use.channel for use in uses if use.state is not CameraState.MISSING]
        if not used:
            return None
        missing = tuple(use.channel for use in uses if use.state is CameraState.MISSING)
        tokens = VisualTokens(tuple(self._kept[channel].tokens for channel in used), missing, ready.stamp_ns, spans)
        images = {frame.channel: frame.image for frame in frames}
        waited_ms = (taken_ns - ready.ready_ns) / 1e6
        return EncodedSet(ready.number, ready.stamp_ns, waited_ms, tokens, uses, images)

    def _drop_other_times(self, ready: ReadySet[Picture], rules: SyncRules) -> None:
        """Forgets tokens from after the set, which are left over when time has jumped back, and those that are too old."""
        for channel, kept in list(self._kept.items()):
            if state_at(kept.tokens.stamp_ns, ready.stamp_ns, rules) is CameraState.MISSING:
                del self._kept[channel]

    def _reusable(self, arrival: Arrival[Picture], ready: ReadySet[Picture], rules: SyncRules, economy: Economy) -> bool:
        """Whether a camera's last tokens do: they are of the same frame, or it is a side camera and not its turn."""
        kept = self._kept.get(arrival.channel)
        if kept is None:
            return False
        if kept.tokens.stamp_ns == arrival.stamp_ns:
            return True
        if arrival.channel == rules.anchor:
            return False
        return (ready.number + rules.channels.index(arrival.channel)) % economy.side_every != 0

    def _decode(self, arrivals: list[Arrival[Picture]]) -> list[CameraFrame]:
        """Decodes images, each in a thread of its own: decoders and converters work outside the interpreter lock."""
        if not arrivals:
            return []
        with ThreadPoolExecutor(len(arrivals), "convert") as pool:
            return [frame for frame in pool.map(self._frame, arrivals) if frame is not None]

    def _frame(self, arrival: Arrival[Picture]) -> CameraFrame | None:
        info = self.infos.get(arrival.channel)
        try:
            image = arrival.payload.decode(arrival.channel, info)
        except FrameError as error:
            self._on_camera_error(arrival.channel, str(error))
            return None
        self._sizes[arrival.channel] = (image.shape[1], image.shape[0])
        return CameraFrame(arrival.channel, image, arrival.stamp_ns, None if info is None else info.intrinsic)

    def _run_experts(self, ready: ReadySet[Picture], frames: list[CameraFrame], economy: Economy) -> tuple[Span, ...]:
        expected = [frame.channel for frame in frames]
        frame_set = FrameSet.of(frames, expected_channels=expected, stamp_ns=ready.stamp_ns)
        encoded = self._pipeline.encode(frame_set, max_tiles=economy.max_tiles, on_tile=self._check_stopped)
        for camera in encoded.cameras:
            self._kept[camera.channel] = _Kept(camera, ready.frames[camera.channel].arrived_ns)
        return encoded.spans

    def _use(self, channel: str, ready: ReadySet[Picture], rules: SyncRules) -> CameraUse:
        kept = self._kept.get(channel)
        if kept is None:
            return CameraUse(channel, CameraState.MISSING)
        stamp_ns = kept.tokens.stamp_ns
        return CameraUse(channel, state_at(stamp_ns, ready.stamp_ns, rules), stamp_ns, kept.arrived_ns)
