"""A small float bundle and a calibration table of it, made from random images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leo_edge.calib.modality import NoisyLlm, measure
from leo_edge.calib.observe import Observer
from leo_edge.calib.table import CalibrationTable
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.frames import NUSCENES_CAMERAS, CameraFrame, FrameSet
from tests.conftest import MadeOnce

QUESTIONS = ("What is ahead?", "Is there a car to the left of me?")


def random_frames(seed: int, cameras: int = 2) -> FrameSet:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (cameras, 30, 40, 3), dtype=np.uint8).repeat(3, axis=1).repeat(3, axis=2)
    frames = [CameraFrame(NUSCENES_CAMERAS[i], np.ascontiguousarray(image), 0) for i, image in enumerate(images)]
    return FrameSet.of(frames, expected_channels=NUSCENES_CAMERAS[:cameras])


@pytest.fixture(scope="session")
def float_bundle(tiny_bundles: MadeOnce) -> Bundle:
    return open_bundle(tiny_bundles["leo-mini-tiny"])


@pytest.fixture(scope="session")
def table(float_bundle: Bundle) -> CalibrationTable:
    observer = Observer(float_bundle, max_new_tokens=4)
    for number in range(3):
        observer.observe(random_frames(number), QUESTIONS, number)
    sequences = [observer.sequence(random_frames(9), question) for question in QUESTIONS]
    for name, sensitivity in measure(NoisyLlm(float_bundle), sequences, observer.statistics):
        observer.statistics["llm", name].sensitivity = sensitivity
    return CalibrationTable(observer.statistics, {"bundle": float_bundle.id, "range": "minmax"})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "quantized"
