"""Two subjects in turns: the protocol that a command speaks to be one of them, and the table of their ratios.

The protocol: the command is started once and loads what it needs. For each round it reads the line `run` from its standard
input, does its work, and writes one line of JSON to its standard output: {"ms": {"prefill": 41.2, "decode": 9.8}}, milliseconds
by stage; what else the line says is left aside. Stages of the same names as ours are compared. Its input ends when no more
rounds come; it should end then too.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import shlex
import subprocess
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import IO

import numpy as np

from leo_edge.bench.measure import ANSWER, Round, StageTime
from leo_edge.bench.memory import peak_bytes_of
from leo_edge.bench.regression import ratio_interval
from leo_edge.bench.report import columns, median_ms
from leo_edge.bench.result import StageSamples
from leo_edge.runtime.errors import LeoEdgeError

_REQUEST = "run\n"
_ANSWER_S = 600.0
_END_S = 10.0
_SHOWN = 80


class PeerSubject:
    """A command that is measured in turns with a bundle. Its standard error goes where ours does.

    `peak_bytes` is the most memory that it has held, as far as it is known.
    """

    def __init__(self, command: str, per: Mapping[str, str], *, answer_s: float = _ANSWER_S) -> None:
        """Starts the command, without a shell. `per` says how often a stage runs, by name; one that is not in it: a question.

        `answer_s` is how long to wait for an answer.

        Raises:
            LeoEdgeError: it cannot be started.
        """
        self.command, self.peak_bytes, self._per, self._answer_s = command, 0, per, answer_s
        try:
            words = shlex.split(command)
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        except (OSError, ValueError, IndexError) as error:
            raise LeoEdgeError(f"cannot start --vs {command!r} ({error}): give a bundle's folder, or a command") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True).start()

    def round(self, number: int) -> Round:  # noqa: ARG002 - every round of a peer is the same
        """See `Subject`.

        Raises:
            LeoEdgeError: the command does not speak the protocol, has ended, or does not answer in time.
        """
        try:
            self._input.write(_REQUEST)
            self._input.flush()
            line = self._lines.get(timeout=self._answer_s)
        except BrokenPipeError:
            line = None
        except queue.Empty:
            raise self._error(f"did not answer within {self._answer_s:g} s") from None
        if line is None:
            raise self._error(f"ended with exit code {self._process.wait()}, expected an answer")
        with contextlib.suppress(OSError):  # it may end after its last answer
            self.peak_bytes = max(self.peak_bytes, peak_bytes_of(self._process.pid))
        return {name: StageTime(self._per.get(name, "question"), ms) for name, ms in self._parse(line).items()}

    def __enter__(self) -> PeerSubject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the command: by the end of its input, or, where it does not care, by force."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(0 if error else _END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _parse(self, line: str) -> dict[str, float]:
        try:
            found = json.loads(line)
            times = {str(name): float(ms) for name, ms in found["ms"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._error(f"answered {_shown(line)}") from None
        if not times or not all(math.isfinite(ms) and ms >= 0 for ms in times.values()):
            raise self._error(f"answered {_shown(line)}")
        # The whole is what warm-up looks at: a command that does not tell it is as slow as its stages together.
        return times if ANSWER in times else times | {ANSWER: sum(times.values())}

    def _error(self, what: str) -> LeoEdgeError:
        return LeoEdgeError(
            f'--vs {self.command!r} {what}: after each line "run" on its standard input it must write one line '
            '{"ms": {"STAGE": MILLISECONDS}}'
        )


def versus_text(ours: Mapping[str, StageSamples], theirs: Mapping[str, StageSamples], random: np.random.Generator) -> str:
    """Returns a table of the stages that both have: medians, B's over A's, and its 95 % interval.

    Raises:
        LeoEdgeError: they have no stage in common.
    """
    common = [name for name in ours if name in theirs]
    if not common:
        raise LeoEdgeError(f"no stage of B ({', '.join(theirs)}) is one of A's ({', '.join(ours)}): name them alike")
    rows: list[tuple[str, ...]] = [("stage", "A p50 ms", "B p50 ms", "B / A", "95 % interval", "")]
    for name in common:
        a, b = ours[name], theirs[name]
        medians = (name, f"{median_ms(a):.2f}", f"{median_ms(b):.2f}")
        if not min(*a.samples_ms, *b.samples_ms) > 0:
            rows.append((*medians, "", "", "not always run"))
            continue
        interval = ratio_interval(a.samples_ms, b.samples_ms, random)
        verdict = "B is slower" if interval.low > 1 else "B is faster" if interval.high < 1 else "no difference seen"
        rows.append((*medians, f"{interval.ratio:.3f}", f"[{interval.low:.3f}, {interval.high:.3f}]", verdict))
    lines = columns(rows, "<>>>><")
    for side, one, other in (("A", ours, theirs), ("B", theirs, ours)):
        if alone := [name for name in one if name not in other]:
            lines.append(f"only {side} has: {', '.join(alone)}")
    return "\n".join(lines)


def _read_lines(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Hands on what the command writes, then None: a thread may wait for it with a limit, a pipe may not."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _shown(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
