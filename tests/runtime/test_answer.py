"""runtime/answer.py: an answer as JSON."""

import json
from dataclasses import fields, replace
from types import MappingProxyType

import pytest

from leo_edge.runtime.answer import Answer
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.spans import Span

ANSWER = Answer(
    question="Is there a 🚗 ahead?",
    text="Yes: 3 m.",
    token_ids=(7, 8, 9),
    finish=Finish.STOP_TOKEN,
    stamp_ns=1_533_151_603_512_404_000,
    camera_stamps_ns=MappingProxyType({"CAM_FRONT": 1_533_151_603_512_404_000, "CAM_BACK": 1_533_151_603_500_000_000}),
    age_ms=MappingProxyType({"CAM_FRONT": 0.0, "CAM_BACK": 12.404}),
    missing=("CAM_BACK_LEFT",),
    num_prompt_tokens=150,
    num_visual_tokens=128,
    deadline_met=True,
    first_token_ms=12.5,
    per_token_ms=2.25,
    spans=(Span("prefill", 5_000_000, 7_500_000), Span("prompt", 4_000_000, 5_000_000), Span("decode", 7_500_000, 9_000_000)),
    bundle_id="0123456789ab",
    backend="onnxruntime 1.23.0 cpu",
)


class TestToJson:
    def test_survives_json_as_it_is(self) -> None:
        values = ANSWER.to_json()
        assert json.loads(json.dumps(values, allow_nan=False)) == values

    def test_holds_every_field(self) -> None:
        assert ANSWER.to_json().keys() == {field.name for field in fields(Answer)}

    def test_stamps_keep_every_nanosecond(self) -> None:
        values = json.loads(json.dumps(ANSWER.to_json()))
        assert values["stamp_ns"] == 1_533_151_603_512_404_000
        assert values["camera_stamps_ns"]["CAM_BACK"] == 1_533_151_603_500_000_000

    def test_spans_start_at_0_with_the_earliest(self) -> None:
        assert ANSWER.to_json()["spans"] == [
            {"name": "prefill", "start_ms": 1.0, "duration_ms": 2.5},
            {"name": "prompt", "start_ms": 0.0, "duration_ms": 1.0},
            {"name": "decode", "start_ms": 3.5, "duration_ms": 1.5},
        ]

    @pytest.mark.parametrize("finish", Finish)
    def test_finish_is_plain_text(self, finish: Finish) -> None:
        written = replace(ANSWER, finish=finish).to_json()["finish"]
        assert type(written) is str
        assert written == finish.value

    def test_what_was_not_measured_is_null(self) -> None:
        empty = replace(ANSWER, token_ids=(), spans=(), deadline_met=None, per_token_ms=None)
        values = json.loads(json.dumps(empty.to_json(), allow_nan=False))
        assert [values[name] for name in ("deadline_met", "per_token_ms")] == [None, None]
        assert values["token_ids"] == values["spans"] == []

    def test_the_answer_itself_is_not_changed_through_it(self) -> None:
        values = ANSWER.to_json()
        values["token_ids"].append(1)
        values["age_ms"]["CAM_FRONT"] = 1.0
        assert ANSWER.token_ids == (7, 8, 9)
        assert ANSWER.age_ms["CAM_FRONT"] == 0.0
