"""Prompts as the runtime builds them, cut into what is the same for every question and what is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leo_edge.export.config import LeoMiniConfig
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from leo_edge.runtime.manifest import PromptManifest
from leo_edge.runtime.prompt import TEMPLATES, build_prompt
from leo_edge.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptParts:
    """`head` holds the prefix and all cameras, placeholders included; `spans` are those of the visual embeddings in it.

    A whole prompt is head + the question's ids + `suffix`. An answer ends with `stop_id`.
    """

    head: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    suffix: tuple[int, ...]
    stop_id: int


def prompt_parts(config: LeoMiniConfig, tokenizer_path: Path) -> PromptParts:
    """Asks the runtime for the prompt of a question about six cameras, and cuts it."""
    tokenizer = Tokenizer(tokenizer_path)
    template = TEMPLATES[config.template]
    stop_id = tokenizer.id_of(template.stop_tokens[0])
    assert stop_id is not None
    prefix, suffix = template.split(config.system_message)
    manifest = PromptManifest(prefix, suffix, *config.image_tokens, config.camera_line, (stop_id,))
    images = [(channel, config.cotr.num_queries) for channel in NUSCENES_CAMERAS]
    prompt = build_prompt("Is it safe?", images, manifest, tokenizer)
    ids, question = prompt.token_ids, prompt.question_ids
    start = next(i for i in range(sum(prompt.image_spans[-1]), len(ids)) if ids[i : i + len(question)] == question)
    return PromptParts(ids[:start], prompt.image_spans, ids[start + len(question) :], stop_id)
