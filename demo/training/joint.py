"""Stages 2 to 4: CoTR and projector, then the language model with them, then MMoE with them all, on frozen experts' features.

Shape letters: B questions, K keyframes, C cameras, Q visual tokens per camera, D hidden width, A answers, S tokens of a sequence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from leo_edge.demo.questions.ask import ANSWERS
from leo_edge.demo.training.config import Recipe
from leo_edge.demo.training.dataset import Ints, QuestionArrays
from leo_edge.demo.training.experts import Progress
from leo_edge.demo.training.sequence import PromptParts
from leo_edge.demo.training.student import Fused, Student

Halves = npt.NDArray[np.float16]

_KEYFRAMES_PER_STEP, _QUESTIONS_PER_KEYFRAME = 8, 8
_AUX, _ROUTING, _BALANCE = 1.0, 0.7, 0.02
_IGNORED = -100
_MMOE_PARTS = ("lora_a", "lora_b", "router_in", "router_out", "router.")


class AuxiliaryHead(nn.Module):
    """Reads off one camera's visual tokens what the question's answer is for that camera alone. Not part of the model."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.visual = nn.Linear(num_queries * width, 256)
        self.text = nn.Linear(width, 256)
        self.out = nn.Linear(256, len(ANSWERS))

    def forward(self, fused: Fused) -> Tensor:
        """Visual [B, C, Q, D] -> scores of answers [B, C, A]."""
        hidden = self.visual(fused.visual.flatten(2)) + self.text(fused.text_mean)[:, None]
        scores: Tensor = self.out(functional.gelu(hidden)).float()
        return scores


@dataclass(frozen=True)
class Batch:
    """Features [K, C, N, d_i] of the keyframes; how many questions each one has; the questions' numbers, by keyframe."""

    features: list[Tensor]
    counts: list[int]
    numbers: Ints


class Trainer:
    """Everything that the three stages share."""

    def __init__(
        self, student: Student, parts: PromptParts, features: Sequence[Halves], arrays: QuestionArrays, tokenizer: Tokenizer
    ) -> None:
        self.student, self.parts, self.features, self.arrays = student, parts, features, arrays
        self.device = student.table.device
        self.aux = AuxiliaryHead(student.config.cotr.num_queries, student.config.llm.hidden_size).to(self.device)
        ids = [tokenizer.encode(answer, add_special_tokens=False).ids for answer in ANSWERS]
        self.answer_ids = [[*answer, parts.stop_id] for answer in ids]
        self.head = torch.tensor(parts.head, device=self.device)

    def batch(self, random: np.random.Generator) -> Batch:
        """Draws the questions of a step."""
        numbers = self.arrays.draw(random, _KEYFRAMES_PER_STEP, _QUESTIONS_PER_KEYFRAME)
        return self.batch_of(numbers)

    def batch_of(self, numbers: Ints, dtype: torch.dtype = torch.bfloat16) -> Batch:
        """Gathers the features that some questions need; their numbers must be ascending."""
        keyframes, counts = np.unique(self.arrays.keyframe[numbers], return_counts=True)
        features = [torch.from_numpy(np.asarray(kind[keyframes])).to(self.device, dtype) for kind in self.features]
        return Batch(features, counts.tolist(), numbers)

    def fuse(self, batch: Batch) -> Fused:
        """Runs CoTR and the projector."""
        texts, chosen = self.arrays.texts, self.arrays.text[batch.numbers]
        lengths = texts.lengths[chosen]
        ids = torch.from_numpy(texts.ids[chosen][:, : int(lengths.max())]).to(self.device)
        return self.student.fuse(batch.features, batch.counts, ids, torch.from_numpy(lengths).to(self.device))

    def aux_loss(self, batch: Batch, fused: Fused) -> Tensor:
        """Cross-entropy of each camera's own answer, where it has one."""
        wanted = torch.from_numpy(self.arrays.by_camera[batch.numbers]).to(self.device)
        return functional.cross_entropy(self.aux(fused).flatten(0, 1), wanted.flatten(), ignore_index=-1)

    def answer_losses(self, batch: Batch, fused: Fused) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the loss of the answers, of their first token where the direction is told, and MMoE's balance loss."""
        tails, wanted, told, first = self._tails(batch.numbers)
        hidden, balance = self.student.hidden(self.sequences(tails, fused), fused)
        start = len(self.parts.head)
        logits = self.student.llm.head(hidden[:, start:]).float()  # [B, S - head, V]
        answers = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED, reduction="sum")
        rows = torch.arange(len(told), device=self.device)
        return answers / len(told), functional.cross_entropy(logits[rows, told], first), balance

    def sequences(self, tails: Tensor, fused: Fused) -> Tensor:
        """Returns embeddings [B, S, D]: the head with the visual embeddings in their places, then the tails [B, S - head]."""
        head = self.student.table[self.head].expand(len(tails), -1, -1)
        pieces, end = [], 0
        for camera, (start, length) in enumerate(self.parts.spans):
            pieces += [head[:, end:start], fused.visual[:, camera].to(head.dtype)]
            end = start + length
        return torch.cat([*pieces, head[:, end:], self.student.table[tails]], dim=1)

    def _tails(self, numbers: Ints) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns tails [B, T], what each of their positions must predict [B, T], the telling position and first token [B]."""
        texts = self.arrays.texts
        rows, targets = [], []
        for number in numbers.tolist():
            text, answer = int(self.arrays.text[number]), self.answer_ids[int(self.arrays.answer[number])]
            prompt = [*texts.ids[text, : texts.lengths[text]].tolist(), *self.parts.suffix]
            rows.append(prompt + answer[:-1])
            targets.append([_IGNORED] * (len(prompt) - 1) + answer)
        longest = max(len(row) for row in rows)
        padded = [
            torch.tensor([[*row, *[fill] * (longest - len(row))] for row in table], device=self.device)
            for table, fill in ((rows, 0), (targets, _IGNORED))
        ]
        told = torch.from_numpy(texts.told[self.arrays.text[numbers]]).to(self.device)
        first = [self.answer_ids[int(self.arrays.answer[number])][0] for number in numbers.tolist()]
        return padded[0], padded[1], told, torch.tensor(first, device=self.device)


def train_joint(trainer: Trainer, recipe: Recipe, say: Callable[[Progress], None]) -> None:
    """Runs the three stages."""
    random = np.random.default_rng([recipe.seed, 5])
    torch.manual_seed(recipe.seed)
    student, aux = trainer.student, trainer.aux
    for encoder in student.encoders.values():
        encoder.requires_grad_(False)
    fusion = [*student.fusion.parameters(), student.table, *aux.parameters()]
    special = [p for name, p in student.named_parameters() if any(part in name for part in _MMOE_PARTS)]
    excluded = {id(p) for p in special}
    trained = [p for p in student.parameters() if p.requires_grad]
    plain = [p for p in trained if id(p) not in excluded]
    _run(trainer, "cotr", recipe.aux_questions, fusion, recipe.rate, random, say, language=False)
    _run(trainer, "joint", recipe.joint_questions, [*plain, *aux.parameters()], recipe.rate, random, say)
    everything = [*trained, *aux.parameters()]
    _run(trainer, "mmoe", recipe.mmoe_questions, everything, recipe.rate, random, say, decay=True)


def _run(
    trainer: Trainer,
    stage: str,
    questions: int,
    parameters: Iterable[nn.Parameter],
    rate: float,
    random: np.random.Generator,
    say: Callable[[Progress], None],
    *,
    language: bool = True,
    decay: bool = False,
) -> None:
    """Trains some parameters on so many questions; the rate rises over the first steps and, with `decay`, falls to nothing."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    steps = max(1, questions // (_KEYFRAMES_PER_STEP * _QUESTIONS_PER_KEYFRAME))
    kept: dict[str, float] = {}
    started = time.monotonic()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * (1 - step / steps if decay else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        losses = _losses(trainer, trainer.batch(random), language=language)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for key, value in losses.items():
            figure = float(value.detach())
            kept[key] = 0.97 * kept.get(key, figure) + 0.03 * figure
        if step % 50 == 49 or step == steps - 1:
            say(Progress(stage, (step + 1) / steps, kept | {"s": time.monotonic() - started}))


def _losses(trainer: Trainer, batch: Batch, *, language: bool) -> dict[str, Tensor]:
    with torch.autocast(trainer.device.type, dtype=torch.bfloat16):
        fused = trainer.fuse(batch)
        losses = {"aux": _AUX * trainer.aux_loss(batch, fused)}
        if language:
            answer, routing, balance = trainer.answer_losses(batch, fused)
            losses |= {"answer": answer, "routing": _ROUTING * routing}
            if trainer.student.router is not None:
                losses["balance"] = _BALANCE * balance
    return losses


@torch.inference_mode()
def greedy(trainer: Trainer, numbers: Ints, *, most_tokens: int = 16) -> list[list[int]]:
    """Returns the greedy answers' token ids to some questions, without the stop token."""
    batch = trainer.batch_of(numbers, torch.float32)
    texts, ended = trainer.arrays.texts, [False] * len(numbers)
    prompts = [
        [*texts.ids[t, : texts.lengths[t]].tolist(), *trainer.parts.suffix] for t in trainer.arrays.text[numbers].tolist()
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    fused = trainer.fuse(batch)
    start = len(trainer.parts.head)
    for _ in range(most_tokens):
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        longest = max(len(row) for row in rows)
        tails = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=trainer.device)
        hidden, _ = trainer.student.hidden(trainer.sequences(tails, fused), fused)
        last = torch.tensor([start + len(row) - 1 for row in rows], device=trainer.device)
        picked = trainer.student.llm.head(hidden[torch.arange(len(rows)), last]).argmax(dim=-1).tolist()
        for i, token in enumerate(picked):
            ended[i] = ended[i] or token == trainer.parts.stop_id
            if not ended[i]:
                answers[i].append(token)
        if all(ended):
            break
    return answers
