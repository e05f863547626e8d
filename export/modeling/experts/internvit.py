"""InternViT, LEO's first vision expert (InternVL, arXiv 2312.14238), through transformers' InternVLVisionModel."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts.base import IMAGENET_MEAN, IMAGENET_STD, ExpertSpec, VisionExpert, square, used_layers
from leo_edge.export.weights import Recipes, own_names, renamed, rows

# LEO's name of a tensor outside the q, k, v projections, by transformers' name.
_TOP = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.patch_embeddings.projection.": "embeddings.patch_embedding.",
}
_LAYER = {
    "attention.projection_layer.": "attn.proj.",
    "attention.q_norm.": "attn.q_norm.",
    "attention.k_norm.": "attn.k_norm.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "mlp.": "mlp.",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}


# Kinds whose settings have the names and defaults of LEO's published configs; others have transformers'.
LEO_KINDS = ("internvit", "intern_vit_6b")


class InternVitExpert(VisionExpert):
    """Patch tokens of the selected hidden state, without the class token: [T, (R / patch)^2, d]."""

    def __init__(self, config: ExpertConfig) -> None:
        super().__init__()
        settings = _with_transformers_names(dict(config.settings)) if config.kind in LEO_KINDS else dict(config.settings)
        vision = InternVLVisionConfig(**settings | {"attn_implementation": "eager"})
        self.model = InternVLVisionModel(vision)
        self.num_used_layers = used_layers(vision.num_hidden_layers, config.select_layer)
        side, patch = square(vision.image_size, "image_size"), square(vision.patch_size, "patch_size")
        self.spec = ExpertSpec(
            input_px=side,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            num_tokens=(side // patch) ** 2,
            width=vision.hidden_size,
            stem="model.embeddings.patch_embeddings.projection",
        )

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.model.embeddings(pixels)
        for layer in self.model.encoder.layer[: self.num_used_layers]:
            hidden = layer(hidden)
        if self.num_used_layers == len(self.model.encoder.layer):
            hidden = self.model.layernorm(hidden)
        return hidden[:, 1:]

    def recipes(self, prefix: str, *, original_names: bool) -> Recipes:
        if not original_names:
            return {f"model.{name}": recipe for name, recipe in own_names(self.model, prefix).items()}
        made: Recipes = {}
        for name, parameter in self.model.named_parameters():
            shape = tuple(parameter.shape)
            if name.startswith("encoder.layer."):
                _, _, index, inner = name.split(".", 3)
                layer = f"{prefix}encoder.layers.{index}."
                part = "qkv".find(inner[len("attention.")]) if "_proj." in inner else -1
                if part >= 0:
                    stored = (3 * shape[0], *shape[1:])
                    key = f"{layer}attn.qkv.{inner.rpartition('.')[2]}"
                    made[f"model.{name}"] = rows(key, stored, part * shape[0], (part + 1) * shape[0])
                    continue
                key = layer + _substitute(inner, _LAYER)
            else:
                key = prefix + _substitute(name, _TOP)
            made[f"model.{name}"] = renamed(key, shape)
        return made


def _substitute(name: str, table: dict[str, str]) -> str:
    """Replaces the beginning of a name by its LEO form."""
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _with_transformers_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Renames the fields in which InternViT's own config differs, and spells its defaults out."""
    settings.setdefault("attention_bias", settings.pop("qkv_bias", True))
    settings.setdefault("use_qk_norm", settings.pop("qk_normalization", False))
    settings.setdefault("use_mean_pooling", True)  # no final norm: LEO reads the encoder's output as it is
    return settings
