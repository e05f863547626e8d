"""One small dataset for all tests here: a scene's first 1.5 s with sweeps, as JPEG."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leo_edge.demo.dataset.names import VERSION
from leo_edge.demo.dataset.plan import DatasetOptions
from leo_edge.demo.dataset.writer import Report, write_dataset
from leo_edge.demo.world.scene import Scene, make_scene

OPTIONS = DatasetOptions(num_scenes=1, seed=3, seconds=1.5, size_px=(480, 270))


@dataclass(frozen=True)
class Written:
    """A dataset on the disk, what was said about it, and its first scene."""

    root: Path
    options: DatasetOptions
    report: Report
    scene: Scene


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("drawn") / "dataset"
    report = write_dataset(root, OPTIONS, processes=1)
    return Written(root, OPTIONS, report, make_scene(OPTIONS.seed, OPTIONS.scenes[0]))


@pytest.fixture(scope="session")
def devkit(written: Written) -> Any:
    from nuscenes.nuscenes import NuScenes

    return NuScenes(VERSION, str(written.root), verbose=False)
