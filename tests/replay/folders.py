"""What tests of folders as drives share: a nuScenes scene turned into one, as images or as videos, by the tables alone."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from leo_edge.runtime.frames import NUSCENES_CAMERAS

Record = dict[str, Any]


def table(world: Path, name: str) -> list[Record]:
    (path,) = world.glob(f"v1.0-*/{name}.json")
    records: list[Record] = json.loads(path.read_text())
    return records


def scene_frames(world: Path, scene: str) -> dict[str, list[Record]]:
    """The sample_data of a scene by camera, oldest first."""
    token = next(record["token"] for record in table(world, "scene") if record["name"] == scene)
    samples = {record["token"] for record in table(world, "sample") if record["scene_token"] == token}
    by_camera: dict[str, list[Record]] = defaultdict(list)
    for record in table(world, "sample_data"):
        channel = record["filename"].split("/")[1]
        if record["sample_token"] in samples and channel.startswith("CAM_"):
            by_camera[channel].append(record)
    return {channel: sorted(by_camera[channel], key=lambda record: record["timestamp"]) for channel in NUSCENES_CAMERAS}


def keyframes_of(world: Path, scene: str) -> dict[str, int]:
    """The middle of each keyframe's frames in nanoseconds, by token. A sample's own stamp is off the middle by half a frame."""
    stamps_us: dict[str, list[int]] = defaultdict(list)
    for records in scene_frames(world, scene).values():
        for record in records:
            if record["is_key_frame"]:
                stamps_us[record["sample_token"]].append(record["timestamp"])
    return {token: (min(stamps) + max(stamps)) * 500 for token, stamps in stamps_us.items()}


def write_drive(directory: Path, cameras: Mapping[str, object], **more: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "drive.json").write_text(json.dumps({"cameras": cameras, **more}))
    return directory


def scene_as_images(world: Path, scene: str, directory: Path) -> Path:
    """A folder with a scene's camera frames under their own names."""
    for channel, records in scene_frames(world, scene).items():
        (directory / channel).mkdir(parents=True)
        for record in records:
            shutil.copy(world / record["filename"], directory / channel)
    cameras = {channel: {"images": f"{channel}/*", "stamps_us": "names"} for channel in NUSCENES_CAMERAS}
    return write_drive(directory, cameras, keyframes=keyframes_of(world, scene), keyframe_tolerance_ms=41)


def scene_as_videos(world: Path, scene: str, directory: Path) -> Path:
    """A folder with a lossless video of each camera. Its stamps are whole milliseconds, as Matroska has them."""
    directory.mkdir(parents=True)
    cameras = {}
    for channel, records in scene_frames(world, scene).items():
        first_us = records[0]["timestamp"]
        images = [np.asarray(Image.open(world / record["filename"]).convert("RGB")) for record in records]
        stamps_ms = [round((record["timestamp"] - first_us) / 1e3) for record in records]
        write_video(directory / f"{channel}.mkv", images, stamps_ms)
        cameras[channel] = {"video": f"{channel}.mkv", "start_ns": first_us * 1000}
    return write_drive(directory, cameras, keyframes=keyframes_of(world, scene), keyframe_tolerance_ms=41)


def write_video(path: Path, images: Sequence[np.ndarray[Any, Any]], stamps_ms: Sequence[int], codec: str = "ffv1") -> None:
    """Writes a video with FFmpeg's own library; with ffv1 in RGB its pixels are exact."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=12)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for image, stamp_ms in zip(images, stamps_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp_ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
