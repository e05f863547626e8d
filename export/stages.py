"""A model as its stages: one torch module, one graph, one set of recipes each.

The list of stages is all that export, verify and checkpoint share: export traces each module and streams its recipes, verify
loads the same modules with real weights, checkpoint asks which tensors a model of this config has.

Symbolic dimensions: T tiles of all cameras, I images, M_<expert> tokens of one expert per image, L tokens of the question,
S new tokens, P past tokens, Q new tokens whose logits are wanted, C cache capacity, V_all visual tokens of the prompt; H, W
height and width of a camera's image, Y, X those of its tiles put together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from leo_edge.export.config import LeoConfig, LeoMiniConfig, ModelConfig
from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.llm_layout import embedding_recipe, llm_recipes, router_recipes
from leo_edge.export.modeling.experts import build_encoder
from leo_edge.export.modeling.experts.base import ExpertSpec
from leo_edge.export.modeling.fusion import LeoFusion, LeoMiniFusion
from leo_edge.export.modeling.llm import Llm
from leo_edge.export.modeling.mmoe import RouterContext
from leo_edge.export.modeling.tiles import Tiles
from leo_edge.export.weights import Recipe, Recipes, Shape, own_names, sources_of
from leo_edge.runtime.errors import CheckpointError

Dim = int | str
OPSET_PLAIN, OPSET_FUSED = 20, 24


@dataclass(frozen=True)
class Port:
    """A named input or output of a graph; a string is a symbolic dimension."""

    name: str
    dims: tuple[Dim, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Stage:
    """One graph to be: `module` on the meta device, called with `inputs` in order, each a tensor.

    `multiples` names the symbolic dimensions that are always a multiple of a number.
    """

    name: str
    module: nn.Module
    recipes: Recipes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    multiples: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StageOptions:
    """What decides the graphs beside the model's config. `fold` and `fused` are off in the reference that verify runs."""

    dtype: torch.dtype
    context_len: int
    fused: bool
    fold: bool = True


class FlatFusion(nn.Module):
    """LEO-MINI's fusion with one positional input per expert and the text last."""

    def __init__(self, fusion: LeoMiniFusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, *inputs: Tensor) -> Tensor:
        """See `LeoMiniFusion`."""
        return self.fusion(list(inputs[:-1]), inputs[-1])


class FlatLlm(nn.Module):
    """The language model with its cache as a flat list: keys of all layers, then values of all layers."""

    def __init__(self, llm: Llm) -> None:
        super().__init__()
        self.llm = llm

    def forward(self, embeds: Tensor, positions: Tensor, logit_rows: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """See `Llm`."""
        count = self.llm.config.num_layers
        cache = list(zip(rest[:count], rest[count : 2 * count], strict=True))
        logits, grown = self.llm(embeds, positions, logit_rows, cache, *rest[2 * count :])
        return (logits, *(keys for keys, _ in grown), *(values for _, values in grown))


def build_stages(config: ModelConfig, options: StageOptions) -> Iterator[Stage]:
    """Yields the stages in the order of the data. Modules are on the meta device: nothing is read or allocated.

    Raises:
        CheckpointError: the config does not make a model.
    """
    specs, tile_px = [], config.tiling.tile_px
    for index, expert_config in enumerate(config.experts):
        with torch.device("meta"):
            encoder = build_encoder(expert_config, tile_px, fold=options.fold, dtype=options.dtype)
        prefix, original = _expert_prefix(config, index, expert_config.name)
        recipes = encoder.recipes(prefix, original_names=original)
        spec = encoder.expert.spec
        specs.append(spec)
        tiles = Port("tiles", ("T", tile_px, tile_px, 3), torch.uint8)
        tokens = Port("tokens", ("T", spec.num_tokens, spec.width), options.dtype)
        yield Stage(f"vision.{expert_config.name}", _typed(encoder, options.dtype), recipes, (tiles,), (tokens,))
    yield _fuse_stage(config, specs, options)
    if config.llm.mmoe is not None:
        yield _router_stage(config.llm, options)
    yield llm_stage(config.llm, options)


def tiles_stage(tile_px: int) -> Stage:
    """The graph that cuts a camera's image: the same for every model of this tile size, float32 in every bundle, no weights."""
    inputs = (
        Port("image", ("H", "W", 3), torch.uint8),
        *(Port(f"columns_{part}", ("W", "X"), torch.float32) for part in ("upper", "lower")),
        *(Port(f"rows_{part}", ("Y", "H"), torch.float32) for part in ("upper", "lower")),
    )
    tiles = Port("tiles", ("T", tile_px, tile_px, 3), torch.uint8)
    return Stage("tiles", Tiles(tile_px), {}, inputs, (tiles,), multiples={"X": tile_px, "Y": tile_px})


def embedding_of(config: ModelConfig) -> Recipe:
    """The recipe of the token embedding table."""
    return embedding_recipe(config.llm, "language_model.")


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Returns every tensor that a checkpoint of this config holds, with its shape, used by a graph or not.

    Raises:
        CheckpointError: the config does not make a model.
    """
    options = StageOptions(dtype=torch.float32, context_len=1, fused=False)
    recipes = [recipe for stage in build_stages(config, options) for recipe in stage.recipes.values()]
    return sources_of([*recipes, embedding_of(config)])


def _expert_prefix(config: ModelConfig, index: int, name: str) -> tuple[str, bool]:
    """Returns the key prefix of an expert, and whether its keys have the names of LEO's published checkpoints."""
    return (f"vision_model_{index + 1}.", True) if isinstance(config, LeoConfig) else (f"vision_experts.{name}.", False)


def _fuse_stage(config: ModelConfig, specs: list[ExpertSpec], options: StageOptions) -> Stage:
    widths, hidden = tuple(spec.width for spec in specs), config.llm.hidden_size
    inputs = [
        Port(f"tokens.{expert.name}", (batch, count, spec.width), options.dtype)
        for expert, spec, batch, count in _fuse_dims(config, specs)
    ]
    module: nn.Module
    if isinstance(config, LeoConfig):
        with torch.device("meta"):
            module = LeoFusion(config, (widths[0], widths[1]))
        num_tokens = 2 * _num_interleaved(specs, module.ratios)
        output = Port("visual_embeds", ("T", num_tokens, hidden), options.dtype)
        return Stage("fuse", _typed(module, options.dtype), own_names(module, ""), tuple(inputs), (output,))
    with torch.device("meta"):
        module = FlatFusion(LeoMiniFusion(config.cotr, widths, config.projector_hidden_size or hidden, hidden))
    output = Port("visual_embeds", ("I", config.cotr.num_queries, hidden), options.dtype)
    text = Port("text_embeds", ("L", hidden), options.dtype)
    recipes = {f"fusion.{name}": recipe for name, recipe in own_names(module.fusion, "").items()}
    return Stage("fuse", _typed(module, options.dtype), recipes, (*inputs, text), (output,))


def _num_interleaved(specs: list[ExpertSpec], ratios: tuple[int, int]) -> int:
    """Returns how many tokens each of LEO's experts gives after its pixel unshuffle.

    Raises:
        CheckpointError: a map does not divide, or the two experts' numbers differ.
    """
    sides = [math.isqrt(spec.num_tokens) for spec in specs]
    counts = [(side // ratio) ** 2 for side, ratio in zip(sides, ratios, strict=True)]
    if any(side % ratio for side, ratio in zip(sides, ratios, strict=True)) or counts[0] != counts[1]:
        raise CheckpointError(
            f"maps of {sides[0]} and {sides[1]} tokens a side, unshuffled by {ratios[0]} and {ratios[1]}, do not interleave: "
            "correct image_size, patch_size, downsample_ratio or downsample_ratio2 in config.json"
        )
    return counts[0]


def _fuse_dims(config: ModelConfig, specs: list[ExpertSpec]) -> Iterator[tuple[Any, ExpertSpec, Dim, Dim]]:
    """LEO fuses tile by tile; LEO-MINI image by image, over the tokens of all its tiles."""
    for expert, spec in zip(config.experts, specs, strict=True):
        if isinstance(config, LeoMiniConfig):
            yield expert, spec, "I", f"M_{expert.name}"
        else:
            yield expert, spec, "T", spec.num_tokens


def _router_stage(llm: LlmConfig, options: StageOptions) -> Stage:
    assert llm.mmoe is not None
    with torch.device("meta"):
        module = RouterContext(llm)
    inputs = (
        Port("visual_embeds", ("V_all", llm.hidden_size), options.dtype),
        Port("text_embeds", ("L", llm.hidden_size), options.dtype),
    )
    output = Port("router_context", (llm.num_layers, llm.mmoe.router_hidden_size), options.dtype)
    recipes = router_recipes(llm, "language_model.")
    return Stage("router", _typed(module, options.dtype), recipes, inputs, (output,))


def llm_stage(llm: LlmConfig, options: StageOptions) -> Stage:
    """The language model, without its embedding table."""
    with torch.device("meta"):
        model = Llm(llm, context_len=options.context_len, fused=options.fused)
    heads, dtype = (llm.num_kv_heads, llm.head_dim), options.dtype
    past: tuple[Dim, ...] = (1, heads[0], "C", heads[1]) if options.fused else ("P", *heads)
    new: tuple[Dim, ...] = past if options.fused else ("S", *heads)
    names = [f"{part}.{i}" for part in ("key", "value") for i in range(llm.num_layers)]
    routing: tuple[Port, ...] = ()
    if llm.mmoe is not None:
        routing = (
            Port("router_context", (llm.num_layers, llm.mmoe.router_hidden_size), dtype),
            Port("use_special", (1,), dtype),
        )
    inputs = (
        Port("embeds", ("S", llm.hidden_size), dtype),
        Port("positions", ("S",), torch.int64),
        Port("logit_rows", ("Q",), torch.int64),
        *(Port(f"past_{name}", past, dtype) for name in names),
        *routing,
    )
    outputs = (
        Port("logits", ("Q", llm.vocab_size), torch.float32),
        *(Port(f"new_{name}", new, dtype) for name in names),
    )
    recipes = {f"llm.{name}": recipe for name, recipe in llm_recipes(model, "language_model.").items()}
    return Stage("llm", _typed(FlatLlm(model), dtype), recipes, inputs, outputs)


def _typed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Puts parameters in `dtype`; buffers, which hold constants, stay as they were made."""
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            setattr(child, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
    return module.eval()
