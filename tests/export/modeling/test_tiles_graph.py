"""modeling/tiles.py: the graph `tiles` in onnxruntime cuts the tiles that PIL cuts, for every grid and size of image."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from leo_edge.export.cost import count_model
from leo_edge.export.lint.graph import TARGETS
from leo_edge.export.lint.lint import lint_graph
from leo_edge.runtime.ort import OrtSession
from leo_edge.runtime.resampling import fixed_point_weights, grid_matrices, is_exact
from tests.export.tiles_graph import (
    Uint8,
    difference,
    hard_picture,
    is_columns_first,
    open_tiles_graph,
    tiles_by_pil,
    traced_tiles,
)

Open = Callable[[int, int], OrtSession]

OPSETS = (20, 24)
GRIDS = [(cols, rows) for cols in range(1, 7) for rows in range(1, 7) if cols * rows <= 6]
# nuScenes, on end, full HD, odd, hardly more and less than a tile, a line of pixels.
SIZES = [(1600, 900), (900, 1600), (1920, 1080), (641, 479), (61, 47), (20, 13), (300, 1)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Opens the graph of a tile size and opset, once."""
    return functools.cache(lambda px, opset: open_tiles_graph(tmp_path_factory.mktemp("tiles"), px, opset))


def cut(session: OrtSession, image: Uint8, cols: int, rows: int, side: int, kernel: str = "bicubic") -> Uint8:
    height, width, _ = image.shape
    tiles: Uint8 = session.run({"image": image, **grid_matrices(width, height, cols, rows, side, kernel)})["tiles"]
    return tiles


def exact(image: Uint8, cols: int, rows: int, side: int) -> bool:
    height, width, _ = image.shape
    return is_exact(fixed_point_weights(width, cols * side)) and is_exact(fixed_point_weights(height, rows * side))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("cols", "rows"), GRIDS)
def test_every_grid_of_up_to_six_tiles_of_a_nuscenes_image(opened: Open, cols: int, rows: int, opset: int) -> None:
    image = hard_picture(1600, 900)
    assert exact(image, cols, rows, 112)
    got = cut(opened(112, opset), image, cols, rows, 112)
    np.testing.assert_array_equal(got, tiles_by_pil(image, cols, rows, 112))
    whole = Image.fromarray(image).resize((cols * 112, rows * 112), Image.Resampling.BICUBIC)
    blocks = np.asarray(whole).reshape(rows, 112, cols, 112, 3).swapaxes(1, 2).reshape(got.shape)
    assert is_columns_first(image, cols, rows, 112)
    np.testing.assert_array_equal(got, blocks)  # one call of PIL, as runtime/tiles.py makes it


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_grid_of_other_sizes_of_image(opened: Open, width: int, height: int, opset: int) -> None:
    image = hard_picture(width, height)
    for cols, rows in GRIDS:
        off = difference(cut(opened(28, opset), image, cols, rows, 28), tiles_by_pil(image, cols, rows, 28))
        assert off.max() <= 1, (cols, rows)
        if exact(image, cols, rows, 28):
            assert off.max() == 0, (cols, rows)


@pytest.mark.parametrize(("opset", "grid"), [(20, (2, 1)), (24, (1, 1))])
def test_tiles_of_the_size_of_the_model(opened: Open, opset: int, grid: tuple[int, int]) -> None:
    image = hard_picture(1600, 900)
    np.testing.assert_array_equal(cut(opened(448, opset), image, *grid, 448), tiles_by_pil(image, *grid, 448))


@pytest.mark.parametrize("grid", [(3, 2), (1, 1)])
def test_an_image_of_4k(opened: Open, grid: tuple[int, int]) -> None:
    image = hard_picture(3840, 2160)
    np.testing.assert_array_equal(cut(opened(448, 20), image, *grid, 448), tiles_by_pil(image, *grid, 448))


def test_bilinear_weights_give_other_pixels(opened: Open) -> None:
    image = hard_picture(641, 479)
    off = difference(cut(opened(28, 20), image, 3, 2, 28, "bilinear"), tiles_by_pil(image, 3, 2, 28))
    assert (off > 1).mean() > 0.4


def test_rows_before_columns_give_other_pixels(opened: Open) -> None:
    """The order shows where the first pass overshoots and is clipped."""
    image = hard_picture(61, 47)
    turned = tiles_by_pil(np.ascontiguousarray(image.swapaxes(0, 1)), 2, 3, 28)  # columns first on the image laid on its side
    back = turned.reshape(3, 2, 28, 28, 3).transpose(1, 0, 3, 2, 4).reshape(6, 28, 28, 3)
    off = difference(cut(opened(28, 20), image, 3, 2, 28), back)
    assert off.max() > 10
    assert (off > 1).mean() > 0.05


def test_tiles_run_row_by_row(opened: Open) -> None:
    image = np.repeat(np.repeat(40 * np.arange(6, dtype=np.uint8).reshape(2, 3), 28, axis=0), 28, axis=1)
    tiles = cut(opened(28, 20), np.repeat(image[..., None], 3, axis=2), 3, 2, 28)
    assert tiles[:, 14, 14, 0].tolist() == [0, 40, 80, 120, 160, 200]


@pytest.mark.parametrize("opset", OPSETS)
def test_the_linter_finds_nothing_and_no_weight_is_in_the_graph(opset: int) -> None:
    traced = traced_tiles(448, opset)
    targets = [target for target in TARGETS.values() if target.max_opset >= opset]
    assert len(targets) == {20: 3, 24: 2}[opset]
    assert lint_graph("tiles", traced.model, targets) == []
    assert traced.recipes == {}
    assert sum(value.const_value.size for value in traced.model.graph.initializers.values() if value.const_value) < 20


def test_bytes_are_at_the_ports_alone_and_all_else_is_float32_or_a_shape() -> None:
    graph = traced_tiles(28, 20).model.graph
    inner = {value.dtype for node in graph for value in node.outputs if value is not graph.outputs[0]}
    assert inner == {ir.DataType.FLOAT, ir.DataType.INT64}
    assert [port.dtype for port in graph.inputs] == [ir.DataType.UINT8] + 4 * [ir.DataType.FLOAT]
    assert graph.outputs[0].dtype == ir.DataType.UINT8


def test_cost_is_that_of_four_products() -> None:
    height, width, rows, cols = 900, 1600, 448, 896
    cost = count_model(traced_tiles(448, 20).model, {"H": height, "W": width, "Y": rows, "X": cols})
    assert cost.by_op == {"MatMul": 2 * 2 * 3 * (height * width * cols + rows * height * cols)}
