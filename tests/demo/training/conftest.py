"""One random checkpoint of the tiny model's config, and one drawn keyframe, for all tests here."""

import json
from pathlib import Path

import pytest

from leo_edge.demo.training.config import Sizes, make_tokenizer, model_config
from leo_edge.demo.world.observe import Keyframe, observe
from leo_edge.demo.world.scene import make_scene
from leo_edge.export.random_checkpoint import write_config_checkpoint


@pytest.fixture(scope="session")
def random_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, LoRA experts included, and the tokenizer of the drawn world."""
    directory = tmp_path_factory.mktemp("random-student") / "checkpoint"
    tokenizer = make_tokenizer()
    raw = model_config(Sizes(num_queries=4), -(-tokenizer.get_vocab_size() // 16) * 16)
    write_config_checkpoint(json.loads(json.dumps(raw)), directory, seed=3)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def keyframe() -> Keyframe:
    return observe(make_scene(0, 1), 12)
