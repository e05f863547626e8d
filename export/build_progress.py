"""How far TensorRT is with a graph: nested bars on a terminal, and the way to stop it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

_NAME_WIDTH = 40


class BuildProgress:
    """What TensorRT's progress monitor reports, phase by phase. It is called from several threads.

    `stopped` is asked at each step; once it says yes, TensorRT ends the build as soon as it can. Bars are on stderr, and off
    where that is no terminal.
    """

    def __init__(self, graph: str, stopped: Callable[[], bool]) -> None:
        self.stopped = stopped
        self._graph = graph
        self._lock = threading.Lock()
        self._depths: dict[str, int] = {}
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def start(self, phase: str, parent: str | None, num_steps: int) -> None:
        """Begins a phase inside of another, or of none. Names come again once their phase has finished."""
        with self._lock:
            depth = self._depths[parent] + 1 if parent in self._depths else 0
            self._depths[phase] = depth
            name = f"{self._graph}: {phase}" if depth == 0 else f"{'  ' * depth}{phase}"
            self._bars[phase] = tqdm(
                total=num_steps, desc=name[:_NAME_WIDTH], position=depth, leave=False, disable=None, file=sys.stderr
            )

    def step(self, phase: str, step: int) -> bool:
        """Takes note that step `step`, counted from 0, is done; returns whether to go on."""
        with self._lock:
            if (bar := self._bars.get(phase)) is not None:
                bar.update(step + 1 - bar.n)
        return not self.stopped()

    def finish(self, phase: str) -> None:
        """Ends a phase, whether all of its steps were done or not."""
        with self._lock:
            self._depths.pop(phase, None)
            if (bar := self._bars.pop(phase, None)) is not None:
                bar.close()

    def close(self) -> None:
        """Ends all phases, as after an error."""
        for phase in list(self._bars):
            self.finish(phase)
