"""A budget: limits of latency, memory and bytes for one device and one load, as a JSON file; a result held against it."""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from leo_edge.bench.measure import ANSWER, FIRST_TOKEN
from leo_edge.bench.regression import smallest_slip_ms
from leo_edge.bench.result import BenchResult, StageSamples
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.manifest import from_json, read_versioned

FORMAT_VERSION = 1
# The fewest samples that a quantile can be told from: below 100 the 99th percentile lies between the largest and nothing.
FEWEST_SAMPLES = {"p50_ms": 10, "p99_ms": 100, "max_ms": 1}
_PERCENTILES = {"p50_ms": 50, "p99_ms": 99, "max_ms": 100}


@dataclass(frozen=True)
class StageLimits:
    """The most that one run of a stage may take. None: no limit."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    moved_bytes: int | None = None

    def __post_init__(self) -> None:
        limits = [value for value in dataclasses.astuple(self) if value is not None]
        if not limits or not all(0 < value < math.inf for value in limits):
            names = ", ".join(entry.name for entry in dataclasses.fields(self))
            raise ValueError(f"a stage needs one of the limits {names}, above 0; got {dataclasses.asdict(self)}")


@dataclass(frozen=True)
class BudgetLoad:
    """What the limits were set for, named as in `Load`. What is None may be anything."""

    cameras: int
    tiles_per_camera: int
    visual_tokens: int
    answer_tokens: int
    text_tokens: int | None = None


@dataclass(frozen=True)
class Budget:
    """Limits for one device and load.

    note: where the limits come from: measured there, or wanted.
    device, power_mode: shell patterns; `device` of the device's or the CPU's name. bundle: likewise, of the bundle as it was
    given to `leo-edge bench`. precision, threads: as the result has them. What is None may be anything.
    stages: by name; `first_token` and `answer` are among them.
    """

    format_version: int
    note: str
    device: str
    load: BudgetLoad
    stages: Mapping[str, StageLimits]
    power_mode: str | None = None
    bundle: str | None = None
    precision: str | None = None
    threads: int | None = None
    peak_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.stages and self.peak_memory_bytes is None:
            raise ValueError("a budget needs at least one limit, got none")
        if self.peak_memory_bytes is not None and self.peak_memory_bytes < 1:
            raise ValueError(f"peak_memory_bytes must be at least 1, got {self.peak_memory_bytes}")

    def to_json(self) -> str:
        """Returns the text of a budget file: what is None is left out."""
        return json.dumps(dataclasses.asdict(self, dict_factory=_without_none), indent=1) + "\n"


@dataclass(frozen=True)
class LimitCheck:
    """One limit against what was measured, in the limit's own unit."""

    stage: str
    limit_name: str
    measured: float
    limit: float

    @property
    def margin(self) -> float:
        """What is left, as a share of the limit; below 0 where it is broken."""
        return 1 - self.measured / self.limit

    @property
    def passed(self) -> bool:
        """Whether the limit holds."""
        return self.measured <= self.limit


def read_budget(path: str | os.PathLike[str]) -> Budget:
    """Reads a budget file.

    Raises:
        LeoEdgeError: it is absent, not JSON, of another format, or a field is missing, unknown or wrong.
    """
    mend = "start from a result with leo-edge budget RESULT BUDGET --init"
    return read_versioned(Path(path), FORMAT_VERSION, _parse, name=f"budget {path}", mend=mend)


def _parse(raw: dict[str, Any]) -> Budget:
    return from_json(Budget, _completed(raw), "budget")


def check_budget(result: BenchResult, budget: Budget) -> tuple[LimitCheck, ...]:
    """Holds a result against every limit of a budget.

    Raises:
        LeoEdgeError: the result is of another device, bundle or load, lacks a stage, or has too few samples to tell.
    """
    _check_fits(result, budget)
    checks = [check for name, limits in budget.stages.items() for check in _stage_checks(result, name, limits)]
    if budget.peak_memory_bytes is not None:
        checks.append(LimitCheck("", "peak_memory_bytes", result.peak_memory_bytes, budget.peak_memory_bytes))
    return tuple(checks)


def budget_from(result: BenchResult, headroom: float) -> Budget:
    """Returns a budget that the result keeps with `headroom`, a share of what was measured, to spare.

    Medians of all stages, the 99th percentile only end to end and where there are rounds enough to tell it: of a short stage it
    is noise. A stage of which little would matter has at least that much to spare.

    Raises:
        LeoEdgeError: it has too few even for medians.
    """
    machine, load = result.machine, result.load
    rounds, fewest = min(len(stage.samples_ms) for stage in result.stages.values()), FEWEST_SAMPLES["p50_ms"]
    if rounds < fewest:
        raise LeoEdgeError(
            f"a budget cannot be told from {rounds} rounds, expected at least {fewest}: "
            f"measure with leo-edge bench --repeat {fewest}"
        )
    fields = {entry.name for entry in dataclasses.fields(BudgetLoad)}
    return Budget(
        format_version=FORMAT_VERSION,
        note=f"{headroom:.0%} above {rounds} measured rounds of {result.bundle_id}",
        device=glob.escape(machine.device),
        load=BudgetLoad(**{name: value for name, value in dataclasses.asdict(load).items() if name in fields}),
        stages={name: _limits_from(result, name, headroom) for name in result.stages},
        power_mode=None if machine.power_mode is None else glob.escape(machine.power_mode),
        precision=result.precision,
        threads=machine.threads,
        peak_memory_bytes=math.ceil(result.peak_memory_bytes * (1 + headroom)),
    )


def _check_fits(result: BenchResult, budget: Budget) -> None:
    """Refuses a result that the budget was not written for."""
    machine = result.machine
    if not any(fnmatchcase(name, budget.device) for name in (machine.device, machine.cpu)):
        found = machine.device if machine.cpu == machine.device else f"{machine.device} ({machine.cpu})"
        raise LeoEdgeError(f"the result is of {found}, the budget of {budget.device}: measure there, or write a budget for it")
    for what, found, pattern in (
        ("power mode", machine.power_mode or "unknown", budget.power_mode),
        ("bundle", result.bundle, budget.bundle),
        ("precision", result.precision, budget.precision),
    ):
        if pattern is not None and not fnmatchcase(found, pattern):
            raise LeoEdgeError(
                f"the result is of {what} {found}, the budget of {pattern}: measure that, or write a budget for it"
            )
    if budget.threads not in (None, machine.threads):
        raise LeoEdgeError(
            f"the result is of {machine.threads} threads, the budget of {budget.threads}: "
            f"measure with leo-edge bench --threads {budget.threads}"
        )
    wanted = {name: value for name, value in dataclasses.asdict(budget.load).items() if value is not None}
    if differences := result.load.differences(wanted):
        raise LeoEdgeError(
            f"the result is not of the budget's load: {differences}: measure that load, or write a budget for it"
        )


def _stage_checks(result: BenchResult, name: str, limits: StageLimits) -> Iterator[LimitCheck]:
    if name not in result.stages:
        raise LeoEdgeError(f"the budget limits stage {name!r}, the result has {', '.join(result.stages)}: use one of them")
    stage = result.stages[name]
    for limit_name, limit in dataclasses.asdict(limits).items():
        if limit is None:
            continue
        if limit_name == "moved_bytes":
            if stage.moved_bytes is None:
                raise LeoEdgeError(
                    f"the budget limits moved_bytes of {name}, which the result has not counted: "
                    "measure it with leo_edge[export] installed"
                )
            yield LimitCheck(name, limit_name, stage.moved_bytes, limit)
            continue
        count, fewest = len(stage.samples_ms), FEWEST_SAMPLES[limit_name]
        if count < fewest:
            raise LeoEdgeError(
                f"{limit_name} of {name} cannot be told from {count} samples, expected at least {fewest}: "
                f"measure with leo-edge bench --repeat {fewest}"
            )
        yield LimitCheck(name, limit_name, _time_ms(stage, limit_name), limit)


def _limits_from(result: BenchResult, name: str, headroom: float) -> StageLimits:
    stage, answer = result.stages[name], result.stages[ANSWER]
    p50_ms, p99_ms = (_time_ms(stage, limit_name) for limit_name in ("p50_ms", "p99_ms"))
    least_ms = smallest_slip_ms(stage, _time_ms(answer, "p50_ms"), result.load.answer_tokens)
    tells_p99 = name in (FIRST_TOKEN, ANSWER) and len(stage.samples_ms) >= FEWEST_SAMPLES["p99_ms"]
    return StageLimits(
        p50_ms=_rounded_up(max(p50_ms * (1 + headroom), p50_ms + least_ms)),
        p99_ms=_rounded_up(p99_ms * (1 + headroom)) if tells_p99 else None,
        moved_bytes=math.ceil(stage.moved_bytes * (1 + headroom)) if stage.moved_bytes else None,
    )


def _rounded_up(time_ms: float) -> float:
    return max(0.01, math.ceil(time_ms * 100) / 100)


def _time_ms(stage: StageSamples, limit_name: str) -> float:
    return float(np.percentile(stage.samples_ms, _PERCENTILES[limit_name]))


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    """Adds what a budget may leave out, and makes floats of whole milliseconds."""
    given = _with_defaults(Budget, raw)
    if isinstance(given.get("stages"), dict):
        given["stages"] = {name: _limits_completed(limits) for name, limits in given["stages"].items()}
    if isinstance(given.get("load"), dict):
        given["load"] = _with_defaults(BudgetLoad, given["load"])
    return given


def _limits_completed(limits: Any) -> Any:
    if not isinstance(limits, dict):
        return limits
    floats = {name: float(value) for name, value in limits.items() if name in _PERCENTILES and type(value) is int}
    return _with_defaults(StageLimits, limits | floats)


def _with_defaults(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    optional = (entry.name for entry in dataclasses.fields(kind) if entry.default is not dataclasses.MISSING)
    return dict.fromkeys(optional) | given


def _without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not None}
