"""An engine in a process of its own, asked line by line; see `protocol.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_END_S = 20.0


class EngineError(Exception):
    """An engine ended instead of answering."""


class EngineProcess:
    """A script of this folder that is running."""

    def __init__(self, name: str, command: list[str], logs: Path) -> None:
        """Starts it. What it and its libraries say goes to a log."""
        logs.mkdir(exist_ok=True)
        self._log = logs / f"{name.replace(' ', '-').replace('/', '-')}.log"
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(logs.parent / "inductor"), "TOKENIZERS_PARALLELISM": "false"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE / command[0]), *command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def ask(self, line: str) -> dict[str, Any]:
        """Returns the answer to a line.

        Raises:
            EngineError: there is none.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            last = (self._log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1]
            raise EngineError(f"{last[:160]} (exit code {self._process.returncode}, log {self._log})")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """Ends it by the end of its input, or by force."""
        try:
            self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
