"""An answer, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leo_edge.runtime.choices import ChoiceScore
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.spans import Span, spans_to_json


@dataclass(frozen=True)
class Answer:
    """Text with everything that a consumer needs to judge it.

    Stamps and ages are on the data's clock, spans on `time.perf_counter_ns`. `age_ms` is, per camera, how old its frame was
    at the moment that was asked about: `stamp_ns` unless `ask` was told another.

    `spans` are the question's stages, `encode_spans` those of the frame set, which its other answers share.

    `num_reused_tokens` of the prompt were in the cache already; of `num_drafted_tokens` the model accepted
    `num_accepted_tokens`. `choices` are the scores of the texts that were to be chosen from.

    Latency: `first_token_ms` from the question to the first token, be it a stop token; `per_token_ms` the mean of the following
    ones (None if there were none).
    """

    question: str
    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    stamp_ns: int
    camera_stamps_ns: Mapping[str, int]
    age_ms: Mapping[str, float]
    missing: tuple[str, ...]
    num_prompt_tokens: int
    num_visual_tokens: int
    deadline_met: bool | None
    first_token_ms: float
    per_token_ms: float | None
    spans: tuple[Span, ...]
    bundle_id: str
    backend: str
    encode_spans: tuple[Span, ...] = ()
    num_reused_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    choices: tuple[ChoiceScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the answer as JSON values; spans start at 0."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "finish": self.finish.value,
            "token_ids": list(self.token_ids),
            "missing": list(self.missing),
            "camera_stamps_ns": dict(self.camera_stamps_ns),
            "age_ms": dict(self.age_ms),
            "choices": [asdict(score) for score in self.choices],
            "spans": spans_to_json(self.spans),
            "encode_spans": spans_to_json(self.encode_spans),
        }
