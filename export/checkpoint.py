"""Reading a checkpoint directory: config.json, safetensors shards, tokenizer.json. Nothing in it is executed or unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from leo_edge.export.weights import Shape
from leo_edge.runtime.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# Values that other tools store although they follow from the config: read from there, never from the file.
DERIVED_SUFFIXES = ("rotary_emb.inv_freq", "embeddings.position_ids")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its config as read, and the shard and shape of every tensor. No tensor is in memory."""

    directory: Path
    config: Mapping[str, Any]
    shards: Mapping[str, Path]
    shapes: Mapping[str, Shape]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Reads config.json and the shards' headers.

        Raises:
            CheckpointError: a file is missing, truncated, pickled, or names a shard outside the directory.
        """
        config = read_json(directory / "config.json")
        shards: dict[str, Path] = {}
        shapes: dict[str, Shape] = {}
        for path in _shard_paths(directory):
            for key, shape in _header(path).items():
                if key in shards:
                    raise CheckpointError(f"{path.name} and {shards[key].name} both hold the tensor {key}: keep one of them")
                shards[key], shapes[key] = path, shape
        return cls(directory, config, shards, shapes)

    @property
    def tokenizer_path(self) -> Path:
        """The fast tokenizer's file.

        Raises:
            CheckpointError: the checkpoint has none.
        """
        path = self.directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"no tokenizer.json in {self.directory}: save the fast tokenizer there "
                "(transformers: AutoTokenizer.from_pretrained(DIR, use_fast=True).save_pretrained(DIR))"
            )
        return path

    def read(self, key: str) -> torch.Tensor:
        """Reads one tensor. The shard is opened for it alone: its mapped pages go when the tensor goes.

        Raises:
            CheckpointError: the shard cannot be read.
        """
        try:
            with safe_open(self.shards[key], framework="pt") as shard:
                return torch.as_tensor(shard.get_tensor(key))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {key} from {self.shards[key]}: {error}") from error

    def require(self, expected: Mapping[str, Shape], *, ignored: frozenset[str] = frozenset()) -> None:
        """Checks that the checkpoint holds exactly the `expected` tensors, but for derived and `ignored` ones.

        Raises:
            CheckpointError: naming the missing, unexpected and misshapen tensors.
        """
        missing = [key for key in expected if key not in self.shapes]
        unexpected = [
            key for key in self.shapes if key not in expected and key not in ignored and not key.endswith(DERIVED_SUFFIXES)
        ]
        misshapen = [
            f"{key} is {list(self.shapes[key])}, expected {list(shape)}"
            for key, shape in expected.items()
            if key in self.shapes and self.shapes[key] != shape
        ]
        problems = [
            f"{len(found)} {what} ({_some(found)})"
            for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
            if found
        ]
        if problems:
            raise CheckpointError(
                f"the tensors in {self.directory} do not fit its config.json: {'; '.join(problems)}: "
                "convert the checkpoint, or correct the config"
            )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a checkpoint.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no {path.name} in {path.parent}: expected a checkpoint directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def _shard_paths(directory: Path) -> list[Path]:
    """Lists the shards that the index names, or the single file."""
    if not (directory / INDEX_NAME).exists():
        if (directory / SINGLE_NAME).exists():
            return [directory / SINGLE_NAME]
        pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLED_SUFFIXES)
        found = f"only {_some(pickled)}, which would have to be unpickled" if pickled else "no weights"
        raise CheckpointError(f"{directory} holds {found}: expected {SINGLE_NAME} or {INDEX_NAME}; save it as safetensors")
    weight_map = read_json(directory / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{directory / INDEX_NAME} has no weight_map of tensor names to files")
    paths = []
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise CheckpointError(f"{INDEX_NAME} names {name!r}: expected a .safetensors file in {directory}")
        if not (directory / name).is_file():
            raise CheckpointError(f"{INDEX_NAME} names {name}, which is not in {directory}: copy the missing shard")
        paths.append(directory / name)
    return paths


def _header(path: Path) -> dict[str, Shape]:
    """Returns the shape of every tensor in a shard."""
    try:
        with safe_open(path, framework="pt") as shard:
            return {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}): copy it again") from error


def _some(names: list[str], limit: int = 4) -> str:
    """Joins the first few names."""
    return ", ".join(names[:limit]) + (f", ... {len(names) - limit} more" if len(names) > limit else "")
