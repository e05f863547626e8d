"""SAM's image encoder (Segment Anything, arXiv 2304.02643), LEO's second vision expert, through transformers' module."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts.base import IMAGENET_MEAN, IMAGENET_STD, ExpertSpec, VisionExpert, square
from leo_edge.export.weights import Recipes, own_names


class SamExpert(VisionExpert):
    """The neck's feature map, row by row: [T, (R / patch)^2, output_channels]. Keys are transformers' own in every layout."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        if config.select_layer != -1:
            raise ValueError(f"select_layer must be -1 for SAM, whose tokens come from its neck, got {config.select_layer}")
        vision = SamVisionConfig(**dict(config.settings) | {"attn_implementation": "eager"})
        self.model = SamVisionEncoder(vision)
        side, patch = square(vision.image_size, "image_size"), square(vision.patch_size, "patch_size")
        for module in self.model.modules():
            if isinstance(module, SamVisionAttention):
                vars(module)["get_rel_pos"] = relative_positions  # before the class's own method
        self.spec = ExpertSpec(
            input_px=side,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            num_tokens=(side // patch) ** 2,
            width=vision.output_channels,
            stem="model.patch_embed.projection",
        )

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.model.patch_embed(pixels)
        if self.model.pos_embed is not None:
            hidden = hidden + self.model.pos_embed
        for layer in self.model.layers:
            hidden = layer(hidden)
        return self.model.neck(hidden).flatten(2).transpose(1, 2)

    def recipes(self, prefix: str, *, original_names: bool) -> Recipes:
        return {f"model.{name}": recipe for name, recipe in own_names(self.model, prefix).items()}


def relative_positions(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Returns rel_pos [2 * size - 1, c] laid out by query and key, [size, size, c].

    Takes the place of transformers' method, which resamples the table first: a no-op at the model's own size, and there is
    no other here, but one that leaves a Resize in the graph.
    """
    assert q_size == k_size
    assert rel_pos.shape[0] == 2 * q_size - 1
    steps = torch.arange(q_size)
    return rel_pos[steps[:, None] - steps[None, :] + q_size - 1]
