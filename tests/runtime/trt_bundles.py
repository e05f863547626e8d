"""Small bundles for the engine tests: by preset, opset and precision, made once per session, and their engines."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leo_edge.calib.observe import Observer
from leo_edge.calib.table import CalibrationTable
from leo_edge.export.exporter import ExportOptions, export_bundle
from leo_edge.export.presets import PRESETS
from leo_edge.export.quantize.plan import QuantizeOptions
from leo_edge.export.quantize.quantizer import quantize_bundle
from leo_edge.export.random_checkpoint import write_config_checkpoint, write_random_checkpoint
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from tests.conftest import MadeOnce, shared_directory

# Cached rows of 256 bytes, which TensorRT takes anywhere; those of the tiny presets have 128.
WIDE = "leo-mini-wide"
# One expert and one layer each.
MICRO = "micro"


@dataclass(frozen=True)
class Kind:
    """Which bundle. `precision` is fp32, fp16, int8, or int8-kv: the cache too."""

    preset: str
    opset: int = 20
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.preset}-{self.opset}-{self.precision}"


class Bundles:
    """Makes bundles when they are first asked for."""

    def __init__(self, home: Path, micro_checkpoint: Path, tiny_bundles: MadeOnce) -> None:
        self._kinds: dict[str, Kind] = {}
        self._micro, self._checkpoints = micro_checkpoint, MadeOnce(home / "checkpoints", _write_checkpoint)
        self._tiny = tiny_bundles
        self._bundles = MadeOnce(home / "bundles", self._make)
        for directory in ("checkpoints", "bundles"):
            (home / directory).mkdir(exist_ok=True)

    def fresh(self, kind: Kind, to: Path) -> Path:
        """Returns a copy that a test may write engines into."""
        shutil.copytree(self._of(kind), to)
        return to

    def _of(self, kind: Kind) -> Path:
        if kind in (Kind("leo-tiny"), Kind("leo-mini-tiny")):
            return self._tiny[kind.preset]
        self._kinds[str(kind)] = kind
        return self._bundles[str(kind)]

    def _make(self, name: str, path: Path) -> None:
        kind = self._kinds[name]
        if kind.precision.startswith("int8"):
            _quantize(self._of(replace(kind, precision="fp32")), path, kv="int8" if kind.precision == "int8-kv" else "none")
            return
        checkpoint = self._micro if kind.preset == MICRO else self._checkpoints[kind.preset]
        export_bundle(checkpoint, path, ExportOptions(kind.opset, kind.precision), lambda _: None)


def _write_checkpoint(preset: str, path: Path) -> None:
    if preset != WIDE:
        write_random_checkpoint(preset, path)
        return
    config = copy.deepcopy(PRESETS["leo-mini-tiny"])
    config["vision_configs"] = config["vision_configs"][:1]
    config["llm_config"] |= {"num_key_value_heads": 4, "num_hidden_layers": 1}
    write_config_checkpoint(config, path, seed=1)


def _quantize(directory: Path, out: Path, *, kv: str) -> None:
    bundle = open_bundle(directory)
    observer = Observer(bundle, max_new_tokens=4)
    for number in range(2):
        observer.observe(frames(number), QUESTIONS, number)
    table = CalibrationTable(observer.statistics, {"bundle": bundle.id, "range": "minmax"})
    quantize_bundle(bundle, table, out, QuantizeOptions(method="minmax", kv=kv))


QUESTIONS = ("What is ahead?", "Is there a car to the left of me?")


def frames(seed: int, cameras: int = 6, size: tuple[int, int] = (160, 90)) -> FrameSet:
    """Returns cameras of smooth noise."""
    random = np.random.default_rng(seed)
    made = []
    for channel in NUSCENES_CAMERAS[:cameras]:
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        made.append(CameraFrame(channel, np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))))
    return FrameSet.of(made, expected_channels=NUSCENES_CAMERAS[:cameras])


@pytest.fixture(scope="session")
def small_bundles(
    tmp_path_factory: pytest.TempPathFactory,
    session_cache: Path,  # noqa: ARG001 - wanted for what it does
    micro_checkpoint: Path,
    tiny_bundles: MadeOnce,
) -> Bundles:
    """All kinds of small bundles."""
    return Bundles(shared_directory(tmp_path_factory, "small"), micro_checkpoint, tiny_bundles)
