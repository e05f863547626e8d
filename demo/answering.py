"""Two ways to answer a drawn keyframe's questions: a bundle in its pipeline, and the checkpoint in torch, its reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from leo_edge.demo.training.sequence import PromptParts, prompt_parts
from leo_edge.demo.training.student import Student
from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import LeoMiniConfig, parse_config
from leo_edge.export.exporter import ignored_tensors
from leo_edge.export.stages import expected_tensors
from leo_edge.runtime.errors import CheckpointError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline
from leo_edge.runtime.tiles import TileBatch
from leo_edge.runtime.tokenizer import Tokenizer
from leo_edge.runtime.tokens import VisualTokens

MOST_TOKENS = 16


class Answerer(Protocol):
    """Encodes a keyframe once, then answers questions about it."""

    def encode(self, frame_set: FrameSet) -> Any:
        """Returns what `answer` takes for the frames."""

    def answer(self, encoded: Any, questions: list[str]) -> list[str]:
        """Returns an answer to each question."""


class BundleAnswerer:
    """A bundle, as it drives; with fewer visual tokens of a camera, as it does when time is short."""

    def __init__(self, pipeline: Pipeline, max_visual_tokens: int | None = None) -> None:
        self.pipeline = pipeline
        self._options = AskOptions(max_new_tokens=MOST_TOKENS, max_visual_tokens=max_visual_tokens)

    def encode(self, frame_set: FrameSet) -> VisualTokens:
        """Runs the vision experts."""
        return self.pipeline.encode(frame_set)

    def answer(self, encoded: VisualTokens, questions: list[str]) -> list[str]:
        """Asks one question after another."""
        return [self.pipeline.ask(encoded, question, self._options).text for question in questions]


class TorchAnswerer:
    """A LEO-MINI checkpoint in torch, in float32 and without a cache: what a bundle of it must answer, to the word."""

    def __init__(self, student: Student, parts: PromptParts, tokenizer: Tokenizer) -> None:
        self.student, self.parts, self.tokenizer = student.eval(), parts, tokenizer

    @classmethod
    def open(cls, directory: Path) -> TorchAnswerer:
        """Reads a checkpoint.

        Raises:
            CheckpointError: it is incomplete, or not of LEO-MINI.
        """
        checkpoint = Checkpoint.open(directory)
        config = parse_config(checkpoint.config)
        if not isinstance(config, LeoMiniConfig):
            raise CheckpointError(f"{directory} holds a LEO, expected a LEO-MINI: export it and score the bundle")
        checkpoint.require(expected_tensors(config), ignored=ignored_tensors(config))
        path = checkpoint.tokenizer_path
        return cls(Student(config, checkpoint), prompt_parts(config, path), Tokenizer(path))

    @torch.inference_mode()
    def encode(self, frame_set: FrameSet) -> list[torch.Tensor]:
        """Runs the vision experts: tokens of each expert, [1, C, N, d_i]."""
        batch = TileBatch.from_frames(frame_set, self.student.config.tiling)
        per_camera = len(batch.tiles) // len(batch.channels)
        tiles = torch.from_numpy(batch.tiles)
        tokens = [encoder(tiles).unflatten(0, (-1, per_camera)).flatten(1, 2) for encoder in self.student.encoders.values()]
        return [each[None] for each in tokens]

    @torch.inference_mode()
    def answer(self, encoded: list[torch.Tensor], questions: list[str]) -> list[str]:
        """Answers all questions side by side."""
        if not questions:
            return []
        ids = [self.tokenizer.encode(question, special=False) for question in questions]
        answers = self.student.greedy(encoded, [len(ids)], ids, self.parts, MOST_TOKENS)
        return [self.tokenizer.decode(answer) for answer in answers]
