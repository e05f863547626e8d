"""Two runs side by side: where their answers differ, whether one is truly more often right, and how their latencies compare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from leo_edge.replay.run_files import Json, Run
from leo_edge.replay.score import is_correct
from leo_edge.runtime.errors import DatasetError

_MOST_SHOWN = 10


def diff_runs(first: Run, second: Run, first_summary: Json, second_summary: Json) -> Json:
    """Compares the answers that both runs gave to the same questions about the same frames, and their latencies.

    Raises:
        DatasetError: the runs have no question in common, or ask different ones under the same name.
    """
    ours, theirs = _by_question(first), _by_question(second)
    common = [key for key in ours if key in theirs]
    if not common:
        raise DatasetError("the runs have no question about the same frame in common: compare runs of the same drives")
    for key in common:
        if (ours[key]["question"], ours[key]["truth"]) != (theirs[key]["question"], theirs[key]["truth"]):
            raise DatasetError(f"question {key[1]} about {key[0]} is another one in the second run: compare runs of one file")
    differing = [key for key in common if ours[key]["answer"] != theirs[key]["answer"]]
    return {
        "common": len(common),
        "only_first": len(ours) - len(common),
        "only_second": len(theirs) - len(common),
        "equal": len(common) - len(differing),
        "accuracy": _accuracy(ours, theirs, common),
        "latency_ratio": _latency_ratios(first_summary["latency_ms"], second_summary["latency_ms"]),
        "differing": [_difference(ours[key], theirs[key]) for key in differing],
    }


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test: of the pairs in which one alone is right, is it a fair coin?

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages, Psychometrika 12
    (1947), 153-157; exact as the binomial test with share 1/2.
    """
    n, least = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(least + 1))
    # Whole numbers until the end: 2**n overflows a float above 1023.
    return min(1.0, 2 * tail / 2**n) if n < 1000 else min(1.0, math.exp(math.log(2 * tail) - n * math.log(2)))


def diff_lines(diff: Json) -> list[str]:
    """Returns a comparison as lines of text."""
    lines = [f"{diff['equal']} of {diff['common']} answers to the same questions are equal"]
    if diff["only_first"] or diff["only_second"]:
        lines.append(f"{diff['only_first']} more in the first run alone, {diff['only_second']} in the second")
    if accuracy := diff["accuracy"]:
        first, second = accuracy["first"], accuracy["second"]
        lines.append(
            f"exact match: first {100 * first:.1f} %, second {100 * second:.1f} %, difference {100 * (second - first):+.1f} "
            f"points (first alone right {accuracy['only_first_right']}, second alone {accuracy['only_second_right']}, "
            f"McNemar's exact p = {accuracy['p']:.3g})"
        )
    lines += ["", f"{'latency, second / first':<26}{'p50':>8}{'p99':>8}"]
    lines += [f"{name:<26}{row['p50']:>8.2f}{row['p99']:>8.2f}" for name, row in diff["latency_ratio"].items()]
    if diff["differing"]:
        lines += ["", f"answers that differ ({min(_MOST_SHOWN, len(diff['differing']))} of {len(diff['differing'])}):"]
        for one in diff["differing"][:_MOST_SHOWN]:
            truth = "" if one["truth"] is None else f" (truth {one['truth']!r})"
            lines.append(f"  {one['sample']} {one['question']} {one['first']!r} -> {one['second']!r}{truth}")
    return lines


def _by_question(run: Run) -> dict[tuple[str, str], Json]:
    """Answers by frame token, or its stamp between keyframes, and question."""
    return {(str(line["sample"] or line["stamp_ns"]), str(line["id"])): line for line in run.answers}


def _accuracy(ours: Mapping[Any, Json], theirs: Mapping[Any, Json], common: list[Any]) -> Json | None:
    known = [key for key in common if ours[key]["truth"] is not None]
    if not known:
        return None
    right = [tuple(is_correct(run[key]["answer"], run[key]["truth"]) for run in (ours, theirs)) for key in known]
    only_first = sum(first and not second for first, second in right)
    only_second = sum(second and not first for first, second in right)
    return {
        "n": len(known),
        "first": sum(first for first, _ in right) / len(known),
        "second": sum(second for _, second in right) / len(known),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "p": mcnemar_p(only_first, only_second),
    }


def _latency_ratios(first: Json, second: Json) -> Json:
    """Returns second / first for every stage that both have and that takes any time."""
    return {
        name: {key: second[name][key] / row[key] for key in ("p50", "p99")}
        for name, row in first.items()
        if name in second and row["p50"] > 0 and row["p99"] > 0
    }


def _difference(first: Json, second: Json) -> Json:
    kept = {key: first[key] for key in ("drive", "sample", "id", "question", "truth")}
    return kept | {"first": first["answer"], "second": second["answer"]}
