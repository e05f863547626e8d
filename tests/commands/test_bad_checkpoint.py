"""Bad checkpoints and outputs: one `error:` line with what was got and how to mend it, exit code 2, and nothing harmed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leo_edge.export.checkpoint import INDEX_NAME, SINGLE_NAME
from leo_edge.export.random_checkpoint import write_random_checkpoint
from tests.commands.test_bad_input import edit, unharmed
from tests.conftest import CommandLine, MadeOnce

Json = dict[str, Any]

NORM = "language_model.model.norm.weight"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoints: MadeOnce) -> Path:
    return shutil.copytree(tiny_checkpoints["leo-tiny"], tmp_path / "checkpoint")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_random_checkpoint("leo-tiny", tmp_path / "checkpoint", shard_bytes=1_000_000)
    return tmp_path / "checkpoint"


@pytest.fixture
def shard(sharded: Path) -> Path:
    """One shard of several."""
    return sorted(sharded.glob("*.safetensors"))[1]


@pytest.fixture
def export_error(error_line: CommandLine, tmp_path: Path) -> Callable[..., str]:
    """Runs an export that must fail; it leaves the checkpoint as it is, and no bundle, not even a part of one."""

    def run(checkpoint: Path, *options: str) -> str:
        with unharmed(tmp_path):
            return error_line("export", checkpoint, tmp_path / "bundle", *options)

    return run


def edit_tensors(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(checkpoint / SINGLE_NAME)
    change(tensors)
    save_file(tensors, checkpoint / SINGLE_NAME)


class TestWeights:
    def test_truncated_shard(self, sharded: Path, shard: Path, export_error: Callable[..., str]) -> None:
        content = shard.read_bytes()
        shard.write_bytes(content[: len(content) // 2])
        expected = rf"{shard.name} is truncated or no safetensors file \(.+\): copy it again$"
        assert re.search(expected, export_error(sharded))

    def test_missing_shard(self, sharded: Path, shard: Path, export_error: Callable[..., str]) -> None:
        shard.unlink()
        assert f"names {shard.name}, which is not in {sharded}: copy the missing shard" in export_error(sharded)

    def test_index_that_names_a_file_outside(self, sharded: Path, shard: Path, export_error: Callable[..., str]) -> None:
        """The file is there, and holds what is wanted."""
        shard.rename(sharded.parent / "outside.safetensors")

        def redirect(raw: Json) -> None:
            weight_map = raw["weight_map"].items()
            raw["weight_map"] = {key: "../outside.safetensors" if name == shard.name else name for key, name in weight_map}

        edit(sharded / INDEX_NAME, redirect)
        assert "names '../outside.safetensors': expected a .safetensors file in " in export_error(sharded)

    def test_missing_tensor(self, checkpoint: Path, export_error: Callable[..., str]) -> None:
        edit_tensors(checkpoint, lambda tensors: tensors.pop(NORM))
        assert f"1 missing ({NORM}): convert the checkpoint, or correct the config" in export_error(checkpoint)

    def test_unexpected_tensor(self, checkpoint: Path, export_error: Callable[..., str]) -> None:
        edit_tensors(checkpoint, lambda tensors: tensors.update({"mlp3.0.weight": torch.zeros(2)}))
        assert "1 unexpected (mlp3.0.weight): convert the checkpoint" in export_error(checkpoint)

    def test_tensor_of_another_shape(self, checkpoint: Path, export_error: Callable[..., str]) -> None:
        edit_tensors(checkpoint, lambda tensors: tensors.update({NORM: torch.ones(64)}))
        assert f"1 of another shape ({NORM} is [64], expected [128])" in export_error(checkpoint)

    def test_pickled_weights_only(self, checkpoint: Path, export_error: Callable[..., str]) -> None:
        (checkpoint / SINGLE_NAME).rename(checkpoint / "pytorch_model.bin")
        assert "holds only pytorch_model.bin, which would have to be unpickled" in export_error(checkpoint)

    def test_no_tokenizer(self, checkpoint: Path, export_error: Callable[..., str]) -> None:
        (checkpoint / "tokenizer.json").unlink()
        assert f"no tokenizer.json in {checkpoint}: save the fast tokenizer there" in export_error(checkpoint)

    def test_broken_tokenizer(self, checkpoint: Path, export_error: Callable[..., str]) -> None:
        (checkpoint / "tokenizer.json").write_text("{}")
        assert f"{checkpoint / 'tokenizer.json'} is no tokenizer: " in export_error(checkpoint)

    def test_no_checkpoint_at_all(self, tmp_path: Path, export_error: Callable[..., str]) -> None:
        assert export_error(tmp_path / "absent").startswith("error: no config.json in ")

    def test_weights_beyond_float16(self, micro_checkpoint: Path, tmp_path: Path, export_error: Callable[..., str]) -> None:
        """The one that fails while the bundle is being written."""
        checkpoint = shutil.copytree(micro_checkpoint, tmp_path / "checkpoint")
        key = "projector.2.weight"
        edit_tensors(checkpoint, lambda tensors: tensors[key][0, 0].fill_(7e4))
        line = export_error(checkpoint, "--float", "fp16")
        assert line == f"error: {key} reaches 7e+04, beyond float16's 65504: use --float fp32"


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda raw: raw.update(model_type="llava"), "unknown model_type 'llava' in config.json: expected 'hybrid_chat'"),
            (
                lambda raw: raw["llm_config"].update(architectures=["MistralForCausalLM"]),
                "unknown llm_config.architectures ['MistralForCausalLM']: expected one of InternLM2ForCausalLM, ",
            ),
            (
                lambda raw: raw["llm_config"].update(rope_scaling={"type": "mrope"}),
                "unknown rope_type 'mrope' in llm_config: expected one of default, linear, ",
            ),
            (lambda raw: raw.update(template="vicuna"), "unknown template 'vicuna' in config.json: expected one of internlm2-"),
            (lambda raw: raw.update(use_llm_lora=16), "use_llm_lora = 16: merge the LoRA adapter into the weights first"),
            (lambda raw: raw.pop("llm_config"), "config.json has no llm_config: expected a dict"),
            (lambda raw: raw.update(template="llama3"), "the tokenizer has none of the stop tokens of llama3"),
        ],
    )
    def test_something_unknown(
        self, checkpoint: Path, export_error: Callable[..., str], change: Callable[[Json], object], expected: str
    ) -> None:
        edit(checkpoint / "config.json", change)
        assert expected in export_error(checkpoint)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda raw: raw["llm_config"].update(rope_scaling={"type": "dynamic"}), "factor"),
            (lambda raw: raw["llm_config"].update(num_attention_heads=0), "num_attention_heads"),
            (lambda raw: raw["llm_config"].update(vocab_size=-1), "vocab_size"),
            (lambda raw: raw["vision_config_1"].update(hidden_size="64"), "internvit"),
            (lambda raw: raw["vision_config_1"].update(image_size=None), "image_size"),
            (lambda raw: raw["vision_config_1"].update(image_size=3), "cannot resize 112 to 3 pixels"),
            (lambda raw: raw["vision_config_2"].update(num_attention_heads=0), "sam"),
            (lambda raw: raw["vision_config_2"].update(patch_size=[16]), "sam"),
            (lambda raw: raw.update(downsample_ratio2=2), "do not interleave"),
            (lambda raw: raw.update(downsample_ratio=0.25), "do not interleave"),
            (lambda raw: raw.update(downsample_ratio2=0), "downsample_ratio2 must be at least 1"),
        ],
    )
    def test_sizes_that_make_no_model(
        self, checkpoint: Path, export_error: Callable[..., str], change: Callable[[Json], object], expected: str
    ) -> None:
        edit(checkpoint / "config.json", change)
        assert expected in export_error(checkpoint)

    def test_context_beyond_the_positions_that_the_model_knows(
        self, tmp_path: Path, tiny_checkpoints: MadeOnce, export_error: Callable[..., str]
    ) -> None:
        """Llama's RoPE does not stretch, unless its config says how."""
        checkpoint = shutil.copytree(tiny_checkpoints["leo-mini-tiny"], tmp_path / "checkpoint")
        assert "4096" in export_error(checkpoint, "--context-len", "4097")

    def test_unknown_vision_expert(self, tmp_path: Path, tiny_checkpoints: MadeOnce, export_error: Callable[..., str]) -> None:
        checkpoint = shutil.copytree(tiny_checkpoints["leo-mini-tiny"], tmp_path / "checkpoint")
        edit(checkpoint / "config.json", lambda raw: raw["vision_configs"][0].update(model_type="eva02"))
        assert "unknown vision expert 'eva02' in config.json: expected one of internvit, sam, clip" in export_error(checkpoint)

    def test_tokenizer_with_more_tokens_than_the_embedding_table(
        self, checkpoint: Path, export_error: Callable[..., str]
    ) -> None:
        def move(raw: Json) -> None:
            next(token for token in raw["added_tokens"] if token["content"] == "<IMG_CONTEXT>")["id"] = 5000
            raw["model"]["vocab"]["<IMG_CONTEXT>"] = 5000

        edit(checkpoint / "tokenizer.json", move)
        assert "320" in export_error(checkpoint)


class TestOutput:
    def test_bundle_that_exists(self, checkpoint: Path, error_line: CommandLine, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        with unharmed(tmp_path):
            line = error_line("export", checkpoint, bundle)
        assert line == f"error: {bundle} exists already: remove it, or write to another directory"

    def test_checkpoint_that_exists(self, checkpoint: Path, error_line: CommandLine, tmp_path: Path) -> None:
        with unharmed(tmp_path):
            assert "exists already" in error_line("checkpoint", "leo-tiny", checkpoint)

    def test_directory_that_cannot_be_made(self, checkpoint: Path, error_line: CommandLine) -> None:
        assert "cannot write to" in error_line("checkpoint", "leo-tiny", checkpoint / "config.json" / "c")

    def test_unknown_preset(self, error_line: CommandLine, tmp_path: Path) -> None:
        line = error_line("checkpoint", "leo-13b", tmp_path / "c")
        assert line.startswith("error: unknown preset 'leo-13b': expected one of leo-tiny, leo-7b, ")
        assert not list(tmp_path.iterdir())

    def test_negative_seed(self, error_line: CommandLine, tmp_path: Path) -> None:
        assert "seed" in error_line("checkpoint", "leo-tiny", tmp_path / "c", "--seed", "-1")
        assert not list(tmp_path.iterdir())
