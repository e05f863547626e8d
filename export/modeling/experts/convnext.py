"""ConvNeXt (arXiv 2201.03545), a vision expert of LEO-MINI, through transformers' ConvNextModel."""

from __future__ import annotations

from torch import Tensor
from transformers import ConvNextConfig, ConvNextModel

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts.base import CLIP_MEAN, CLIP_STD, ExpertSpec, VisionExpert, square
from leo_edge.export.weights import Recipes, own_names


class ConvNextExpert(VisionExpert):
    """The last stage's feature map, row by row: [T, (R / stride)^2, d]; the stride doubles with every stage but the first.

    Normalised like CLIP, since LEO-MINI takes CLIP's ConvNeXt. Keys are transformers' own in every layout.
    """

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        if config.select_layer != -1:
            raise ValueError(f"select_layer must be -1 for ConvNeXt, the last of its stages, got {config.select_layer}")
        vision = ConvNextConfig(**dict(config.settings))
        self.model = ConvNextModel(vision)
        sizes, depths = vision.hidden_sizes or (), vision.depths or ()  # transformers puts its defaults for None
        side, stride = square(vision.image_size, "image_size"), vision.patch_size * 2 ** (len(depths) - 1)
        if side % stride:
            raise ValueError(f"image_size must be a multiple of the stride, {stride}, got {side}")
        self.spec = ExpertSpec(
            input_px=side,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            num_tokens=(side // stride) ** 2,
            width=sizes[-1],
            stem="model.embeddings.patch_embeddings",
        )

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.model.embeddings(pixels)
        for stage in self.model.encoder.stages:
            hidden = stage(hidden)
        return hidden.flatten(2).transpose(1, 2)

    def recipes(self, prefix: str, *, original_names: bool) -> Recipes:
        return {f"model.{name}": recipe for name, recipe in own_names(self.model, prefix).items()}
