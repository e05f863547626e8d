"""What tests of docker/ share: its files, a program of this environment, and a script that is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SCRIPTS = DOCKER / "scripts"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))


def program(name: str) -> Path:
    """Returns a program of this environment, or skips the test with the reason."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"no {name} in this environment: pip install 'leo_edge[dev]' brings it where it has wheels")
    return path


def run(*command: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Runs a command that must succeed; returns what it printed."""
    done = attempt(*command, environment=environment, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(
    *command: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command, with a shell's environment and what is added to it."""
    return subprocess.run(
        list(map(str, command)),
        env=os.environ | (environment or {}),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
