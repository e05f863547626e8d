"""Keyframes of world 0 with their questions, made once for all tests here."""

import pytest

from leo_edge.demo.questions.ask import Asked, ask_all
from leo_edge.demo.world.observe import Keyframe, observe
from leo_edge.demo.world.scene import make_scene


@pytest.fixture(scope="session")
def keyframes() -> list[Keyframe]:
    """Two keyframes each of ten scenes."""
    scenes = [make_scene(0, index) for index in range(10)]
    return [observe(scene, number) for index, scene in enumerate(scenes) for number in (3 * index, 3 * index + 10)]


@pytest.fixture(scope="session")
def asked(keyframes: list[Keyframe]) -> list[Asked]:
    return [ask_all(keyframe) for keyframe in keyframes]
