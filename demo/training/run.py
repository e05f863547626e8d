"""From nothing to a checkpoint. Every stage leaves files in the work directory, and is skipped where they are there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from leo_edge.demo.training.config import Json, Recipe, Sizes, make_tokenizer, model_config
from leo_edge.demo.training.dataset import question_arrays
from leo_edge.demo.training.drawing import counts_of, read_chunks, write_chunks
from leo_edge.demo.training.evaluate import dev_accuracy
from leo_edge.demo.training.experts import Progress, Seen, train_expert
from leo_edge.demo.training.initial import FirstWeights, GivenWeights, checkpoint_tensors, write_checkpoint
from leo_edge.demo.training.joint import Halves, Trainer, train_joint
from leo_edge.demo.training.sequence import prompt_parts
from leo_edge.demo.training.student import Student
from leo_edge.demo.world.scene import scene_indices
from leo_edge.export.config import LeoMiniConfig, parse_config

Say = Callable[[Progress], None]

_SCENES_PER_CHUNK = 25
_EXPERT_NAMES = Sizes().experts


@dataclass(frozen=True)
class Work:
    """The files of a training run."""

    directory: Path

    def drawn(self, split: str) -> Path:
        """Drawn keyframes of a split."""
        return self.directory / split

    def expert(self, name: str) -> Path:
        """Weights of a trained expert, under the keys of a checkpoint."""
        return self.directory / f"expert-{name}.safetensors"

    def features(self, split: str, name: str) -> Path:
        """An expert's tokens of all keyframes of a split."""
        return self.directory / f"features-{split}-{name}.npy"

    def stage(self, run: str, stage: str) -> Path:
        """What a stage of a run left: the student's weights and the auxiliary head's."""
        return self.directory / f"run-{run}-{stage}.safetensors"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer."""
        return self.directory / "tokenizer.json"


def train(work: Work, checkpoint: Path, recipe: Recipe, sizes: Sizes, say: Say, *, processes: int, device: str = "cpu") -> None:
    """Draws, trains and writes the checkpoint.

    Raises:
        BundleError: something is already at `checkpoint`.
    """
    work.directory.mkdir(parents=True, exist_ok=True)
    for split, scenes in (("train", recipe.scenes), ("dev", recipe.dev_scenes)):
        draw_split(work, split, scenes, recipe, say, processes=processes)
    make_tokenizer().save(str(work.tokenizer))
    train_experts(work, recipe, say, device=device)
    for split in ("train", "dev"):
        write_features(work, split, say, device=device)
    student, raw = train_student(work, recipe, sizes, say, device=device)
    write_checkpoint(checkpoint, raw, work.tokenizer.read_text(encoding="utf-8"), checkpoint_tensors(student.cpu()))


def draw_split(work: Work, split: str, scenes: int, recipe: Recipe, say: Say, *, processes: int) -> None:
    """Draws the first scenes of a split."""
    indices = scene_indices(split, scenes)
    total = -(-len(indices) // _SCENES_PER_CHUNK)
    written = write_chunks(
        work.drawn(split), recipe.world_seed, indices, scenes_per_chunk=_SCENES_PER_CHUNK, processes=processes
    )
    for i, _ in enumerate(written):
        say(Progress(f"drawing {split}", (i + 1) / total, {}))


def train_experts(work: Work, recipe: Recipe, say: Say, *, device: str) -> None:
    """Trains the experts side by side, a process each."""
    missing = [name for name in _EXPERT_NAMES if not work.expert(name).exists()]
    if not missing:
        return
    with ProcessPoolExecutor(len(_EXPERT_NAMES), mp_context=get_context("spawn")) as pool:
        list(pool.map(_train_expert, missing, [work] * len(missing), [recipe] * len(missing), [device] * len(missing)))
    say(Progress("experts", 1.0, {}))


def _train_expert(name: str, work: Work, recipe: Recipe, device: str) -> None:
    """Trains one expert and writes its weights."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(_EXPERT_NAMES)))
    config, _ = _config(work, Sizes(experts=(name,)))
    student = Student(config, FirstWeights(config, recipe.seed)).to(device)
    tiles, labels, asked = read_chunks(work.drawn("train"))
    seen = Seen(tiles, labels, counts_of(asked))
    encoder = student.encoder(name)
    log = work.directory / f"expert-{name}.log"

    def say(progress: Progress) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([progress.stage, progress.done, progress.figures]) + "\n")

    train_expert(name, encoder, seen, keyframes=recipe.expert_keyframes, rate=recipe.expert_rate, seed=recipe.seed, say=say)
    own = {key: value for key, value in checkpoint_tensors(student.cpu()).items() if key.startswith(f"vision_experts.{name}.")}
    # As the checkpoint will hold them: what is trained on top of them sees them so.
    temporary = work.expert(name).with_suffix(".partial")
    save_file({key: value.to(torch.float16) for key, value in own.items()}, temporary)
    temporary.rename(work.expert(name))


def write_features(work: Work, split: str, say: Say, *, device: str) -> None:
    """Encodes all keyframes of a split with both experts."""
    config, _ = _config(work, Sizes())
    student = Student(config, _reader(work, config, seed=0)).to(device)
    tiles, _, _ = read_chunks(work.drawn(split))
    for name in student.encoders:
        encoder = student.encoder(name)
        path = work.features(split, name)
        if path.exists():
            continue
        spec = encoder.expert.spec
        temporary = path.with_suffix(".partial.npy")
        shape = (len(tiles), 6, spec.num_tokens, spec.width)
        store = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for rows in np.array_split(np.arange(len(tiles)), max(1, len(tiles) // 8)):
            batch = torch.from_numpy(tiles[rows]).to(device)
            with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
                tokens = encoder(batch.flatten(0, 1)).float().cpu()
            store[rows] = tokens.unflatten(0, batch.shape[:2]).numpy()
            say(Progress(f"features {split} {name}", (int(rows[-1]) + 1) / len(tiles), {}))
        store.flush()
        temporary.rename(path)


def train_student(work: Work, recipe: Recipe, sizes: Sizes, say: Say, *, device: str) -> tuple[Student, Json]:
    """Trains everything above the experts; returns the student and its config.json."""
    config, raw = _config(work, sizes)
    student = Student(config, _reader(work, config, seed=recipe.seed), text=sizes.text).to(device)
    trainer = trainer_of(work, student, "train", seed=recipe.seed)
    dev = trainer_of(work, student, "dev", seed=recipe.seed)
    run = hashlib.sha256(json.dumps([asdict(recipe), asdict(sizes)]).encode()).hexdigest()[:12]
    parts = nn.ModuleDict({"student": student, "aux": trainer.aux})

    def after(stage: str) -> None:
        save_file({key: value.cpu().contiguous() for key, value in parts.state_dict().items()}, work.stage(run, stage))
        if stage != "cotr":  # which has no language yet
            say(Progress(f"dev after {stage}", 1.0, dev_accuracy(student, dev.parts, dev.features, dev.asked, dev.tokenizer)))

    def restore(stage: str) -> bool:
        if not work.stage(run, stage).exists():
            return False
        parts.load_state_dict(load_file(work.stage(run, stage)))
        return True

    train_joint(trainer, recipe, say, restore=restore, after=after)
    return student, raw


def trainer_of(work: Work, student: Student, split: str, *, seed: int) -> Trainer:
    """Returns a student with the features and questions of a split."""
    tokenizer = Tokenizer.from_file(str(work.tokenizer))
    _, _, asked = read_chunks(work.drawn(split))
    features: list[Halves] = [np.load(work.features(split, name), mmap_mode="r") for name in student.encoders]
    parts = prompt_parts(student.config, work.tokenizer)
    return Trainer(student, parts, features, asked, question_arrays(asked, tokenizer, seed), tokenizer)


def _config(work: Work, sizes: Sizes) -> tuple[LeoMiniConfig, Json]:
    vocab_size = Tokenizer.from_file(str(work.tokenizer)).get_vocab_size()
    raw = model_config(sizes, -(-vocab_size // 16) * 16)
    config = parse_config(raw)
    assert isinstance(config, LeoMiniConfig)
    return config, raw


def _reader(work: Work, config: LeoMiniConfig, *, seed: int) -> GivenWeights:
    """Reads the experts' trained weights, and begins anew with the rest."""
    given: dict[str, torch.Tensor] = {}
    for expert in config.experts:
        given |= load_file(work.expert(expert.name))
    return GivenWeights(given, FirstWeights(config, seed))
