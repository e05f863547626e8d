"""ros_node/parameters.py: what is taken and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from leo_edge.ros_node.parameters import SPEC_BY_NAME, SPECS, check_change, check_parameters, question_specs
from leo_edge.ros_node.questions import StandingQuestion
from leo_edge.runtime.errors import LeoEdgeError

ROOT = Path(__file__).resolve().parents[2]


def values(**changes: Any) -> dict[str, Any]:
    given = {spec.name: spec.default for spec in SPECS} | {"bundle": "b", "questions": ["a", "b"]}
    given |= {spec.name: spec.default for question in ("a", "b", "c") for spec in question_specs(question)}
    given |= {"question.a.text": "What?", "question.b.text": "Why?", "question.b.period_s": 0}
    return given | {name.replace("__", "."): value for name, value in changes.items()}


def test_the_defaults_and_a_bundle_are_enough() -> None:
    defaults = {spec.name: spec.default for spec in SPECS} | {"bundle": "b"}
    defaults |= {spec.name: spec.default for question in defaults["questions"] for spec in question_specs(question)}
    checked = check_parameters(defaults)
    assert checked.rules.anchor == "CAM_FRONT"
    assert checked.settings.deadline_ms is None
    assert [question.id for question in checked.settings.questions] == ["action", "light", "distance"]
    assert all(question.text.endswith("?") for question in checked.settings.questions)


def test_an_integer_is_taken_where_a_number_is_meant() -> None:
    checked = check_parameters(values(deadline_ms=500, max_camera_age_ms=700))
    assert (checked.settings.deadline_ms, checked.rules.max_age_ms) == (500.0, 700.0)
    assert checked.settings.questions == (StandingQuestion("a", "What?", 1.0), StandingQuestion("b", "Why?", 0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": ""}, "the parameter bundle is empty"),
        ({"backend": "gpu"}, "backend must be one of auto, trt, ort, ort-cuda, ort-trt, got 'gpu'"),
        ({"deadline_ms": -1.0}, "deadline_ms must be 0 to 8.64e.07, got -1"),
        ({"deadline_ms": True}, "deadline_ms must be of type float, got True"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be of type int, got 1.5"),
        ({"cameras": "front"}, "cameras must be a list of strings, got 'front'"),
        ({"cameras": ["front", "a/b"]}, "cameras has 'a/b': a name is part of a topic"),
        ({"cameras": []}, "cameras must be one or more different names, got none"),
        ({"anchor_camera": "top"}, "anchor_camera 'top' is none of the cameras"),
        ({"min_cameras": 7}, "min_cameras must be 1 to 6"),
        ({"max_camera_age_ms": 100}, "max_camera_age_ms must be at least"),
        ({"questions": []}, "questions is empty"),
        ({"questions": ["a", "a"]}, "questions names one twice: a, a"),
        ({"questions": ["a", "c"]}, "question.c.text is empty"),
        ({"question__a__period_s": -1}, "question.a.period_s must be 0 to 86400, got -1"),
        ({"degrade": ["less"]}, "degrade has 'less'"),
        ({"image_transport": "theora"}, "image_transport must be one of raw, compressed"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    check_parameters(values())
    with pytest.raises(LeoEdgeError, match=message):
        check_parameters(values(**changes))


def test_every_parameter_is_in_the_docs_with_its_default() -> None:
    rows = [line.split("|")[1:3] for line in (ROOT / "docs" / "ros.md").read_text().splitlines() if line.startswith("| `")]
    told = {name: (cell, default) for cell, default in rows for name in re.findall(r"`([a-z_.<>]+)`", cell)}
    for spec in (*SPECS, *question_specs("<id>")):
        cell, default = told[spec.name]
        assert ("*" in cell) == spec.live, spec.name
        if isinstance(spec.default, bool):
            assert default.strip() == str(spec.default).lower(), spec.name
        elif isinstance(spec.default, int | float) and spec.name != "threads":
            assert float(default.partition(":")[0]) == spec.default, spec.name


def test_what_may_change_while_the_node_is_configured() -> None:
    for name in SPEC_BY_NAME:
        check_change(name, configured=False)
    check_change("deadline_ms", configured=True)
    check_change("question.a.text", configured=True)
    for name in ("bundle", "cameras", "questions", "degrade", "reliability"):
        with pytest.raises(LeoEdgeError, match=f"{name} cannot change while the node is configured: deactivate it"):
            check_change(name, configured=True)
