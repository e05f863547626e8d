"""Weights go out under the keys that they came in by."""

from pathlib import Path

import pytest
import torch

from leo_edge.demo.training.config import Sizes, make_tokenizer, model_config
from leo_edge.demo.training.initial import FirstWeights, GivenWeights, checkpoint_tensors, write_checkpoint
from leo_edge.demo.training.student import Student
from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import LeoMiniConfig, parse_config
from leo_edge.export.stages import expected_tensors
from leo_edge.runtime.errors import BundleError


def test_a_checkpoint_goes_through_a_student_unchanged(random_student: Path) -> None:
    checkpoint = Checkpoint.open(random_student)
    config = parse_config(checkpoint.config)
    assert isinstance(config, LeoMiniConfig)
    tensors = checkpoint_tensors(Student(config, checkpoint))
    assert {key: tuple(value.shape) for key, value in tensors.items()} == expected_tensors(config)
    for key, value in tensors.items():
        assert torch.allclose(value, checkpoint.read(key).float(), rtol=1e-5, atol=1e-6), key


@pytest.mark.parametrize("sizes", [Sizes(mmoe=False), Sizes(experts=("geometry",)), Sizes(num_queries=24)])
def test_every_ablation_writes_a_checkpoint_that_its_config_asks_for(sizes: Sizes, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    raw = model_config(sizes, tokenizer.get_vocab_size())
    config = parse_config(raw)
    assert isinstance(config, LeoMiniConfig)
    student = Student(config, FirstWeights(config, 0))
    write_checkpoint(tmp_path / "made", raw, tokenizer.to_str(), checkpoint_tensors(student))
    Checkpoint.open(tmp_path / "made").require(expected_tensors(config))
    with pytest.raises(BundleError, match="exists already"):
        write_checkpoint(tmp_path / "made", raw, tokenizer.to_str(), {})


def test_lora_experts_begin_as_nothing_and_the_seed_decides_the_rest() -> None:
    raw = model_config(Sizes(), 576)
    config = parse_config(raw)
    assert isinstance(config, LeoMiniConfig)
    first, again, other = FirstWeights(config, 0), FirstWeights(config, 0), FirstWeights(config, 1)
    lora = "language_model.model.layers.0.mlp.mmoe.experts.1.lora_B.weight"
    key = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert not first.read(lora).any()
    assert torch.equal(first.read(key), again.read(key))
    assert not torch.equal(first.read(key), other.read(key))
    given = GivenWeights({key: torch.zeros(1)}, first)
    assert torch.equal(given.read(key), torch.zeros(1))
    assert torch.equal(given.read(lora), first.read(lora))
