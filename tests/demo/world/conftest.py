"""Scenes and keyframes of world 0, made once for all tests here."""

import pytest

from leo_edge.demo.world.observe import Keyframe, observe
from leo_edge.demo.world.scene import Scene, make_scene


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [make_scene(0, index) for index in range(12)]


@pytest.fixture(scope="session")
def keyframes(scenes: list[Scene]) -> list[Keyframe]:
    """One keyframe each of eight scenes, spread over the drive."""
    return [observe(scene, 5 * number) for number, scene in enumerate(scenes[:8])]
