"""Six JPEGs to the tiles of LEO (two and a thumbnail for each camera), by leo_edge or by transformers; see `protocol.py`.

transformers' tiles are normalized floats; leo_edge's are bytes, since its graphs normalize in their first convolution.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from protocol import rounded, serve
from weights import textured_image

TILE_PX, MAX_TILES = 448, 2
Run = Callable[[list[bytes]], Any]


def leo() -> Run:
    """The runtime's own way from bytes to tiles."""
    from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet, decode_image, load_frames
    from leo_edge.runtime.tiles import TileBatch, TilingConfig

    config = TilingConfig(TILE_PX, max_tiles=MAX_TILES)

    def load(name: str, data: bytes) -> CameraFrame:
        return CameraFrame(name, decode_image(data, name))

    def run(jpegs: list[bytes]) -> Any:
        frames = load_frames([partial(load, name, data) for name, data in zip(NUSCENES_CAMERAS, jpegs, strict=True)])
        return TileBatch.from_frames(FrameSet.of(frames), config).tiles

    return run


def transformers() -> Run:
    """InternVL's image processor, which in transformers is GOT-OCR2's. Six images are given at once."""
    from PIL import Image
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    processor = GotOcr2ImageProcessorPil(
        size={"height": TILE_PX, "width": TILE_PX}, crop_to_patches=True, min_patches=1, max_patches=MAX_TILES
    )

    def run(jpegs: list[bytes]) -> Any:
        images = [Image.open(io.BytesIO(data)) for data in jpegs]
        return processor(images, return_tensors="np")["pixel_values"]

    return run


KINDS: dict[str, Callable[[], Run]] = {"leo": leo, "transformers": transformers}


def jpegs_of(nuscenes: Path | None) -> list[bytes]:
    """Returns a frame set's JPEGs of a dataset in nuScenes format, or drawn ones of the same size."""
    if nuscenes is not None:
        from leo_edge.runtime.frames import NUSCENES_CAMERAS

        return [next(iter(sorted((nuscenes / "samples" / name).glob("*.jpg")))).read_bytes() for name in NUSCENES_CAMERAS]
    from PIL import Image

    found = []
    for seed in range(6):
        file = io.BytesIO()
        Image.fromarray(textured_image(seed)).save(file, "JPEG", quality=80)
        found.append(file.getvalue())
    return found


def as_bytes(tiles: Any) -> Any:
    """Returns tiles [T, S, S, 3] as bytes, whoever made them."""
    if tiles.dtype == np.uint8:
        return tiles
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    return np.rint((tiles.transpose(0, 2, 3, 1) * OPENAI_CLIP_STD + OPENAI_CLIP_MEAN) * 255).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("--nuscenes", type=Path, metavar="ROOT", help="take real images from this dataset")
    args = parser.parse_args()
    engine, jpegs = KINDS[args.kind](), jpegs_of(args.nuscenes)

    def run() -> dict[str, Any]:
        start_ns = perf_counter_ns()
        engine(jpegs)
        return {"ms": {"tiles": (perf_counter_ns() - start_ns) / 1e6}}

    def check() -> dict[str, Any]:
        tiles = as_bytes(engine(jpegs))
        return {"values": rounded(tiles), "control": rounded(tiles[:, ::-1]), "shape": list(tiles.shape)}

    serve({"run": run, "check": check})


if __name__ == "__main__":
    main()
