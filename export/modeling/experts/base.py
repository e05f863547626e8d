"""What every vision expert declares, and how it takes camera tiles.

Shape letters: T tiles, S side of a tile in pixels, R side of the expert's input in pixels, N tokens, d token width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leo_edge.export.modeling.resample import Resample
from leo_edge.export.weights import Recipe, Recipes, Source

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ExpertSpec:
    """What the rest of the model must know of an expert. Mean and std are of RGB / 255.

    `stem` is the first convolution, into which the normalisation can be folded.
    """

    input_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_tokens: int
    width: int
    stem: str


def square(value: int | Sequence[int] | None, name: str) -> int:
    """Returns the side of a square that a config gives as one number or as two equal ones.

    Raises:
        ValueError: the sides differ, or there is none.
    """
    sides = {value} if isinstance(value, int) else set(value or ())
    if len(sides) != 1:
        raise ValueError(f"{name} must be square, got {value}")
    return sides.pop()


class VisionExpert(nn.Module, ABC):
    """A vision encoder: normalised pixels [T, 3, R, R] -> tokens [T, N, d]."""

    spec: ExpertSpec

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes normalised pixels."""

    @abstractmethod
    def recipes(self, prefix: str, *, original_names: bool) -> Recipes:
        """How each parameter and buffer is made from the tensors under `prefix`.

        `original_names` asks for the key names of LEO's published checkpoints where those differ from transformers'.
        """


class TileEncoder(nn.Module):
    """An expert with its preprocessing: tiles [T, S, S, 3] uint8 RGB -> tokens [T, N, d].

    With `fold` the normalisation is left to the first convolution, whose weights must then come from `recipes`; without it
    this is the reference that the folded form is compared with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, expert: VisionExpert, tile_px: int, resample: str, *, fold: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.expert, self.fold, self.dtype = expert, fold, dtype
        spec = expert.spec
        self.resample = Resample(tile_px, spec.input_px, resample) if tile_px != spec.input_px else None
        self._stem_is_biased = True
        if fold:
            stem = expert.get_submodule(spec.stem)
            assert isinstance(stem, nn.Conv2d)
            if stem.bias is None:  # the folded shift needs one, which no checkpoint holds
                self._stem_is_biased = False
                stem.bias = nn.Parameter(torch.empty(stem.out_channels))
        else:
            self.register_buffer("scale", torch.empty(3, 1, 1), persistent=False)
            self.register_buffer("shift", torch.empty(3, 1, 1), persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        pixels = tiles.to(torch.float32).permute(0, 3, 1, 2)  # cast at once: TensorRT takes bytes in no other operator
        if self.resample is not None:
            pixels = self.resample(pixels)
        if not self.fold:
            pixels = pixels * self.scale + self.shift
        return self.expert(pixels.to(self.dtype))

    def recipes(self, prefix: str, *, original_names: bool) -> Recipes:
        """The expert's recipes, with the normalisation in its first convolution if it is folded."""
        spec = self.expert.spec
        mean, std = torch.tensor(spec.mean, device="cpu"), torch.tensor(spec.std, device="cpu")
        recipes = self.expert.recipes(prefix, original_names=original_names)
        if not self._stem_is_biased:
            del recipes[f"{spec.stem}.bias"]
        if self.fold:
            recipes |= _fold(recipes, spec.stem, 1 / (255 * std), -mean / std)
        made = {f"expert.{name}": recipe for name, recipe in recipes.items()}
        if not self.fold:
            made["scale"] = Recipe((3, 1, 1), (), lambda: (1 / (255 * std))[:, None, None])
            made["shift"] = Recipe((3, 1, 1), (), lambda: (-mean / std)[:, None, None])
        if self.resample is not None:
            made |= {f"resample.{name}": recipe for name, recipe in self.resample.recipes().items()}
        return made


def used_layers(num_layers: int, select_layer: int) -> int:
    """Returns how many layers lie before the selected hidden state; state 0 is the embeddings.

    Raises:
        ValueError: there is no such state.
    """
    used = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 0 <= used <= num_layers:
        raise ValueError(f"select_layer {select_layer} is outside its {num_layers} layers")
    return used


def _fold(recipes: Recipes, stem: str, scale: Tensor, shift: Tensor) -> Recipes:
    """Recipes of a convolution that takes pixels 0..255: w(p * scale + shift) + b = (w * scale) p + (b + sum of w * shift).

    Exact because the first convolutions of these experts pad nothing.
    """
    weight, bias = recipes[f"{stem}.weight"], recipes.get(f"{stem}.bias")
    sources: tuple[Source, ...] = weight.sources + (bias.sources if bias else ())
    split = len(weight.sources)

    def folded_bias(*tensors: Tensor) -> Tensor:
        added = (weight.make(*tensors[:split]).float() * shift[None, :, None, None]).sum(dim=(1, 2, 3))
        return added + bias.make(*tensors[split:]).float() if bias else added

    return {
        f"{stem}.weight": weight.then(lambda tensor: tensor.float() * scale[None, :, None, None], weight.shape),
        f"{stem}.bias": Recipe((weight.shape[0],), sources, folded_bias),
    }
