"""Checkpoints with random weights, in the very layout of real ones: to try, test and measure without trained weights."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from leo_edge.export.byte_tokenizer import byte_tokenizer
from leo_edge.export.checkpoint import INDEX_NAME, SINGLE_NAME
from leo_edge.export.config import parse_config
from leo_edge.export.presets import PRESETS
from leo_edge.export.stages import expected_tensors
from leo_edge.export.weights import Shape
from leo_edge.runtime.errors import BundleError, CheckpointError
from leo_edge.runtime.new_directory import new_directory

SHARD_BYTES = 2 << 30


def write_random_checkpoint(preset: str, directory: Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes config.json, tokenizer.json and the weights of a preset, shard by shard. The same seed gives the same bytes.

    Raises:
        CheckpointError: there is no such preset.
        BundleError: something is already at `directory`.
    """
    if preset not in PRESETS:
        raise CheckpointError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
    write_config_checkpoint(PRESETS[preset], directory, seed=seed, shard_bytes=shard_bytes)


def write_config_checkpoint(raw: dict[str, Any], directory: Path, *, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a random checkpoint of any config."""
    if seed < 0:
        raise CheckpointError(f"seed must be 0 or more, got {seed}")
    config = parse_config(raw)
    dtype: torch.dtype = getattr(torch, raw.get("torch_dtype", "float32"))
    shapes = expected_tensors(config)
    with new_directory(directory, BundleError) as temporary:
        (temporary / "config.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        byte_tokenizer(config).save(str(temporary / "tokenizer.json"))
        _write_shards(shapes, temporary, dtype, seed, shard_bytes)


def _write_shards(shapes: dict[str, Shape], directory: Path, dtype: torch.dtype, seed: int, shard_bytes: int) -> None:
    shards = list(_split(shapes, shard_bytes // dtype.itemsize))
    names = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    names = names if len(shards) > 1 else [SINGLE_NAME]
    total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    with tqdm(total=total, unit="B", unit_scale=True, desc="random weights", disable=None) as bar:
        for name, keys in zip(names, shards, strict=True):
            tensors = {}
            for key in keys:
                tensors[key] = random_tensor(key, shapes[key], seed).to(dtype)
                bar.update(tensors[key].nbytes)
            save_file(tensors, directory / name, metadata={"format": "pt"})
            (directory / name).chmod(0o644)  # safetensors writes files that only their owner can read
    if len(shards) > 1:
        weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _split(shapes: dict[str, Shape], shard_numbers: int) -> Iterator[list[str]]:
    """Yields the keys of each shard, of at most `shard_numbers` numbers unless one tensor has more."""
    keys: list[str] = []
    held = 0
    for key, shape in shapes.items():
        count = math.prod(shape)
        if keys and held + count > shard_numbers:
            yield keys
            keys, held = [], 0
        keys.append(key)
        held += count
    yield keys


def random_tensor(key: str, shape: Shape, seed: int) -> torch.Tensor:
    """Draws one tensor, the same whatever else is drawn: norms near one, biases small, matrices keeping their input's size."""
    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(key.encode())]))
    values = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
    if len(shape) == 1:
        is_norm = key.endswith(".weight") or ".ls" in key
        return values.mul_(0.05).add_(1.0 if is_norm else 0.0)
    return values.div_(math.sqrt(math.prod(shape[1:])))
