"""What the tests of export share: a bundle to build engines of, on imaginary machines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from leo_edge.runtime.bundle import Bundle, open_bundle
from tests.conftest import MadeOnce
from tests.doubles.fixtures import edge_machine, machine_environment
from tests.export.builds import Build

__all__ = ["edge_machine", "machine_environment"]


@pytest.fixture
def plain_bundle(tmp_path: Path, micro_bundles: MadeOnce) -> Bundle:
    return open_bundle(shutil.copytree(micro_bundles["plain"], tmp_path / "bundle"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def build(plain_bundle: Bundle, said: list[str]) -> Build:
    """Builds that bundle, or another; what is said is in `said`."""
    from leo_edge.export.build import BuildOptions, BuildReport, build_engines

    def run(other: Bundle | None = None, **options: Any) -> BuildReport:
        said.clear()
        return build_engines(other or plain_bundle, BuildOptions(**options), said.append)

    return run
