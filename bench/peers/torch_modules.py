"""A checkpoint's stages as torch modules in float32: what the graphs were traced from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import parse_config
from leo_edge.export.stages import StageOptions, build_stages
from leo_edge.export.weights import load_module


def load_stages(directory: Path, names: tuple[str, ...] = (), *, context_len: int = 4224) -> dict[str, nn.Module]:
    """Loads stages by name; all of them where none is named."""
    checkpoint = Checkpoint.open(directory)
    options = StageOptions(torch.float32, context_len, fused=False, fold=False)
    loaded = {}
    for stage in build_stages(parse_config(checkpoint.config), options):
        if not names or stage.name in names:
            load_module(stage.module, stage.recipes, checkpoint, torch.float32)
            loaded[stage.name] = stage.module
    return loaded


def load_stage(directory: Path, name: str) -> nn.Module:
    """Loads one stage."""
    return load_stages(directory, (name,))[name]
