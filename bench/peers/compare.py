"""leo_edge beside the engines that one would take instead, on the same weights: `make bench-peers`; see docs/peers.md.

Each engine is a process. In every round each takes its turn, in an order that is drawn anew, so that all see the same state of
the machine. Printed are medians, and how many times longer than leo_edge an engine takes, with a bootstrap interval of 95 %
over the rounds. Before that each engine is asked what it computes, which must be what the first one does: exit code 1 if it is
not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from engines import SECTIONS, Contender, contenders
from process import EngineError, EngineProcess
from weights import say

from leo_edge.bench.limits import Limits, measure_limits
from leo_edge.bench.machine import cpu_name
from leo_edge.bench.regression import ratio_interval
from leo_edge.commands.gemm_models import gemm_models

# The least correlation with the reference, above that of a prompt whose last token is another (0.7). What random weights say
# has no margin: an 8-bit engine may choose another token.
LEAST_CORRELATION = {"fp32": 0.9999, "half": 0.999, "int8": 0.9, "int4": 0.8}


@dataclass
class Measured:
    """What a contender did: its check, its samples by stage, and why it is out if it is."""

    contender: Contender
    correlation: float | None = None
    control: float | None = None
    tokens_equal: int | None = None
    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int = 0
    rss_bytes: int = 0
    out: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it computes what the reference does, and its control does not."""
        least = LEAST_CORRELATION[self.contender.precision]
        if self.correlation is not None and self.control is not None and not self.control < least <= self.correlation:
            return False
        return self.tokens_equal is None or self.contender.precision != "fp32" or self.tokens_equal == 1


def measure(section: str, all_of_it: list[Contender], args: argparse.Namespace) -> list[Measured]:
    """Starts the engines of a section, checks them, and takes the rounds."""
    found, running = [], {}
    reference: dict[str, Any] | None = None
    for contender in all_of_it:
        one = Measured(contender)
        found.append(one)
        try:
            process = EngineProcess(contender.name, contender.make(), args.work / "logs")
            running[contender.name] = process
            answer = process.ask("check")
        except (EngineError, ImportError, RuntimeError, OSError) as error:
            one.out = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
            say(f"{section}: {contender.name} is left out: {one.out}")
            if contender.name in running:
                running.pop(contender.name).close()
            continue
        reference = reference or answer
        if contender.is_same_model:
            judge(one, answer, reference)
        say(f"{section}: {contender.name} is ready{'' if one.is_right else ', and computes something else'}")
        if contender.check_only:
            running.pop(contender.name).close()
    try:
        take_rounds(found, running, SECTIONS[section](args.rounds))
    finally:
        for process in running.values():
            process.close()
    return found


def judge(one: Measured, answer: dict[str, Any], reference: dict[str, Any]) -> None:
    """Holds an engine's answer against the reference's."""
    if "values" in answer:
        one.correlation = float(np.corrcoef(answer["values"], reference["values"])[0, 1])
        one.control = float(np.corrcoef(answer["control"], reference["values"])[0, 1])
    if "tokens" in answer:
        pairs = zip(answer["tokens"], reference["tokens"], strict=True)
        one.tokens_equal = int(all(a == b for a, b in pairs))


def take_rounds(found: list[Measured], running: dict[str, EngineProcess], rounds: int) -> None:
    """Takes one round to warm up and then those that count, in shuffled order."""
    shuffled = random.Random(0)
    turns = [one for one in found if one.contender.name in running]
    for number in range(rounds + 1):
        shuffled.shuffle(turns)
        for one in turns:
            answer = running[one.contender.name].ask("run")
            one.peak_bytes, one.rss_bytes = answer.get("peak_bytes", 0), answer.get("rss_bytes", 0)
            for stage, ms in answer["ms"].items() if number else ():
                one.samples_ms.setdefault(stage, []).append(ms)
        say(f"round {number} of {rounds}" if number else "warm-up")


def table(section: str, found: list[Measured], limits: Limits) -> str:
    """Returns a section's table."""
    timed = [one for one in found if one.samples_ms]
    if not timed:
        return f"{section}: nothing ran"
    ours = next((one for one in timed if one.contender.ours), timed[0])
    lines, stages = [], list(ours.samples_ms)
    head = (
        f"{'':<34}"
        + "".join(f"{stage + ' ms':>13}{'/ ours':>8}{'95 %':>16}{'limit':>7}" for stage in stages)
        + f"{'corr.':>10}"
    )
    lines.append(head)
    for one in found:
        if one.out:
            lines.append(f"{one.contender.name:<34}  left out: {one.out}")
            continue
        cells = "".join(_cell(one, ours, stage, limits) for stage in stages) if one.samples_ms else f"{'(check only)':>44}"
        check = "" if one.correlation is None else f"{one.correlation:>10.5f}"
        if one.tokens_equal is not None:
            check += "  same tokens" if one.tokens_equal else "  other tokens"
        lines.append(f"{one.contender.name:<34}{cells}{check}{'' if one.is_right else '  CHECK FAILED'}")
    return "\n".join(lines)


def _cell(one: Measured, ours: Measured, stage: str, limits: Limits) -> str:
    samples = one.samples_ms[stage]
    share = share_of_limit(one, stage, limits)
    limit = "" if share is None else f"{share:.0%}"
    if one is ours:
        return f"{np.median(samples):>13.1f}{'':>8}{'':>16}{limit:>7}"
    interval = ratio_interval(ours.samples_ms[stage], samples, np.random.default_rng(0))
    return f"{np.median(samples):>13.1f}{interval.ratio:>8.2f}{f'{interval.low:.2f}-{interval.high:.2f}':>16}{limit:>7}"


def share_of_limit(one: Measured, stage: str, limits: Limits) -> float | None:
    """Returns the least possible time, by memory or by arithmetic, over the measured one."""
    work, ms = one.contender.work.get(stage), float(np.median(one.samples_ms[stage]))
    if work is None:
        return None
    # Products of 8-bit weights may be computed in 8 bits, whether the engine does or not: one limit for all that have them.
    gops = limits.gemm_int8_gops if one.contender.precision == "int8" else limits.gemm_fp32_gops
    floors = [work.moved_bytes / limits.read_gb_s / 1e6 if limits.read_gb_s else 0, work.flops / gops / 1e6 if gops else 0]
    return max(floors) / ms


def context_growth(found: list[Measured], kv_bytes: int, limits: Limits) -> str:
    """Returns what a token of context costs, in time and in memory, against what the cache's bytes say."""
    timed = [one for one in found if one.samples_ms]
    if len(timed) < 3 or limits.read_gb_s is None:
        return ""
    lengths = np.array([one.contender.context for one in timed], np.float64)
    decode = np.array([np.median(one.samples_ms["decode"]) for one in timed])
    memory = np.array([one.rss_bytes for one in timed], np.float64)
    time_fit, memory_fit = np.polyfit(lengths, decode, 1), np.polyfit(lengths, memory, 1)
    off = np.abs(np.polyval(time_fit, lengths) / decode - 1).max()
    return (
        f"a token of context: {time_fit[0] * 1e3:.2f} us ({kv_bytes / limits.read_gb_s / 1e3:.2f} us to read its cache), "
        f"{memory_fit[0] / 1e3:.0f} kB of memory (its cache: {kv_bytes / 1e3:.0f} kB); "
        f"a line through the times is off by {off:.0%} at most"
    )


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".bench-peers"), metavar="DIR", help="(default .bench-peers)")
    parser.add_argument("--rounds", type=int, default=9, help="of the language model; other sections by this (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="(default: %(default)s)")
    parser.add_argument("--engines", default="", metavar="WORDS", help="only peers whose names hold one of these")
    parser.add_argument("--nuscenes", type=Path, metavar="ROOT", help="JPEGs of this dataset in place of drawn ones")
    parser.add_argument("--json", type=Path, metavar="OUT", help="every sample (default: peers.json in the work directory)")
    args = parser.parse_args()
    sections = args.sections.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        parser.error(f"unknown sections {unknown}: expected some of {', '.join(SECTIONS)}")
    if args.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {args.rounds}")
    args.work.mkdir(parents=True, exist_ok=True)
    args.work = args.work.resolve()
    limits = measure_limits(args.threads, gemm_models())
    print(
        f"{cpu_name()}, {args.threads} threads: reads {limits.read_gb_s:.1f} GB/s, products "
        f"{limits.gemm_fp32_gops:.0f} GFLOP/s in fp32, {limits.gemm_int8_gops:.0f} GOP/s in int8\n"
        "`limit` is the least time that these allow over the time taken."
    )
    measured: dict[str, list[Measured]] = {}
    for section in sections:
        chosen = [one for one in contenders(section, args) if one.is_chosen(args.engines)]
        measured[section] = measure(section, chosen, args)
        print(f"\n{section}\n{table(section, measured[section], limits)}", flush=True)
        if section == "context":
            print(context_growth(measured[section], chosen[0].kv_bytes, limits), flush=True)
        limits = limits.best(measure_limits(args.threads, gemm_models()))
    write_json(args.json or args.work / "peers.json", measured, limits)
    wrong = [one.contender.name for found in measured.values() for one in found if not one.is_right]
    if wrong:
        print(f"not what the reference computes: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def write_json(path: Path, measured: dict[str, list[Measured]], limits: Limits) -> None:
    """Writes every sample."""
    rows = {
        section: [
            {key: value for key, value in vars(one).items() if key != "contender"}
            | {"name": one.contender.name, "precision": one.contender.precision}
            for one in found
        ]
        for section, found in measured.items()
    }
    path.write_text(
        json.dumps({"cpu": cpu_name(), "limits": vars(limits), "sections": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
