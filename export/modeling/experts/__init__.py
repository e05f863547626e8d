"""The vision experts, by the name that a checkpoint's config gives them. Another expert is one more file and one line here."""

from __future__ import annotations

from leo_edge.export.config import ExpertConfig
from leo_edge.export.modeling.experts.base import VisionExpert
from leo_edge.export.modeling.experts.clip import ClipExpert
from leo_edge.export.modeling.experts.internvit import InternVitExpert
from leo_edge.export.modeling.experts.sam import SamExpert
from leo_edge.runtime.errors import CheckpointError

KINDS: dict[str, type[VisionExpert]] = {
    "internvit": InternVitExpert,
    "sam": SamExpert,
    "clip": ClipExpert,
    # transformers' own names for the same three
    "intern_vit_6b": InternVitExpert,
    "internvl_vision": InternVitExpert,
    "sam_vision_model": SamExpert,
    "clip_vision_model": ClipExpert,
}


def build_expert(config: ExpertConfig) -> VisionExpert:
    """Builds an expert on the current device.

    Raises:
        CheckpointError: the kind is unknown, or its settings do not make a model.
    """
    if config.kind not in KINDS:
        raise CheckpointError(f"unknown vision expert {config.kind!r} in config.json: expected one of {', '.join(KINDS)}")
    try:
        return KINDS[config.kind](config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"the settings of vision expert {config.name} do not make a model: {error}") from error
