"""The tiny model's figures: every question of a split answered, with the right images and with those of another scene."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from leo_edge.demo.answering import Answerer
from leo_edge.demo.dataset.names import scene_name
from leo_edge.demo.dataset.record import scored_questions
from leo_edge.demo.questions.sets import PER_TYPE, SetItem, choose_set
from leo_edge.demo.training.drawing import Asking, asking_of, draw_scene, frame_set
from leo_edge.demo.world.scene import scene_indices
from leo_edge.replay.question_set import Question
from leo_edge.replay.score import ScoredItem, images_of_other_scenes
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import FrameSet, RgbImage

WORLD_SEED = 0
"""The world in which the shipped model learned, in scenes of its train split."""


@dataclass(frozen=True)
class SplitOptions:
    """What a split's question set is made of: its first scenes, and at most so many questions of each type."""

    split: str = "val"
    scenes: int = 150
    per_type: int = PER_TYPE
    seed: int = WORLD_SEED

    def __post_init__(self) -> None:
        if self.scenes < 2 or self.per_type < 1 or self.seed < 0:
            raise DatasetError(
                f"got {self.scenes} scenes, {self.per_type} questions per type, seed {self.seed}: "
                "expected at least 2 scenes (images are exchanged between scenes), 1 question and seed 0"
            )


@dataclass(frozen=True)
class SplitSet:
    """A split's keyframes, small images and all, its questions, and how many of the candidates were left out in doubt."""

    frames: tuple[FrameSet, ...]
    scenes: tuple[str, ...]
    items: tuple[SetItem, ...]
    questions: tuple[Question, ...]
    in_doubt: int
    candidates: int


@dataclass(frozen=True)
class Answers:
    """Answers to all questions of a set, in its order: with their own images, and with those of another scene."""

    own: tuple[str, ...]
    blind: tuple[str, ...]


def draw_split(options: SplitOptions, *, processes: int, tick: Callable[[int], object] = lambda _: None) -> SplitSet:
    """Draws the keyframes of a split and chooses its questions. `tick` hears of each scene that is done."""
    indices = scene_indices(options.split, options.scenes)
    frames: list[FrameSet] = []
    asked: list[Asking] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for scene in pool.map(_draw, [options.seed] * len(indices), indices):
            frames += [frame_set(entry.keyframe, images) for images, entry in scene]
            asked += [entry for _, entry in scene]
            tick(1)
    items = choose_set(asked, options.per_type, options.seed)
    return SplitSet(
        frames=tuple(frames),
        scenes=tuple(scene_name(entry.scene) for entry in asked),
        items=tuple(items),
        questions=tuple(scored_questions(asked, items, options.seed)),
        in_doubt=sum(entry.in_doubt for entry in asked),
        candidates=sum(entry.candidates for entry in asked),
    )


def answer_set(answerer: Answerer, split: SplitSet, *, tick: Callable[[int], object] = lambda _: None) -> Answers:
    """Answers every question twice; each keyframe is encoded once. `tick` hears of each keyframe that is done."""
    shown_to = _inverse(images_of_other_scenes(split.scenes, seed=0))
    by_keyframe: dict[int, list[int]] = {}
    for number, item in enumerate(split.items):
        by_keyframe.setdefault(item.keyframe, []).append(number)
    own, blind = [""] * len(split.items), [""] * len(split.items)
    for keyframe, frames in enumerate(split.frames):
        askers = [(own, keyframe), *((blind, other) for other in shown_to.get(keyframe, ()))]
        jobs = [(answers, by_keyframe[asker]) for answers, asker in askers if asker in by_keyframe]
        if jobs:
            encoded = answerer.encode(frames)
            for answers, numbers in jobs:
                texts = answerer.answer(encoded, [split.questions[number].question for number in numbers])
                for number, text in zip(numbers, texts, strict=True):
                    answers[number] = text
        tick(1)
    return Answers(tuple(own), tuple(blind))


def scored_items(split: SplitSet, answers: tuple[str, ...]) -> tuple[ScoredItem, ...]:
    """Puts answers beside the truth."""
    return tuple(
        ScoredItem(q.template_type, q.num_hop, q.question, q.answer, text)
        for q, text in zip(split.questions, answers, strict=True)
    )


def _draw(seed: int, index: int) -> list[tuple[dict[str, RgbImage], Asking]]:
    """Draws one scene's keyframes: their small images by camera, and their questions."""
    return [
        ({channel: drawn.image for channel, drawn in keyframe.drawn.items()}, asking_of(keyframe))
        for keyframe in draw_scene(seed, index)
    ]


def _inverse(source: tuple[int, ...]) -> dict[int, list[int]]:
    """Returns by keyframe the keyframes that are shown its images."""
    shown_to: dict[int, list[int]] = {}
    for keyframe, other in enumerate(source):
        shown_to.setdefault(other, []).append(keyframe)
    return shown_to
