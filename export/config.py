"""The configs of LEO and LEO-MINI, read from a checkpoint's config.json with transformers' field names where they exist.

LEO's fields are those of its published code (`model_type: "hybrid_chat"`); LEO-MINI's layout is ours and is described in
docs/checkpoints.md.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from leo_edge.export.llm_config import LlmConfig, MMoEConfig
from leo_edge.runtime.errors import CheckpointError
from leo_edge.runtime.tiles import TilingConfig

T = TypeVar("T")

LEO_SYSTEM_MESSAGE = (
    "You are LEO, a multimodal large language model developed by Waterloo WISE lab. You are a helpful and harmless AI assistant"
)
# How a camera stands in the user's turn: its name, then its visual embeddings.
CAMERA_LINE = "{camera}: <image>\n"
LEO_MINI_SYSTEM_MESSAGE = "You are a helpful driving assistant that sees through the cameras of a vehicle."


@dataclass(frozen=True)
class ExpertConfig:
    """One vision expert: `kind` names its class, `name` its graph, `settings` are transformers' own config fields.

    `select_layer` counts hidden states as transformers does: 0 is the embeddings, -1 the last layer.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    select_layer: int = -1
    resample: str = "bicubic"


@dataclass(frozen=True)
class LeoConfig:
    """LEO (arXiv 2501.06986): InternViT and SAM, fused after their projectors by interleaving their tokens."""

    experts: tuple[ExpertConfig, ExpertConfig]
    llm: LlmConfig
    tiling: TilingConfig
    template: str
    system_message: str
    downsample_ratio: float = 0.5
    downsample_ratio2: int = 4
    ps_version: str = "v2"
    image_tokens: tuple[str, str, str] = ("<img>", "<IMG_CONTEXT>", "</img>")
    camera_line: str = CAMERA_LINE

    def __post_init__(self) -> None:
        if self.ps_version not in ("v1", "v2"):
            raise CheckpointError(f"ps_version must be 'v1' or 'v2', got {self.ps_version!r}")
        if self.downsample_ratio2 < 1:
            raise CheckpointError(f"downsample_ratio2 must be at least 1, got {self.downsample_ratio2}")
        if self.downsample_ratio <= 0 or (1 / self.downsample_ratio) % 1:
            raise CheckpointError(f"downsample_ratio must be one over a whole number, got {self.downsample_ratio}")


@dataclass(frozen=True)
class CoTRConfig:
    """Sizes of the token reduction (LEO-MINI, section 3.2): Q reduced tokens, projected to `proj_dim` for the scores."""

    num_queries: int = 64
    query_dim: int = 256
    proj_dim: int = 256

    def __post_init__(self) -> None:
        for name in ("num_queries", "query_dim", "proj_dim"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"cotr_config.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class LeoMiniConfig:
    """LEO-MINI (arXiv 2504.04653): any number of vision experts, reduced by CoTR, and an LLM with MMoE layers."""

    experts: tuple[ExpertConfig, ...]
    llm: LlmConfig
    tiling: TilingConfig
    template: str
    system_message: str
    cotr: CoTRConfig = field(default_factory=CoTRConfig)
    projector_hidden_size: int | None = None
    image_tokens: tuple[str, str, str] = ("", "<IMG_CONTEXT>", "")
    camera_line: str = CAMERA_LINE

    def __post_init__(self) -> None:
        if self.projector_hidden_size is not None and self.projector_hidden_size < 1:
            raise CheckpointError(f"projector_hidden_size in config.json must be at least 1, got {self.projector_hidden_size}")


ModelConfig = LeoConfig | LeoMiniConfig


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Reads config.json.

    Raises:
        CheckpointError: a field is missing, of the wrong type, or names something that is not known here.
    """
    model_type = _get(raw, "model_type", str)
    if model_type == "hybrid_chat":
        return _parse_leo(raw)
    if model_type == "leo_mini":
        return _parse_leo_mini(raw)
    raise CheckpointError(f"unknown model_type {model_type!r} in config.json: expected 'hybrid_chat' (LEO) or 'leo_mini'")


def _parse_leo(raw: Mapping[str, Any]) -> LeoConfig:
    for name in ("use_backbone_lora", "use_llm_lora"):
        if raw.get(name):
            raise CheckpointError(f"config.json has {name} = {raw[name]}: merge the LoRA adapter into the weights first")
    internvit = _expert(_get(raw, "vision_config_1", dict), "internvit", "internvit", _get(raw, "select_layer", int, -1))
    sam = _expert(_get(raw, "vision_config_2", dict), "sam", "sam", -1)
    side = internvit.settings.get("image_size")
    return LeoConfig(
        experts=(internvit, sam),
        llm=LlmConfig.parse(_get(raw, "llm_config", dict)),
        tiling=_tiling(raw, default_px=side if isinstance(side, int) else 448),
        template=_get(raw, "template", str, "internlm2-chat"),
        system_message=_get(raw, "system_message", str, LEO_SYSTEM_MESSAGE),
        downsample_ratio=_get(raw, "downsample_ratio", float, 0.5),
        downsample_ratio2=_get(raw, "downsample_ratio2", int, 4),
        ps_version=_get(raw, "ps_version", str, "v2"),
        camera_line=_camera_line(raw),
    )


def _parse_leo_mini(raw: Mapping[str, Any]) -> LeoMiniConfig:
    experts = []
    for index, entry in enumerate(_get(raw, "vision_configs", list)):
        if not isinstance(entry, dict):
            raise CheckpointError(f"vision_configs[{index}] in config.json must be an object, got {entry!r}")
        kind = _get(entry, "model_type", str)
        experts.append(_expert(entry, _get(entry, "name", str, kind), kind, _get(entry, "select_layer", int, -1)))
    names = [expert.name for expert in experts]
    if not experts or len(set(names)) != len(names):
        raise CheckpointError(f"vision_configs in config.json must hold experts with different names, got {names}")
    mmoe = _section(_get(raw, "mmoe_config", dict), MMoEConfig, "mmoe_config") if raw.get("mmoe_config") else None
    return LeoMiniConfig(
        experts=tuple(experts),
        llm=LlmConfig.parse(_get(raw, "llm_config", dict), mmoe=mmoe),
        tiling=_tiling(raw, default_px=336),
        template=_get(raw, "template", str, "llama3"),
        system_message=_get(raw, "system_message", str, LEO_MINI_SYSTEM_MESSAGE),
        cotr=_section(_get(raw, "cotr_config", dict, {}), CoTRConfig, "cotr_config"),
        projector_hidden_size=_get(raw, "projector_hidden_size", int, 0) or None,
        image_tokens=("", _get(raw, "image_token", str, "<IMG_CONTEXT>"), ""),
        camera_line=_camera_line(raw),
    )


def _expert(raw: Mapping[str, Any], name: str, kind: str, select_layer: int) -> ExpertConfig:
    resample = _get(raw, "resample", str, "bicubic")
    own = ("name", "model_type", "select_layer", "resample", "architectures", "auto_map", "torch_dtype", "dtype")
    settings = {key: value for key, value in raw.items() if key not in own}
    return ExpertConfig(name, kind, settings, select_layer=select_layer, resample=resample)


def _tiling(raw: Mapping[str, Any], default_px: int) -> TilingConfig:
    dynamic = _get(raw, "dynamic_image_size", bool, True)
    try:
        return TilingConfig(
            tile_px=_get(raw, "force_image_size", int, default_px),
            min_tiles=_get(raw, "min_dynamic_patch", int, 1) if dynamic else 1,
            max_tiles=_get(raw, "max_dynamic_patch", int, 6) if dynamic else 1,
            use_thumbnail=_get(raw, "use_thumbnail", bool, True),
        )
    except ValueError as error:
        raise CheckpointError(f"the tiling in config.json is not possible: {error}") from None


def _camera_line(raw: Mapping[str, Any]) -> str:
    line = _get(raw, "camera_line", str, CAMERA_LINE)
    if line.count("<image>") != 1:
        raise CheckpointError(f"camera_line in config.json must hold <image> once, got {line!r}")
    return line


def _get(raw: Mapping[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """Returns a field of the expected type; whole numbers pass as floats, null as absent."""
    value = raw.get(name)
    if value is None:
        if default is None:
            raise CheckpointError(f"config.json has no {name}: expected a {kind.__name__}")
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return typing.cast("T", float(value))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CheckpointError(f"{name} in config.json is {value!r}, expected a {kind.__name__}")
    return value


def _section(raw: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Builds a dataclass of whole numbers and floats from an object of the config, refusing fields that it does not have."""
    known = typing.get_type_hints(kind)
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise CheckpointError(f"{where} in config.json has unknown fields {unknown}: expected {sorted(known)}")
    return kind(**{name: _get(raw, name, known[name]) for name in raw})
