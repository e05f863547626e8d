"""The vision experts, by the name that a checkpoint's config gives them. Another expert is one more file and one line here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts.base import TileEncoder, VisionExpert
from leo_edge.export.modeling.experts.clip import ClipExpert
from leo_edge.export.modeling.experts.convnext import ConvNextExpert
from leo_edge.export.modeling.experts.internvit import InternVitExpert
from leo_edge.export.modeling.experts.sam import SamExpert
from leo_edge.runtime.errors import CheckpointError

KINDS: dict[str, type[VisionExpert]] = {
    "internvit": InternVitExpert,
    "sam": SamExpert,
    "clip": ClipExpert,
    "convnext": ConvNextExpert,
    # transformers' own names for the same; ConvNeXt has one name only
    "intern_vit_6b": InternVitExpert,
    "internvl_vision": InternVitExpert,
    "sam_vision_model": SamExpert,
    "clip_vision_model": ClipExpert,
}


def build_expert(config: ExpertConfig) -> VisionExpert:
    """Builds an expert on the current device.

    Raises:
        CheckpointError: the kind is unknown, or its settings do not make a model.
    """
    if config.kind not in KINDS:
        raise CheckpointError(f"unknown vision expert {config.kind!r} in config.json: expected one of {', '.join(KINDS)}")
    with _settings_of(config):
        return KINDS[config.kind](config)


def build_encoder(config: ExpertConfig, tile_px: int, *, fold: bool, dtype: torch.dtype) -> TileEncoder:
    """Builds an expert with its preprocessing on the current device.

    Raises:
        CheckpointError: the kind is unknown, or its settings do not make a model or do not fit the tiles.
    """
    expert = build_expert(config)
    with _settings_of(config):
        return TileEncoder(expert, tile_px, config.resample, fold=fold, dtype=dtype)


@contextmanager
def _settings_of(config: ExpertConfig) -> Iterator[None]:
    """Turns what transformers and torch make of impossible settings into our error."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, StrictDataclassError) as error:
        raise CheckpointError(f"the settings of vision expert {config.name} do not make a model: {error}") from error
