"""Where the real nuScenes frames lie. Never copy them into the project: their licence forbids it."""

from pathlib import Path

import pytest

NUSCENES_REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes-real"

needs_real_frames = pytest.mark.skipif(
    not (NUSCENES_REAL / "v1.0-mini" / "scene.json").is_file(), reason=f"no real nuScenes frames in {NUSCENES_REAL}"
)
