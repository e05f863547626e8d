"""The graph `tiles` of any tile size, written and opened in onnxruntime, and the tiles that PIL cuts."""

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from leo_edge.export.exporter import graph_spec
from leo_edge.export.stages import tiles_stage
from leo_edge.export.trace import TracedGraph, trace
from leo_edge.export.writer import write_model
from leo_edge.runtime.ort import OrtSession

Uint8 = npt.NDArray[np.uint8]


@functools.cache
def traced_tiles(tile_px: int, opset: int) -> TracedGraph:
    """Traces the graph once; leave it as it is."""
    return trace(tiles_stage(tile_px), opset)


def open_tiles_graph(directory: Path, tile_px: int, opset: int) -> OrtSession:
    """Writes the graph and opens it, as a bundle's would be."""
    graph = traced_tiles(tile_px, opset)
    write_model(graph.model, {}, directory, "tiles", lambda _: None)
    spec = graph_spec(tiles_stage(tile_px), graph)
    return OrtSession(directory / spec.file, spec)


def hard_picture(width: int, height: int) -> Uint8:
    """Noise of all grey levels in the left half, in the right hard edges, which overshoot."""
    rng = np.random.default_rng([width, height])
    noise = rng.integers(0, 256, (height, width, 3))
    edges = 255 * (rng.integers(0, 2, (height, width, 3)) > 0)
    return np.where(np.arange(width)[None, :, None] < width // 2, noise, edges).astype(np.uint8)


def tiles_by_pil(image: Uint8, cols: int, rows: int, side: int) -> Uint8:
    """The tiles [T, S, S, 3] of a grid, cut one by one with PIL's own crop.

    Width and height are resized in two calls: so columns come first whatever the version of PIL.
    """
    picture = Image.fromarray(image).resize((cols * side, image.shape[0]), Image.Resampling.BICUBIC)
    whole = picture.resize((cols * side, rows * side), Image.Resampling.BICUBIC)
    corners = [(col * side, row * side) for row in range(rows) for col in range(cols)]
    return np.stack([np.array(whole.crop((left, top, left + side, top + side))) for left, top in corners])


def is_columns_first(image: Uint8, cols: int, rows: int, side: int) -> bool:
    """Whether PIL takes columns first in one call too (Pillow 13.0.0, src/libImaging/Resample.c)."""
    shrunk_rows, shrunk_columns = image.shape[0] - rows * side, image.shape[1] - cols * side
    return not (shrunk_rows > 0 and shrunk_rows > 2 * shrunk_columns)


def difference(got: Uint8, wanted: Uint8) -> npt.NDArray[np.int64]:
    """How many grey levels each value is off."""
    assert got.dtype == wanted.dtype == np.uint8
    assert got.shape == wanted.shape
    off: npt.NDArray[np.int64] = np.abs(got.astype(np.int64) - wanted)
    return off
