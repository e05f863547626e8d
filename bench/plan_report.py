"""Plans as people read them. Every predicted number stands under a heading that says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from leo_edge.bench.devices import Device
from leo_edge.bench.plan import Asked, Choice, Plan
from leo_edge.bench.plan_fit import ALLOWED_ERROR, Check
from leo_edge.bench.published import Beside
from leo_edge.bench.report import columns

_MOST_ROWS = 12
_HEADS = ("", "precision", "tiles", "side_every", "visual", "answer tokens", "encode ms", "first token ms", "all ms", "GB")


def device_text(device: Device, calibrated: int) -> str:
    """Returns the device with its peaks, and where the shares of them come from."""
    lines = [
        f"{device.title}, {device.power}: {device.int8_tops:.3g} TOPS INT8, {device.float_tflops:.3g} TFLOPS float, "
        f"{device.bandwidth_gb_s:g} GB/s, {device.memory_gb:.3g} GB"
    ]
    if calibrated:
        return "\n".join([*lines, f"calibrated by {calibrated} measured result{'s' * (calibrated > 1)}"])
    for field in dataclasses.fields(device.efficiencies):
        efficiency = getattr(device.efficiencies, field.name)
        lines.append(f"  {field.name} {efficiency.value:g}: {efficiency.reason}")
    return "\n".join(lines)


def plan_text(plan: Plan, asked: Asked) -> str:
    """Returns the front, and the stages of the setting to take."""
    if plan.best is None:
        fastest = plan.fastest
        return (
            f"nothing meets {asked.deadline_ms:g} ms (predicted): the fastest of {len(plan.choices)} settings takes "
            f"{fastest.prediction.answer_ms:.0f} ms and {fastest.prediction.memory_gb:.1f} GB: {_given(fastest)}"
        )
    shown = plan.front[:_MOST_ROWS]
    more = f", the first {_MOST_ROWS} of {len(plan.front)}" if len(plan.front) > _MOST_ROWS else ""
    title = (
        f"PREDICTED: settings within {asked.deadline_ms:g} ms for {asked.cameras} cameras that keep as much as can be{more} "
        f"({len(plan.choices)} tried)"
    )
    rows: list[tuple[str, ...]] = [_HEADS]
    rows += [_row(choice, best=choice is plan.best) for choice in shown]
    return "\n\n".join(["\n".join([title, *_columns(rows)]), stages_text(plan.best)])


def stages_text(choice: Choice) -> str:
    """Returns the predicted stages of a setting."""
    rows = [("PREDICTED stage", "ms a run")]
    rows += [(stage, f"{duration_ms:.2f}") for stage, duration_ms in choice.prediction.stages_ms.items()]
    return "\n".join(_columns(rows))


def parameters_text(choice: Choice, asked: Asked, most_tiles: int) -> str:
    """Returns the node's parameters for a setting, as a parameter file has them. `most_tiles` are what the bundle cuts."""
    lines = ["/**:", "  ros__parameters:", f"    deadline_ms: {asked.deadline_ms:.1f}"]
    lines.append(f"    max_new_tokens: {choice.answer_tokens}")
    if steps := steps_of(choice, most_tiles):
        stated = ", ".join(f'"{step}"' for step in steps)
        lines.append(f"    degrade: [{stated}]")
    return "\n".join(lines)


def steps_of(choice: Choice, most_tiles: int) -> list[str]:
    """Returns the ladder that ends at the setting."""
    steps = [f"max_tiles={choice.max_tiles}"] if choice.max_tiles < most_tiles else []
    steps += [f"side_every={choice.side_every}"] if choice.side_every > 1 else []
    return steps + ([f"visual_tokens={choice.visual_share:g}"] if choice.visual_share < 1 else [])


def check_text(checks: Sequence[Check]) -> str:
    """Returns predicted against measured, per stage and for the whole."""
    parts = []
    for number, check in enumerate(checks, 1):
        load = check.load
        title = (
            f"held out {number}: {load.cameras} cameras of {load.tiles_per_camera} tiles, {load.prompt_tokens} prompt tokens, "
            f"{load.answer_tokens} answer tokens"
        )
        rows = [("stage", "PREDICTED ms", "measured ms", "error")]
        rows += [
            (one.name, f"{one.predicted_ms:.2f}", f"{one.measured_ms:.2f}", f"{one.error:+.1%}")
            for one in (*check.stages, check.whole)
        ]
        verdict = "within" if check.passed else "MORE than"
        parts.append("\n".join([title, *_columns(rows), f"the whole is {verdict} {ALLOWED_ERROR:.0%} off"]))
    return "\n\n".join(parts)


def published_text(figures: Sequence[Beside]) -> str:
    """Returns the published figures beside ours."""
    rows = [("Jetson AGX Orin 64GB", "PREDICTED", "published", "unit", "error", "")]
    for one in figures:
        figure = one.figure
        role = f"chose {figure.used_for}" if figure.used_for else "held out"
        remark = f"{role}; {figure.note}" if figure.note else role
        rows.append((figure.name, f"{one.predicted:.1f}", f"{figure.published:g}", figure.unit, f"{one.error:+.1%}", remark))
    return "\n".join(_columns(rows))


def plan_json(plan: Plan, device: Device) -> dict[str, Any]:
    """Returns all of it as JSON values; what is predicted is under `predicted`."""
    return {
        "device": dataclasses.asdict(device),
        "predicted": {
            "tried": len(plan.choices),
            "best": None if plan.best is None else dataclasses.asdict(plan.best),
            "front": [dataclasses.asdict(choice) for choice in plan.front],
            "fastest": dataclasses.asdict(plan.fastest),
        },
    }


def checks_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Returns checks as JSON values, with their errors and verdicts."""
    return [
        {
            "load": dataclasses.asdict(check.load),
            "passed": check.passed,
            "stages": [dataclasses.asdict(one) | {"error": one.error} for one in check.stages],
            "whole": dataclasses.asdict(check.whole) | {"error": check.whole.error},
        }
        for check in checks
    ]


def _given(choice: Choice) -> str:
    precision = f"{choice.precision}, " if choice.precision else ""
    return (
        f"{precision}max_tiles={choice.max_tiles}, side_every={choice.side_every}, visual_tokens={choice.visual_share:g}, "
        f"max_new_tokens={choice.answer_tokens}"
    )


def _row(choice: Choice, *, best: bool) -> tuple[str, ...]:
    predicted = choice.prediction
    return (
        "take" if best else "",
        choice.precision or "as it is",
        f"{choice.tiles}",
        f"{choice.side_every}",
        f"{choice.visual_share:.0%}",
        f"{choice.answer_tokens}",
        f"{predicted.encode_ms:.0f}",
        f"{predicted.first_token_ms:.0f}",
        f"{predicted.answer_ms:.0f}",
        f"{predicted.memory_gb:.1f}",
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Sets rows in columns, the first and the last flush left where they hold words."""
    return columns(rows, "".join("<" if i == 0 or not head else ">" for i, head in enumerate(rows[0])))
