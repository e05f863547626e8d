"""The later stages: CoTR and projector, then the language model with them, then MMoE with them all, on the experts' features.

Shape letters: B questions, K keyframes, C cameras, Q visual tokens per camera, D hidden width, A answers, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.demo.questions.ask import ANSWERS, LARGEST_COUNT
from leo_edge.demo.training.config import Recipe
from leo_edge.demo.training.dataset import Ints, QuestionArrays
from leo_edge.demo.training.drawing import Asking
from leo_edge.demo.training.experts import Progress, known_loss, rarity
from leo_edge.demo.training.sequence import PromptParts
from leo_edge.demo.training.student import Fused, Student
from leo_edge.demo.world.kinds import KINDS

Halves = npt.NDArray[np.float16]

_KEYFRAMES_PER_STEP, _QUESTIONS_PER_KEYFRAME = 8, 8
_AUX, _ROUTING, _BALANCE = 1.0, 0.7, 0.02
_ASKED = 4.0
_IGNORED = -100
_MMOE_PARTS = ("lora_a", "lora_b", "router_in", "router_out", "router.")


class AuxiliaryHead(nn.Module):
    """Reads off what there is of each camera the question's answer for that camera alone, and how many of each kind it shows.

    Not part of the model.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.visual = nn.Linear(size, 256)
        self.text = nn.Linear(width, 256)
        self.sizes = [len(ANSWERS), len(KINDS) * (LARGEST_COUNT + 1)]
        self.out = nn.Linear(256, sum(self.sizes))

    def forward(self, visual: Tensor, text_mean: Tensor) -> tuple[Tensor, Tensor]:
        """Visual [B, C, size], text [B, D] -> scores of answers [B, C, A] and of counts [B, C, kinds, numbers]."""
        hidden = self.visual(visual) + self.text(text_mean)[:, None]
        answers, counts = self.out(functional.gelu(hidden)).float().split(self.sizes, dim=-1)
        return answers, counts.unflatten(-1, (len(KINDS), -1))


@dataclass(frozen=True)
class Batch:
    """Features [K, C, N, d_i] of the keyframes; how many questions each one has; the questions' numbers, by keyframe."""

    features: list[Tensor]
    counts: list[int]
    numbers: Ints


class Trainer:
    """Everything that the stages share."""

    def __init__(
        self,
        student: Student,
        parts: PromptParts,
        features: Sequence[Halves],
        asked: Sequence[Asking],
        arrays: QuestionArrays,
        tokenizer: Tokenizer,
    ) -> None:
        self.student, self.parts, self.features = student, parts, features
        self.asked, self.arrays, self.tokenizer = asked, arrays, tokenizer
        self.device = student.table.device
        width = student.config.llm.hidden_size
        # Of the visual tokens; and of the language model, at each camera's name behind its tokens.
        self.aux = nn.ModuleDict(
            {"tokens": AuxiliaryHead(student.config.cotr.num_queries * width, width), "names": AuxiliaryHead(width, width)}
        ).to(self.device)
        self.names = torch.tensor([start + length for start, length in parts.spans], device=self.device)
        ids = [tokenizer.encode(answer, add_special_tokens=False).ids for answer in ANSWERS]
        self.answer_ids = [[*answer, parts.stop_id] for answer in ids]

    def batch(self, random: np.random.Generator) -> Batch:
        """Draws the questions of a step."""
        numbers = self.arrays.draw(random, _KEYFRAMES_PER_STEP, _QUESTIONS_PER_KEYFRAME)
        return self.batch_of(numbers)

    def batch_of(self, numbers: Ints) -> Batch:
        """Gathers the features that some questions need; their numbers must be ascending."""
        keyframes, counts = np.unique(self.arrays.keyframe[numbers], return_counts=True)
        features = [torch.from_numpy(np.asarray(kind[keyframes])).to(self.device, torch.bfloat16) for kind in self.features]
        return Batch(features, counts.tolist(), numbers)

    def question_ids(self, numbers: Ints) -> list[list[int]]:
        """Returns the token ids of some questions."""
        texts = self.arrays.texts
        return [texts.ids[text, : texts.lengths[text]].tolist() for text in self.arrays.text[numbers].tolist()]

    def fuse(self, batch: Batch) -> Fused:
        """Runs CoTR and the projector."""
        return self.student.fuse_questions(batch.features, batch.counts, self.question_ids(batch.numbers))

    def aux_loss(self, batch: Batch, head: str, visual: Tensor, text_mean: Tensor) -> Tensor:
        """Cross-entropy of each camera's own answer and counts, where it has them, read by a head off visual [B, C, size].

        Cameras that are asked about weigh more: what is drawn is balanced for them, most answers of the others are no and 0.
        """
        answers, counts = self.aux[head](visual, text_mean)
        weight = 1 + _ASKED * torch.from_numpy(self.arrays.asked[batch.numbers]).to(self.device)  # [B, C]
        answer = torch.from_numpy(self.arrays.by_camera[batch.numbers]).to(self.device)
        number = torch.from_numpy(self.arrays.counts[batch.numbers]).to(self.device)
        return known_loss(answers, answer, weight) + known_loss(counts, number, weight[..., None] + rarity(number))

    def losses(self, batch: Batch, *, language: bool) -> dict[str, Tensor]:
        """Returns the weighted losses of a step by name."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            fused = self.fuse(batch)
            losses = {"aux": _AUX * self.aux_loss(batch, "tokens", fused.visual.flatten(2), fused.text_mean)}
            return losses | self.language_losses(batch, fused) if language else losses

    def language_losses(self, batch: Batch, fused: Fused) -> dict[str, Tensor]:
        """Returns the losses of the language model, by name.

        Of the answers; of their first token where the direction is told; of what is gathered at the cameras' names; MMoE's.
        """
        prompts = [[*ids, *self.parts.suffix] for ids in self.question_ids(batch.numbers)]
        answers = [self.answer_ids[answer] for answer in self.arrays.answer[batch.numbers].tolist()]
        rows = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
        longest = max(len(row) for row in rows)
        targets = [
            [_IGNORED] * (len(prompt) - 1) + answer + [_IGNORED] * (longest - len(prompt) - len(answer) + 1)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        sequences = self.student.sequences(self.parts, rows, fused)
        hidden, balance, middle = self.student.hidden(sequences, fused, len(self.parts.head))
        logits = self.student.llm.head(hidden).float()  # [B, longest, V]
        wanted = torch.tensor(targets, device=self.device).flatten()
        answering = functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=_IGNORED, reduction="sum")
        told = torch.from_numpy(self.arrays.texts.told[self.arrays.text[batch.numbers]])
        first = torch.tensor([answer[0] for answer in answers], device=self.device)
        routing = functional.cross_entropy(logits[torch.arange(len(rows)), told], first)
        gathered = self.aux_loss(batch, "names", middle[:, self.names], fused.text_mean)
        losses = {"answer": answering / len(rows), "routing": _ROUTING * routing, "gathered": _AUX * gathered}
        return losses if self.student.router is None else losses | {"balance": _BALANCE * balance}


Restore = Callable[[str], bool]
"""Takes a stage's name; loads what the stage left, and says whether there was anything."""


def train_joint(
    trainer: Trainer,
    recipe: Recipe,
    say: Callable[[Progress], None],
    *,
    restore: Restore = lambda _: False,
    after: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs the stages, those that `restore` does not know; `after` hears of each that is done."""
    student, aux = trainer.student, trainer.aux
    for encoder in student.encoders.values():
        encoder.requires_grad_(False)
    fusion = [*student.fusion.parameters(), student.table, *aux.parameters()]
    trained = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    plain = [p for name, p in trained if not any(part in name for part in _MMOE_PARTS)]
    everything = [*(p for _, p in trained), *aux.parameters()]
    stages = {
        "cotr": (recipe.aux_questions, fusion),
        "joint": (recipe.joint_questions, [*plain, *aux.parameters()]),
        "mmoe": (recipe.mmoe_questions, everything),
        "last": (recipe.last_questions, everything),
    }
    for number, (stage, (questions, parameters)) in enumerate(stages.items()):
        if not restore(stage):
            torch.manual_seed(recipe.seed)
            random = np.random.default_rng([recipe.seed, number])
            _run(trainer, stage, questions, parameters, recipe.rate, random, say)
            after(stage)


def _run(
    trainer: Trainer,
    stage: str,
    questions: int,
    parameters: Sequence[nn.Parameter],
    rate: float,
    random: np.random.Generator,
    say: Callable[[Progress], None],
) -> None:
    """Trains some parameters on so many questions. The rate rises at first and, with MMoE, falls to nothing."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    steps = max(1, questions // (_KEYFRAMES_PER_STEP * _QUESTIONS_PER_KEYFRAME))
    kept: dict[str, float] = {}
    started = time.monotonic()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * (1 - step / steps if stage in ("mmoe", "last") else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        losses = trainer.losses(trainer.batch(random), language=stage != "cotr")
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for key, value in losses.items():
            figure = float(value.detach())
            kept[key] = 0.97 * kept.get(key, figure) + 0.03 * figure
        if step % 50 == 49 or step == steps - 1:
            say(Progress(stage, (step + 1) / steps, kept | {"s": time.monotonic() - started}))
