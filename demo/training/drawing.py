"""Draws keyframes for training: tiles as the runtime cuts them, dense labels, questions. Several processes, one file each.

Shape letters: N keyframes, T tiles of a keyframe (one per camera), S their side, R and K rows and columns of patches.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.demo.questions.ask import Counts, Question, ask_all, certain_counts
from leo_edge.demo.questions.words import choose
from leo_edge.demo.training.labels import GRID, NUM_CHANNELS, TILE_PX, label
from leo_edge.demo.world.observe import Keyframe, keyframe_time, observe
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import make_scene
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet, RgbImage
from leo_edge.runtime.tiles import TileBatch, TilingConfig

Bytes = npt.NDArray[np.uint8]

# One tile for a whole image: an object that two tiles cut in halves is hard to count.
TILING = TilingConfig(TILE_PX, min_tiles=1, max_tiles=1, use_thumbnail=False)
NUM_TILES = len(NUSCENES_CAMERAS)
KEYFRAMES_PER_SCENE = 4
_LAST_KEYFRAME = 38
_STAMP_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Asking:
    """A drawn keyframe and the questions drawn from its `candidates`, of which `in_doubt` were left out in doubt.

    `counts` is how many of each kind each camera shows, -1 in doubt.
    """

    scene: int
    keyframe: int
    questions: tuple[Question, ...]
    candidates: int
    in_doubt: int
    counts: Counts


@dataclass(frozen=True)
class Chunk:
    """Drawn keyframes: tiles [N, T, S, S, 3], labels [N, cameras, R, K, channels]."""

    tiles: Bytes
    labels: Bytes
    asked: tuple[Asking, ...]


def frame_set_of(keyframe: Keyframe) -> FrameSet:
    """Returns a keyframe's six small images as the runtime takes them."""
    return frame_set(keyframe.number, {channel: drawn.image for channel, drawn in keyframe.drawn.items()})


def frame_set(number: int, images: dict[str, RgbImage]) -> FrameSet:
    """Returns the images of keyframe `number` as the runtime takes them, each camera with its own stamp."""
    start_ns = _STAMP_NS + round(keyframe_time(number) * 1e9)
    frames = [
        CameraFrame(channel, image, stamp_ns=start_ns + RIG[channel].delay_us * 1000) for channel, image in images.items()
    ]
    return FrameSet.of(frames, stamp_ns=start_ns)


def keyframe_numbers(seed: int, scene: int) -> list[int]:
    """Returns the keyframes of a scene that are drawn: spread over the drive, each scene at its own."""
    random = np.random.Generator(np.random.SFC64([seed, scene, 1]))
    stretch = (_LAST_KEYFRAME + 1) / KEYFRAMES_PER_SCENE
    return [int(stretch * i + random.uniform(0, stretch)) for i in range(KEYFRAMES_PER_SCENE)]


def draw_scene(seed: int, index: int) -> Iterator[Keyframe]:
    """Yields the observed keyframes of one scene."""
    scene = make_scene(seed, index)
    for number in keyframe_numbers(seed, index):
        yield observe(scene, number)


def asking_of(keyframe: Keyframe) -> Asking:
    """Returns a keyframe's questions, drawn from all that it can answer."""
    scene = keyframe.scene
    asked = ask_all(keyframe)
    random = np.random.Generator(np.random.SFC64([scene.seed, scene.index, 2, keyframe.number]))
    candidates = len(asked.questions) + asked.in_doubt
    chosen = tuple(choose(asked.questions, random))
    return Asking(scene.index, keyframe.number, chosen, candidates, asked.in_doubt, certain_counts(keyframe))


def draw_chunk(seed: int, scenes: list[int]) -> Chunk:
    """Draws all keyframes of some scenes."""
    count = len(scenes) * KEYFRAMES_PER_SCENE
    tiles = np.empty((count, NUM_TILES, TILE_PX, TILE_PX, 3), np.uint8)
    labels = np.empty((count, len(NUSCENES_CAMERAS), *GRID, NUM_CHANNELS), np.uint8)
    asked: list[Asking] = []
    for index in scenes:
        for keyframe in draw_scene(seed, index):
            row = len(asked)
            tiles[row] = TileBatch.from_frames(frame_set_of(keyframe), TILING).tiles
            labels[row] = [label(keyframe, channel) for channel in NUSCENES_CAMERAS]
            asked.append(asking_of(keyframe))
    return Chunk(tiles, labels, tuple(asked))


def write_chunks(directory: Path, seed: int, scenes: list[int], *, scenes_per_chunk: int, processes: int) -> Iterator[Path]:
    """Draws scenes into files in `directory`, in parallel; yields each file as it is done. What is there already is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = [scenes[i : i + scenes_per_chunk] for i in range(0, len(scenes), scenes_per_chunk)]
    jobs = [(directory / f"chunk-{i:04}", seed, part) for i, part in enumerate(parts)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_write_chunk, jobs)


class Stacked:
    """Arrays of equal rows in several files, taken by row number as if they were one."""

    def __init__(self, parts: list[npt.NDArray[Any]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Returns the rows of some numbers, in memory."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        return np.stack([self._parts[part][row - self._starts[part]] for part, row in zip(owners, rows, strict=True)])


def read_chunks(directory: Path) -> tuple[Stacked, Stacked, list[Asking]]:
    """Returns tiles, labels and questions of all keyframes under `directory`, in order."""
    chunks = [read_chunk(path) for path in sorted(directory.glob("chunk-*"))]
    asked = [entry for chunk in chunks for entry in chunk.asked]
    return Stacked([chunk.tiles for chunk in chunks]), Stacked([chunk.labels for chunk in chunks]), asked


def counts_of(asked: Sequence[Asking]) -> npt.NDArray[np.int64]:
    """Returns the counts of keyframes, [N, cameras, kinds]; -1 in doubt."""
    return np.array([entry.counts for entry in asked], np.int64)


def read_chunk(path: Path) -> Chunk:
    """Reads a chunk; tiles and labels stay on the disk until they are used."""
    asked = json.loads((path / "asked.json").read_text(encoding="utf-8"))
    arrays = [np.load(path / f"{name}.npy", mmap_mode="r") for name in ("tiles", "labels")]
    return Chunk(arrays[0], arrays[1], tuple(_asking(entry) for entry in asked))


def _asking(entry: dict[str, Any]) -> Asking:
    questions = tuple(
        Question(q["kind"], q["form"], tuple(q["slots"]), q["answer"], tuple(q["by_camera"])) for q in entry["questions"]
    )
    counts = tuple(tuple(camera) for camera in entry["counts"])
    return Asking(entry["scene"], entry["keyframe"], questions, entry["candidates"], entry["in_doubt"], counts)


def _write_chunk(job: tuple[Path, int, list[int]]) -> Path:
    path, seed, scenes = job
    if path.is_dir():
        return path
    chunk = draw_chunk(seed, scenes)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    temporary.mkdir()
    np.save(temporary / "tiles.npy", chunk.tiles)
    np.save(temporary / "labels.npy", chunk.labels)
    (temporary / "asked.json").write_text(json.dumps([asdict(entry) for entry in chunk.asked]), encoding="utf-8")
    temporary.rename(path)
    return path
