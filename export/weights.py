"""Weights described before they are read: which checkpoint tensors a parameter is made from, and how.

A `Recipe` knows its shape without touching a file, so graphs are built with no weights in memory and each tensor is read,
transformed and written on its own. The same recipes fill torch modules, list a checkpoint's expected keys and write
random checkpoints: the layout of a checkpoint is stated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class TensorReader(Protocol):
    """Something that reads a checkpoint's tensors by key."""

    def read(self, key: str) -> Tensor:
        """Returns the tensor stored under `key`, in its stored type."""
        ...


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint: its key and the shape that it must have."""

    key: str
    shape: Shape


@dataclass(frozen=True)
class Recipe:
    """How one tensor of a graph is made: `make` maps the tensors of `sources`, in order, to one of `shape`.

    No source at all makes a constant. Arithmetic in `make` is done in float32 whatever the stored type.
    """

    shape: Shape
    sources: tuple[Source, ...]
    make: Callable[..., Tensor]

    def then(self, step: Callable[[Tensor], Tensor], shape: Shape) -> Recipe:
        """Returns the recipe that applies `step` to this one's result, which then has `shape`."""
        make = self.make
        return Recipe(shape, self.sources, lambda *tensors: step(make(*tensors)))

    def build(self, reader: TensorReader) -> Tensor:
        """Reads the sources and makes the tensor.

        Raises:
            CheckpointError: a source cannot be read.
        """
        made = self.make(*(reader.read(source.key) for source in self.sources))
        assert tuple(made.shape) == self.shape, f"recipe over {self.sources} made {tuple(made.shape)}, not {self.shape}"
        return made


Recipes = dict[str, Recipe]


def renamed(key: str, shape: Iterable[int]) -> Recipe:
    """A checkpoint tensor as it is."""
    shape = tuple(shape)
    return Recipe(shape, (Source(key, shape),), lambda tensor: tensor)


def rows(key: str, stored: Shape, start: int, stop: int) -> Recipe:
    """Rows `start` to `stop` of a checkpoint tensor of shape `stored`."""
    return Recipe((stop - start, *stored[1:]), (Source(key, stored),), lambda tensor: tensor[start:stop])


def constant(value: Tensor) -> Recipe:
    """A tensor that no checkpoint holds, such as rotary frequencies."""
    return Recipe(tuple(value.shape), (), lambda: value)


def own_names(module: nn.Module, prefix: str) -> Recipes:
    """Recipes of a module whose checkpoint keys are `prefix` and its own parameter names."""
    return {name: renamed(prefix + name, parameter.shape) for name, parameter in module.named_parameters()}


def sources_of(recipes: Iterable[Recipe]) -> dict[str, Shape]:
    """Returns every checkpoint key that the recipes read, with its shape, in order of first use."""
    found: dict[str, Shape] = {}
    for recipe in recipes:
        for source in recipe.sources:
            assert found.setdefault(source.key, source.shape) == source.shape, f"two shapes for {source.key}"
    return found


def load_module(module: nn.Module, recipes: Mapping[str, Recipe], reader: TensorReader, dtype: torch.dtype) -> None:
    """Fills a module built on the meta device with real tensors of `dtype`, one at a time."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, old in tensors.items():
        value = recipes[name].build(reader)
        value = value.to(dtype) if value.is_floating_point() else value
        assert value.shape == old.shape, f"{name}: recipe of shape {tuple(value.shape)} for {tuple(old.shape)}"
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        if isinstance(old, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(leaf, value, persistent=False)
