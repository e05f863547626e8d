"""A benchmark's result as text: a row for each stage, then the whole, the machine and what ran."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leo_edge.bench.limits import FP32, INT8
from leo_edge.bench.measure import DECODE, FIRST_TOKEN
from leo_edge.bench.result import BenchResult, Machine, StageSamples

PERCENTILES = (50, 90, 99)
_TIMES = (*(f"p{p} ms" for p in PERCENTILES), "max")
_HEAD = ("stage", "once per", *_TIMES, "GFLOP", "GFLOP/s", "of limit", "MB", "GB/s", "of limit")


def result_text(result: BenchResult) -> str:
    """Returns the table, and the lines below it."""
    rows = [_HEAD, *(_row(name, stage, result.machine) for name, stage in result.stages.items())]
    return "\n".join([*columns(rows, "<<" + ">" * (len(_HEAD) - 2)), "", *_summary(result), "", *_about(result)])


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Sets rows in columns, each aligned as `align` says, "<" or ">"."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def median_ms(stage: StageSamples) -> float:
    """Returns the median of a stage's samples."""
    return float(np.median(stage.samples_ms))


def _row(name: str, stage: StageSamples, machine: Machine) -> tuple[str, ...]:
    times = [*np.percentile(stage.samples_ms, PERCENTILES).tolist(), max(stage.samples_ms)]
    return (name, stage.per, *(f"{ms:.2f}" for ms in times), *_compute(stage, machine), *_memory(stage, machine))


def _compute(stage: StageSamples, machine: Machine) -> tuple[str, str, str]:
    """GFLOP of one run, per second, and which share of the fastest product of the stage's precision that is.

    The share is left out for one token: a product with a single row waits for memory, whatever computes it.
    """
    if stage.flops is None or not (ms := median_ms(stage)):
        return ("", "", "")
    per_s = stage.flops / ms / 1e6
    limits = {FP32: machine.gemm_fp32_gops, INT8: machine.gemm_int8_gops}
    limit = limits.get(stage.precision or "") if stage.per != "token" else None
    return (_short(stage.flops / 1e9), _short(per_s), f"{per_s / limit:.0%} {stage.precision}" if limit else "")


def _memory(stage: StageSamples, machine: Machine) -> tuple[str, str, str]:
    """MB of one run, per second, and, of decoding, which share of the memory's speed that is: the rest is not bound by it."""
    if stage.moved_bytes is None or not (ms := median_ms(stage)):
        return ("", "", "")
    per_s = stage.moved_bytes / ms / 1e6
    limit = machine.read_gb_s if stage.per == "token" else None
    return (_short(stage.moved_bytes / 1e6), _short(per_s), f"{per_s / limit:.0%}" if limit else "")


def _summary(result: BenchResult) -> list[str]:
    load, stages = result.load, result.stages
    warm_up = ", ".join(f"{ms:.1f}" for ms in result.warm_up_ms)
    width, height = load.image_px
    lines = []
    if FIRST_TOKEN in stages:
        lines.append(f"first token    {median_ms(stages[FIRST_TOKEN]):.2f} ms after the question")
    if DECODE in stages:
        lines.append(f"per token      {median_ms(stages[DECODE]):.2f} ms, {1e3 / median_ms(stages[DECODE]):.1f} tokens/s")
    return [
        *lines,
        f"sustained      {result.sustained_sets_per_s:.2f} frame sets with their answer a second, one after the other",
        f"peak memory    {result.peak_memory_bytes / 1e6:.0f} MB of the host",
        f"warm-up        {warm_up} ms a round, not among the {_num_rounds(result)} rounds above",
        f"load           {load.cameras} cameras of {width}x{height}, tiles per camera {load.tiles_per_camera}",
        f"               {load.visual_tokens} visual + {load.text_tokens} text tokens, {load.answer_tokens} of answer",
    ]


def _about(result: BenchResult) -> list[str]:
    machine = result.machine
    clocks = machine.clocks_mhz
    clock = f", {min(clocks):.0f} to {max(clocks):.0f} MHz" if clocks else ""
    power = f", power mode {machine.power_mode}" if machine.power_mode else ""
    limits = [
        f"{name} {value:.1f} {unit}"
        for name, value, unit in (
            ("read", machine.read_gb_s, "GB/s"),
            (FP32, machine.gemm_fp32_gops, "GFLOP/s"),
            (INT8, machine.gemm_int8_gops, "GOP/s"),
        )
        if value is not None
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    savings = ", savings on" if result.savings else ""
    return [
        f"bundle         {result.bundle}, id {result.bundle_id}, {result.precision}",
        f"backend        {result.backend}, {machine.threads} threads{savings}",
        f"machine        {machine.device}, {machine.cores} CPUs{clock}{power}, {machine.memory_bytes / 1e9:.1f} GB",
        f"               {machine.system}",
        f"limits here    {', '.join(limits) or 'not measured'}",
        f"versions       {versions or 'not told'}",
    ]


def _num_rounds(result: BenchResult) -> int:
    return max(len(stage.samples_ms) for stage in result.stages.values())


def _short(value: float) -> str:
    """Returns a number to three digits, a small one to two."""
    if value < 0.9995:
        return f"{value:.2g}"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f}"
