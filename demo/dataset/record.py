"""Draws one keyframe with the sweeps that lead to it: writes the images, and notes what is there and what can be asked.

This is the unit of work that is handed to a process, so it takes and returns plain values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leo_edge.demo.dataset.names import image_file, sample_token
from leo_edge.demo.dataset.plan import DatasetOptions
from leo_edge.demo.questions.sets import SetItem
from leo_edge.demo.questions.words import PHRASINGS, to_json
from leo_edge.demo.training.drawing import Asking, asking_of
from leo_edge.demo.world.observe import SMALL_SIZE_PX, Keyframe, attribute_of, observe, shot, visibility_of
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import Scene, make_scene
from leo_edge.replay.question_set import Question
from leo_edge.runtime.frames import RgbImage

ANNOTATED_M = 60.0
"""What no camera shows is annotated within this distance of the ego vehicle's origin; what one shows, always."""
_JPEG_QUALITY = 95
_PNG_LEVEL = 1  # a third larger than the default level, in half its time
# Of a random stream: 1 and 2 are taken by demo/training/drawing.py.
_PHRASING_STREAM = 3


@dataclass(frozen=True)
class Job:
    """One keyframe of one scene, to be written under `root`."""

    root: Path
    options: DatasetOptions
    scene: int
    keyframe: int


@dataclass(frozen=True)
class Annotation:
    """An actor at a keyframe: x, y and yaw in the road frame, `visibility` 1 to 4, and in how many pixels it is seen.

    The pixels are those of the six small images of the keyframe together.
    """

    actor: int
    x: float
    y: float
    yaw: float
    attribute: str | None
    visibility: int
    visible_px: int


@dataclass(frozen=True)
class Recorded:
    """What became of a job. `questions` are those of `asking` in NuScenes-QA's schema."""

    keyframe: int
    annotations: tuple[Annotation, ...]
    questions: tuple[dict[str, Any], ...]
    asking: Asking


def record(job: Job) -> Recorded:
    """Writes the images of a keyframe and its sweeps, and returns its annotations and questions."""
    scene = cached_scene(job.options.seed, job.scene)
    keyframe = observe(scene, job.keyframe)
    for each in job.options.shots(job.keyframe):
        if each.is_key_frame and job.options.size_px == SMALL_SIZE_PX:
            image = keyframe.drawn[each.channel].image
        else:
            image = shot(scene, each.frame_time_s, RIG[each.channel], job.options.size_px).image
        _save(image, job.root / image_file(scene.seed, scene.index, each, job.options.image_format))
    asked = asking_of(keyframe)
    random = np.random.Generator(np.random.SFC64([scene.seed, scene.index, _PHRASING_STREAM, job.keyframe]))
    name = sample_token(scene.seed, scene.index, job.keyframe)
    questions = tuple(to_json(one, name, int(random.integers(len(PHRASINGS[one.form])))) for one in asked.questions)
    return Recorded(job.keyframe, tuple(_annotations(keyframe)), questions, asked)


def scored_questions(asked: Sequence[Asking], items: Sequence[SetItem], seed: int) -> Iterator[Question]:
    """Yields the questions of a set, chosen from what is asked of keyframes, in NuScenes-QA's schema."""
    for item in items:
        entry = asked[item.keyframe]
        yield Question(**to_json(item.question, sample_token(seed, entry.scene, entry.keyframe), item.phrasing))


@lru_cache(maxsize=2)
def cached_scene(seed: int, index: int) -> Scene:
    """Returns a scene; a process works on the same one for many keyframes."""
    return make_scene(seed, index)


def _annotations(keyframe: Keyframe) -> Iterator[Annotation]:
    scene, moment = keyframe.scene, keyframe.moment
    for actor in range(len(scene.actors)):
        visible_px = sum(int(drawn.visible_px[actor]) for drawn in keyframe.drawn.values())
        x, y = float(moment.x[actor]), float(moment.y[actor])
        if visible_px or np.hypot(x, y) <= ANNOTATED_M:
            yield Annotation(
                actor=actor,
                x=x + moment.ego_x,
                y=y,
                yaw=float(moment.yaw[actor]),
                attribute=attribute_of(scene, moment, actor),
                visibility=visibility_of(keyframe, actor),
                visible_px=visible_px,
            )


def _save(image: RgbImage, path: Path) -> None:
    picture = Image.fromarray(image)
    if path.suffix == ".png":
        picture.save(path, compress_level=_PNG_LEVEL)
    else:
        picture.save(path, quality=_JPEG_QUALITY)
