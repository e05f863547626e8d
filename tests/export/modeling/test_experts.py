"""modeling/experts: each expert gives the tokens of transformers' own forward on pixels normalised beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts import build_expert
from leo_edge.export.modeling.experts.base import TileEncoder
from leo_edge.export.weights import load_module
from leo_edge.runtime.errors import CheckpointError
from tests.export.checkpoints import (
    CLIP,
    CONVNEXT,
    SAM,
    TILE_PX,
    VIT,
    Json,
    TensorDict,
    Tensors,
    build_clip,
    build_convnext,
    build_sam,
    build_vit,
    internvit_tensors,
    prefixed,
)

Uint8 = npt.NDArray[np.uint8]
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# Folding multiplies weights and pixels in another order.
TOLERANCE = 1e-4
SMALL_SAM: Json = SAM | {"image_size": TILE_PX, "patch_size": 4}
ORIGINAL_VIT: Json = VIT | {"qkv_bias": True, "qk_normalization": False}


@dataclass(frozen=True)
class Case:
    """An expert as a checkpoint states it, and transformers' tokens [T, N, d] of normalised pixels [T, 3, R, R]."""

    config: ExpertConfig
    tensors: Tensors
    tokens_of: Callable[[Tensor], Tensor]
    statistics: Statistics
    original_names: bool = False


def internvit_case(
    select_layer: int = -1, *, settings: Json = ORIGINAL_VIT, original_names: bool = True, qk_norm: bool = False
) -> Case:
    vit = build_vit(torch.Generator().manual_seed(0), use_qk_norm=qk_norm)
    tensors = internvit_tensors(vit, "it.") if original_names else prefixed(vit, "it.")

    def tokens_of(pixels: Tensor) -> Tensor:
        hidden: Tensor = vit(pixels, output_hidden_states=True).hidden_states[select_layer]
        return hidden[:, 1:]

    return Case(ExpertConfig("vit", "internvit", settings, select_layer), tensors, tokens_of, IMAGENET, original_names)


def sam_case(settings: Json = SMALL_SAM) -> Case:
    sam = build_sam(settings, torch.Generator().manual_seed(0))

    def tokens_of(pixels: Tensor) -> Tensor:
        tokens: Tensor = sam(pixels).last_hidden_state.flatten(2).transpose(1, 2)
        return tokens

    return Case(ExpertConfig("sam", "sam", settings), prefixed(sam, "it."), tokens_of, IMAGENET)


def clip_case(select_layer: int = -2) -> Case:
    clip = build_clip(torch.Generator().manual_seed(0))

    def tokens_of(pixels: Tensor) -> Tensor:
        hidden: Tensor = clip(pixels, output_hidden_states=True).hidden_states[select_layer]
        return hidden[:, 1:]

    config = ExpertConfig("clip", "clip_vision_model", CLIP, select_layer)
    return Case(config, prefixed(clip, "it."), tokens_of, OPENAI_CLIP)


def convnext_case() -> Case:
    convnext = build_convnext(torch.Generator().manual_seed(0))

    def tokens_of(pixels: Tensor) -> Tensor:
        tokens: Tensor = convnext(pixels).last_hidden_state.flatten(2).transpose(1, 2)
        return tokens

    config = ExpertConfig("convnext", "convnext", CONVNEXT)
    return Case(config, prefixed(convnext, "it."), tokens_of, OPENAI_CLIP)


CASES: dict[str, Callable[[], Case]] = {
    "internvit": internvit_case,
    "internvit, layer before the last": lambda: internvit_case(-2),
    "internvit, embeddings": lambda: internvit_case(0),
    "internvit with normalised queries": lambda: internvit_case(
        settings=ORIGINAL_VIT | {"qk_normalization": True}, qk_norm=True
    ),
    "internvit under transformers' names": lambda: internvit_case(
        settings=VIT | {"attention_bias": True}, original_names=False
    ),
    "sam": sam_case,
    "sam without positions": lambda: sam_case(SMALL_SAM | {"use_abs_pos": False, "use_rel_pos": False}),
    "clip": clip_case,
    "clip, last layer": lambda: clip_case(-1),
    "clip, layer counted from the front": lambda: clip_case(1),
    "convnext": convnext_case,
}


def random_tiles(count: int = 2, side: int = TILE_PX) -> Uint8:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def normalised(tiles: Uint8, case: Case) -> Tensor:
    """Tiles [T, R, R, 3] as transformers' processors give them to a model: [T, 3, R, R]."""
    mean, std = (np.array(each) for each in case.statistics)
    return torch.from_numpy((tiles / 255 - mean) / std).permute(0, 3, 1, 2).float()


def tokens_from(case: Case, tiles: Uint8, *, fold: bool) -> Tensor:
    """Our tokens of tiles [T, S, S, 3]."""
    with torch.device("meta"):
        expert = build_expert(case.config)
        encoder = TileEncoder(expert, tiles.shape[1], case.config.resample, fold=fold, dtype=torch.float32)
    recipes = encoder.recipes("it.", original_names=case.original_names)
    load_module(encoder, recipes, TensorDict(case.tensors), torch.float32)
    tokens: Tensor = encoder.eval()(torch.from_numpy(tiles))
    assert tokens.shape[1:] == (expert.spec.num_tokens, expert.spec.width)
    return tokens


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "unfolded"])
def test_tokens_are_those_of_transformers(case: Case, fold: bool) -> None:
    tiles = random_tiles()
    expected = case.tokens_of(normalised(tiles, case))
    torch.testing.assert_close(tokens_from(case, tiles, fold=fold), expected, rtol=0, atol=TOLERANCE)
    assert float(expected.std()) > 0.1


def test_other_statistics_give_other_tokens(case: Case) -> None:
    tiles = random_tiles()
    wrong = OPENAI_CLIP if case.statistics is IMAGENET else IMAGENET
    expected = case.tokens_of(normalised(tiles, Case(case.config, case.tensors, case.tokens_of, wrong)))
    assert float((tokens_from(case, tiles, fold=True) - expected).abs().max()) > 10 * TOLERANCE


def test_red_and_blue_are_not_exchanged(case: Case) -> None:
    tiles = random_tiles()
    expected = case.tokens_of(normalised(tiles[..., ::-1].copy(), case))
    assert float((tokens_from(case, tiles, fold=True) - expected).abs().max()) > 0.05


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("tile_px", [TILE_PX // 2 + 1, 2 * TILE_PX])
def test_tiles_of_another_size_are_resized_as_pil_does(tile_px: int, fold: bool) -> None:
    case, tiles = sam_case(), random_tiles(side=tile_px)
    pictures = [Image.fromarray(tile).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC) for tile in tiles]
    expected = case.tokens_of(normalised(np.stack([np.asarray(picture) for picture in pictures]), case))
    torch.testing.assert_close(tokens_from(case, tiles, fold=fold), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("make", [internvit_case, clip_case])
@pytest.mark.parametrize("select_layer", [-5, 4])
def test_layer_that_is_not_there_is_refused(make: Callable[[int], Case], select_layer: int) -> None:
    case = make(-1)
    config = ExpertConfig("front", case.config.kind, case.config.settings, select_layer)
    message = rf"^the settings of vision expert front do not make a model: select_layer {select_layer} is outside its \d"
    with pytest.raises(CheckpointError, match=message):
        build_expert(config)


def test_layer_of_sam_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expert sam do not .*: select_layer must be -1 for SAM, .* got -2$"):
        build_expert(ExpertConfig("sam", "sam", SMALL_SAM, select_layer=-2))


def test_layer_of_convnext_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expert stages do not .*: select_layer must be -1 for ConvNeXt, .* got -2$"):
        build_expert(ExpertConfig("stages", "convnext", CONVNEXT, select_layer=-2))


def test_image_that_convnext_would_cut_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"image_size must be a multiple of the stride, 16, got 72$"):
        build_expert(ExpertConfig("stages", "convnext", CONVNEXT | {"image_size": 72}))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^unknown vision expert 'pix2struct' in config.json: expected one of inte"):
        build_expert(ExpertConfig("front", "pix2struct", {}))


def test_unknown_resample_is_refused() -> None:
    case = sam_case()
    config = ExpertConfig("sam", "sam", SMALL_SAM, resample="lanczos")
    with pytest.raises((CheckpointError, ValueError), match=r"unknown resample 'lanczos'"):
        tokens_from(Case(config, case.tensors, case.tokens_of, IMAGENET), random_tiles(side=32), fold=True)
