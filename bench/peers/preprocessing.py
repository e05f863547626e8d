"""Six JPEGs to tiles: ours against transformers and OpenCV, interleaved: `python bench/peers/preprocessing.py`, see -h.

Six JPEGs of 1600x900 pixels, each camera's first of a dataset in nuScenes format or noise, become 18 tiles of 448 pixels, as
LEO has them. Printed are, for each way, the median and the 99th percentile over the rounds, how many times longer transformers
takes, and how far its pixels are from Pillow's in grey levels: on average, and at most.

transformers is InternVL's image processor (GotOcr2ImageProcessorPil), with Pillow's decoding. It also normalises, which in a
bundle the vision expert does; its pixels are read back from its tensors. Everything else has a thread for each camera, on as
many CPUs as --cpus says.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg
import torch
import transformers
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from leo_edge.export.config import parse_config
from leo_edge.export.presets import PRESETS
from leo_edge.runtime.frames import NUSCENES_CAMERAS, NUSCENES_PX, CameraFrame, FrameSet, decode_image, load_frames
from leo_edge.runtime.jpeg import describe_decoder
from leo_edge.runtime.resize import describe_resizer, resize
from leo_edge.runtime.tiles import TileBatch

Uint8 = npt.NDArray[np.uint8]

TILING = parse_config(PRESETS["leo-7b"]).tiling
SIDE = TILING.tile_px
SIZES = [(2 * SIDE, SIDE), (SIDE, SIDE)]  # of the grid and the thumbnail of such an image


def jpegs(nuscenes: Path | None) -> list[bytes]:
    """Returns each camera's first image of a dataset, or six of noise."""
    if nuscenes is not None:
        return [min((nuscenes / "samples" / channel).glob("*.jpg")).read_bytes() for channel in NUSCENES_CAMERAS]
    return [noise(seed) for seed in range(len(NUSCENES_CAMERAS))]


def noise(seed: int) -> bytes:
    """Returns a JPEG of soft noise, some 150 kB as those of nuScenes."""
    width, height = NUSCENES_PX
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()


def by_us(data: list[bytes]) -> Uint8:
    """Returns the tiles of all images, as the pipeline has them."""
    loads = [partial(load, channel, one) for channel, one in zip(NUSCENES_CAMERAS, data, strict=True)]
    return TileBatch.from_frames(FrameSet.of(load_frames(loads)), TILING).tiles


def load(channel: str, data: bytes) -> CameraFrame:
    """Decodes a camera's image."""
    return CameraFrame(channel, decode_image(data, channel))


def decoded_by_pillow(data: bytes) -> Uint8:
    """Decodes an image."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def scaled(data: bytes) -> Uint8:
    """Decodes to the least of libjpeg's scales that leaves no tile to be enlarged: 5/8."""
    return simplejpeg.decode_jpeg(data, "RGB", min_width=SIZES[0][0], min_height=SIZES[0][1])


def by_opencv(image: Uint8, sizes: list[tuple[int, int]], *, interpolation: int) -> list[Uint8]:
    """Resizes an image to each size."""
    return [cv2.resize(image, size, interpolation=interpolation) for size in sizes]


def in_threads(decode: Callable[[bytes], Uint8], resize_all: Callable[..., list[Uint8]], data: list[bytes]) -> Uint8:
    """Returns the tiles of all images, each in a thread of its own."""
    tiles = np.empty((len(data), 3, SIDE, SIDE, 3), np.uint8)

    def one(number: int) -> None:
        grid, thumbnail = resize_all(decode(data[number]), SIZES)
        tiles[number, :2] = grid.reshape(SIDE, 2, SIDE, 3).swapaxes(0, 1)
        tiles[number, 2] = thumbnail

    with ThreadPoolExecutor(len(data)) as pool:
        list(pool.map(one, range(len(data))))
    return tiles.reshape(-1, SIDE, SIDE, 3)


class Transformers:
    """The image processor of InternVL as LEO would use it."""

    def __init__(self) -> None:
        tiles = {"crop_to_patches": True, "min_patches": TILING.min_tiles, "max_patches": TILING.max_tiles}
        self._processor: Any = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, **tiles)

    def __call__(self, data: list[bytes]) -> torch.Tensor:
        """Returns normalised tiles [T, 3, S, S]."""
        images = [Image.open(io.BytesIO(one)).convert("RGB") for one in data]
        tiles: torch.Tensor = self._processor(images, return_tensors="pt")["pixel_values"]
        return tiles

    def pixels(self, tiles: torch.Tensor) -> Uint8:
        """Returns the pixels that normalised tiles were made of."""
        mean, std = (np.array(values)[:, None, None] for values in (self._processor.image_mean, self._processor.image_std))
        return np.rint((tiles.numpy() * std + mean) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def ways(theirs: Transformers) -> dict[str, Callable[[list[bytes]], Any]]:
    """Returns all ways by name, transformers first."""
    pillow = partial(resize, compiled=False)
    opencv = {
        f"OpenCV, {name}": partial(in_threads, simplejpeg.decode_jpeg, partial(by_opencv, interpolation=how))
        for name, how in (("linear", cv2.INTER_LINEAR), ("cubic", cv2.INTER_CUBIC), ("area", cv2.INTER_AREA))
    }
    return {
        "transformers": theirs,
        "Pillow": partial(in_threads, decoded_by_pillow, pillow),
        "leo_edge, Pillow decodes": partial(in_threads, decoded_by_pillow, resize),
        "leo_edge": by_us,
        **opencv,
        "OpenCV, linear, 5/8 JPEG": partial(in_threads, scaled, partial(by_opencv, interpolation=cv2.INTER_LINEAR)),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuscenes", type=Path, metavar="ROOT", help="take real frames from this dataset")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="that may be used (default 2)")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cpus])
    torch.set_num_threads(args.cpus)
    cv2.setNumThreads(1)  # the cameras' own threads are enough
    data, theirs = jpegs(args.nuscenes), Transformers()
    everyone = ways(theirs)
    versions = f"transformers {transformers.__version__}, Pillow {PIL.__version__}, OpenCV {cv2.__version__}"
    print(f"{versions}; leo_edge: {describe_decoder()}, resize {describe_resizer()}")
    print(f"six JPEGs of {sum(map(len, data)) / 1000:.0f} kB, {args.cpus} CPUs, {args.rounds} rounds after one to warm up\n")
    times: dict[str, list[float]] = {name: [] for name in everyone}
    for _ in range(args.rounds + 1):
        for name, way in everyone.items():
            start = perf_counter_ns()
            way(data)
            times[name].append((perf_counter_ns() - start) / 1e6)
    wanted = everyone["Pillow"](data).astype(np.int16)
    baseline = np.median(times["transformers"][1:])
    print(f"{'':<26}{'p50 ms':>9}{'p99 ms':>9}{'faster':>9}{'mean off':>10}{'max off':>9}")
    for name, way in everyone.items():
        got = theirs.pixels(way(data)) if way is theirs else way(data)
        off = np.abs(got - wanted)
        p50, p99 = np.percentile(times[name][1:], (50, 99))
        print(f"{name:<26}{p50:>9.1f}{p99:>9.1f}{baseline / p50:>8.1f}x{off.mean():>10.3f}{off.max():>9}", flush=True)


if __name__ == "__main__":
    main()
