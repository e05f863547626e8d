"""What the tests of building share: looking at what was done and at what is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leo_edge.export.build import BuildReport

Build = Callable[..., BuildReport]


def reasons(report: BuildReport) -> dict[str, str | None]:
    """Why each graph was built; None: it was reused."""
    return {result.graph: result.reason if result.built else None for result in report.results}


def left(directory: Path) -> list[str]:
    """All files of a directory, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())
