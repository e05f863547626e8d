"""How an engine of `bench/peers` is driven: one process, one JSON line for each line that it reads.

`run` is one round and answers `{"ms": {stage: milliseconds}}`, which is what `leo-edge bench --vs CMD` asks for too. `check`
answers with what the engine computed, so that a broken conversion is found before it is timed. What libraries print goes to
stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
from weights import prompt_ids

CHECKED_TOKENS = 8


class LlmEngine(Protocol):
    """A language model that keeps its own cache."""

    def prefill(self, ids: list[int]) -> Any:
        """Forgets what came before, takes a prompt, returns the last logits [V]."""

    def step(self, token_id: int) -> Any:
        """Appends a token, returns the logits [V]."""


def serve(commands: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Answers until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


def llm_arguments(description: str | None, model: str) -> argparse.ArgumentParser:
    """Returns a parser of the arguments that every language model has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=model)
    parser.add_argument("--prompt", type=int, default=512, metavar="TOKENS", help="(default 512)")
    parser.add_argument("--answer", type=int, default=16, metavar="TOKENS", help="decoded in a round (default 16)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    return parser


def serve_llm(engine: LlmEngine, args: argparse.Namespace) -> None:
    """Serves rounds of a prefill and `--answer` steps. The tokens are the same for every engine, whatever it would say."""
    ids = prompt_ids(args.prompt + args.answer)
    prompt, forced = ids[: args.prompt], ids[args.prompt :]

    def run() -> dict[str, Any]:
        start_ns = perf_counter_ns()
        int(np.argmax(engine.prefill(prompt)))
        prefilled_ns = perf_counter_ns()
        for token_id in forced:
            int(np.argmax(engine.step(token_id)))
        decode_ns = perf_counter_ns() - prefilled_ns
        ms = {"prefill": (prefilled_ns - start_ns) / 1e6, "decode": decode_ns / 1e6 / len(forced)}
        return {"ms": ms, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "rss_bytes": rss_bytes()}

    def check() -> dict[str, Any]:
        logits = np.array(engine.prefill(prompt), np.float32).ravel()
        tokens = [int(logits.argmax())]
        for _ in range(CHECKED_TOKENS - 1):
            tokens.append(int(np.argmax(engine.step(tokens[-1]))))
        # The control: the same prompt with its last token another.
        control = np.array(engine.prefill([*prompt[:-1], prompt[0]]), np.float32).ravel()
        return {"tokens": tokens, "values": rounded(logits), "control": rounded(control)}

    serve({"run": run, "check": check})


def rss_bytes() -> int:
    """Returns the process's memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rounded(array: Any, most: int = 40000) -> list[float]:
    """Returns an array as a short list for JSON: at most `most` numbers, evenly spread."""
    flat = np.asarray(array, np.float32).ravel()
    return [round(float(value), 5) for value in flat[:: max(1, -(-len(flat) // most))]]
