"""Tiles of a camera set: the graph `tiles` in onnxruntime against the host, interleaved: `python bench/peers/tiles.py`, see -h.

Printed are medians and 99th percentiles over the rounds, how many times longer the graph takes, and by how many grey levels its
tiles are off at most. Six frames of 1600x900 pixels, those of a dataset in nuScenes format or noise, are cut into tiles of 448
pixels as the presets of LEO and LEO-MINI say (two tiles and a thumbnail, and two), and into one.

On a CPU the graph is much the slower: its products are dense and 99 % of their weights are zero. It is written for the
tensor cores of a GPU, whose part `--backend ort-cuda` measures, with the copies to it and back.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from leo_edge.export.config import parse_config
from leo_edge.export.exporter import graph_spec
from leo_edge.export.presets import PRESETS
from leo_edge.export.stages import OPSET_PLAIN, tiles_stage
from leo_edge.export.trace import trace
from leo_edge.export.writer import write_model
from leo_edge.replay.nuscenes_source import NuScenesOptions
from leo_edge.replay.source import plan_sets
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from leo_edge.runtime.graph_tiler import GraphTiler
from leo_edge.runtime.ort import OrtSession, describe_backend
from leo_edge.runtime.resize import describe_resizer
from leo_edge.runtime.tiles import TileBatch, TilingConfig

TILE_PX = 448
CONFIGS = {
    "LEO": parse_config(PRESETS["leo-7b"]).tiling,
    "LEO-MINI": parse_config(PRESETS["leo-mini-8b"]).tiling,
    "one tile": TilingConfig(TILE_PX, max_tiles=1),
}


def open_graph(threads: int, backend: str) -> OrtSession:
    """Writes the graph as a bundle of this tile size has it, and opens it."""
    stage = tiles_stage(TILE_PX)
    graph = trace(stage, OPSET_PLAIN)
    spec = graph_spec(stage, graph)
    with tempfile.TemporaryDirectory() as directory:
        write_model(graph.model, {}, Path(directory), stage.name, lambda _: None)
        return OrtSession(Path(directory) / spec.file, spec, threads=threads, backend=backend)


def frame_set(nuscenes: Path | None) -> FrameSet:
    """Returns the first frame set of a dataset, or noise."""
    if nuscenes is not None:
        source = NuScenesOptions(nuscenes).open()
        return plan_sets(source.drive(source.drive_names()[0]))[0].load()
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (900, 1600, 3), dtype=np.uint8) for _ in NUSCENES_CAMERAS]
    return FrameSet.of(map(CameraFrame, NUSCENES_CAMERAS, images))


def by_graph(tiler: GraphTiler, frames: FrameSet, config: TilingConfig) -> npt.NDArray[np.uint8]:
    """Returns the tiles of all cameras [T, S, S, 3]."""
    return np.concatenate([part for camera in tiler.cut(frames, config) for part in camera.parts])


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuscenes", type=Path, metavar="ROOT", help="take real frames from this dataset")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime; 0: its own choice")
    parser.add_argument("--backend", default="ort", choices=["ort", "ort-cuda"])
    args = parser.parse_args()
    frames = frame_set(args.nuscenes)
    tiler = GraphTiler(open_graph(args.threads, args.backend))
    print(f"{describe_backend(args.backend)}, resize on the host: {describe_resizer()}, {os.cpu_count()} CPUs")
    print(f"{len(frames.frames)} frames, {args.rounds} rounds after one to warm up\n")
    header = "".join(
        f"{name:>12}" for name in ("tiles", "host p50", "host p99", "graph p50", "graph p99", "ratio", "grey levels")
    )
    print(f"{'ms per set':<12}{header}")
    for name, config in CONFIGS.items():
        times: list[tuple[int, int]] = []
        for _ in range(args.rounds + 1):
            start = perf_counter_ns()
            wanted = TileBatch.from_frames(frames, config).tiles
            between = perf_counter_ns()
            got = by_graph(tiler, frames, config)
            times.append((between - start, perf_counter_ns() - between))
        off = int(np.abs(got.astype(np.int16) - wanted).max())
        host, graph = (np.percentile([row[i] for row in times[1:]], (50, 99)) / 1e6 for i in range(2))
        numbers = "".join(f"{value:>12.1f}" for value in (*host, *graph, graph[0] / host[0]))
        print(f"{name:<12}{len(wanted):>12}{numbers}{off:>12}", flush=True)


if __name__ == "__main__":
    main()
