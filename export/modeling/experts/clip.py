"""CLIP's vision transformer (arXiv 2103.00020), a vision expert of LEO-MINI, through transformers' CLIPVisionModel."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts.base import CLIP_MEAN, CLIP_STD, ExpertSpec, VisionExpert, square, used_layers
from leo_edge.export.weights import Recipes, constant, own_names


class ClipExpert(VisionExpert):
    """Patch tokens of the selected hidden state, without the class token. LLaVA-style models select -2."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        vision = CLIPVisionConfig(**dict(config.settings) | {"attn_implementation": "eager"})
        self.model = CLIPVisionModel(vision)
        side, patch = square(vision.image_size, "image_size"), square(vision.patch_size, "patch_size")
        self.num_used_layers = used_layers(vision.num_hidden_layers, config.select_layer)
        self.spec = ExpertSpec(
            input_px=side,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            num_tokens=(side // patch) ** 2,
            width=vision.hidden_size,
            stem="model.embeddings.patch_embedding",
        )

    def forward(self, pixels: Tensor) -> Tensor:
        embeddings = self.model.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = torch.cat([embeddings.class_embedding.expand(pixels.shape[0], 1, -1), patches], dim=1)
        # transformers gathers all positions by their numbers: the whole table.
        hidden = self.model.pre_layrnorm(hidden + embeddings.position_embedding.weight)
        for layer in self.model.encoder.layers[: self.num_used_layers]:
            hidden = layer(hidden, None)
        return hidden[:, 1:]

    def recipes(self, prefix: str, *, original_names: bool) -> Recipes:
        made = {f"model.{name}": recipe for name, recipe in own_names(self.model, prefix).items()}
        positions = torch.arange(self.spec.num_tokens + 1, device="cpu")[None]
        return made | {"model.embeddings.position_ids": constant(positions)}
