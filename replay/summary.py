"""What a run comes to: scores, latency per stage, rate, drops and misses. Made from its files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from leo_edge.replay.queries import Queries
from leo_edge.replay.run_files import Json, Run
from leo_edge.runtime.errors import DatasetError

PERCENTILES = (50, 90, 99)
_COLUMNS = (*(f"p{p}" for p in PERCENTILES), "max")


def summarize(run: Run, queries: Queries) -> Json:
    """Returns a run's summary as JSON values; of `rate`, `achieved` is how many seconds of the drives passed in one.

    Raises:
        DatasetError: nothing was answered.
    """
    answers = answers_by_id(run)
    if not answers:
        raise DatasetError("no question was answered: every set that is asked about was dropped; give a lower --rate")
    taken = [line for line in run.sets if line["outcome"] != "dropped"]
    wall_s = sum(end["wall_s"] for end in run.ends)
    whole = not any(end["resumed"] for end in run.ends)
    return {
        "run": run.identity,
        "scores": queries.score(answers),
        "answers": {
            "answered": len(answers),
            "unanswered": sum(line.get("unanswered", 0) for line in run.sets),
            "late": sum(answer["late"] for line in taken for answer in line["answers"]),
            "finish": dict(Counter(line["finish"] for line in run.answers)),
        },
        "sets": {
            "there": sum(end["num_sets"] for end in run.ends),
            "taken": len(taken),
            "dropped": len(run.sets) - len(taken),
        },
        # Of a run that was interrupted, nobody knows how long it took.
        "rate": {
            "asked": run.identity["play"]["rate"],
            "achieved": sum(end["drive_s"] for end in run.ends) / wall_s if whole and wall_s else None,
            "sets_per_s": len(taken) / wall_s if whole and wall_s else None,
        },
        "latency_ms": {name: percentiles(values) for name, values in _latencies(taken).items()},
        "peak_memory_mb": max(end["peak_memory_mb"] for end in run.ends),
        "notes": {end["drive"]: end["notes"] for end in run.ends if "notes" in end},
    }


def answers_by_id(run: Run) -> dict[str, str]:
    """Returns the answers' texts by the ids of their questions."""
    return {str(line["id"]): str(line["answer"]) for line in run.answers}


def percentiles(values: Sequence[float]) -> Json:
    """Returns the number of values, p50, p90, p99 (interpolated) and the largest."""
    found = np.percentile(values, PERCENTILES).tolist()
    return {"n": len(values)} | {f"p{p}": value for p, value in zip(PERCENTILES, found, strict=True)} | {"max": max(values)}


def summary_lines(summary: Json) -> list[str]:
    """Returns a summary's figures, without the scores, as lines of text."""
    sets, answers, rate = summary["sets"], summary["answers"], summary["rate"]
    asked = "as fast as possible" if rate["asked"] is None else f"at rate {rate['asked']:g}"
    achieved = "" if rate["achieved"] is None else f", {rate['achieved']:.2f} s of the drives a second"
    deadline = summary["run"]["play"]["deadline_ms"]
    late = "no deadline" if deadline is None else f"{answers['late']} later than {deadline:g} ms"
    head = f"{'latency, ms':<24}{'n':>7}" + "".join(f"{name:>10}" for name in _COLUMNS)
    rows = [
        f"{name:<24}{row['n']:>7}" + "".join(f"{row[key]:>10.1f}" for key in _COLUMNS)
        for name, row in summary["latency_ms"].items()
    ]
    return [
        f"played {asked}{achieved}",
        f"{sets['there']} frame sets, {sets['taken']} taken, {sets['dropped']} dropped",
        f"{answers['answered']} answers, {late}; {answers['unanswered']} questions went unanswered with dropped sets",
        f"peak memory {summary['peak_memory_mb']:.0f} MB",
        *(f"{drive}: {note}" for drive, notes in summary["notes"].items() for note in notes),
        "",
        head,
        *rows,
    ]


def _latencies(taken: Iterable[Json]) -> dict[str, list[float]]:
    """Returns the times of stages, in the order in which they first came, then of the whole."""
    stages: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {"waited": [], "encode": [], "first token": [], "answer": [], "answer, since set": []}
    for line in taken:
        _gather(stages, line["spans"])
        whole["waited"].append(line["waited_ms"])  # nothing waits as fast as possible
        whole["encode"].append(line["encode_ms"])
        for answer in line["answers"]:
            _gather(stages, answer["spans"])
            whole["first token"].append(answer["first_token_ms"])
            whole["answer"].append(answer["answer_ms"])
            whole["answer, since set"].append(answer["since_ready_ms"])
    return {name: values for name, values in (stages | whole).items() if any(values)}


def _gather(stages: dict[str, list[float]], spans: Iterable[dict[str, Any]]) -> None:
    """Adds up spans of one name in one piece of work: a decoder's steps are one stage."""
    sums: Counter[str] = Counter()
    for span in spans:
        sums[span["name"]] += span["duration_ms"]
    for name, duration_ms in sums.items():
        stages.setdefault(name, []).append(duration_ms)
