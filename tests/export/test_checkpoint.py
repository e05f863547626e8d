"""export/checkpoint.py: what is in a checkpoint is known before a weight is read, and every misfit is named at once."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from leo_edge.export.checkpoint import INDEX_NAME, SINGLE_NAME, Checkpoint, read_json
from leo_edge.runtime.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}
SHAPES = {"a.weight": (2, 3), "b.bias": (2,)}


def write_single(directory: Path, tensors: Mapping[str, Tensor] = TENSORS) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "x"}')
    save_file(dict(tensors), directory / SINGLE_NAME)
    return directory


def write_shards(directory: Path, shards: Mapping[str, Mapping[str, Tensor]]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    for name, tensors in shards.items():
        save_file(dict(tensors), directory / name)
    write_index(directory, {key: name for name, tensors in shards.items() for key in tensors})
    return directory


def write_index(directory: Path, weight_map: object) -> None:
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_single(tmp_path / "single")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "sharded", {f"{key[0]}.safetensors": {key: TENSORS[key]} for key in TENSORS})


class TestOpen:
    def test_gives_config_shards_and_shapes(self, single: Path) -> None:
        checkpoint = Checkpoint.open(single)
        assert checkpoint.config == {"model_type": "x"}
        assert checkpoint.shapes == SHAPES
        assert set(checkpoint.shards.values()) == {single / SINGLE_NAME}

    def test_shards_hold_what_a_single_file_does(self, single: Path, sharded: Path) -> None:
        checkpoint = Checkpoint.open(sharded)
        assert checkpoint.shapes == Checkpoint.open(single).shapes
        assert checkpoint.shards["a.weight"] == sharded / "a.safetensors"

    def test_a_file_that_no_index_names_is_left_alone(self, sharded: Path) -> None:
        save_file({"c": torch.zeros(1)}, sharded / "consolidated.safetensors")
        assert Checkpoint.open(sharded).shapes == SHAPES

    def test_scalars_have_an_empty_shape(self, tmp_path: Path) -> None:
        assert Checkpoint.open(write_single(tmp_path / "c", {"s": torch.tensor(3.0)})).shapes == {"s": ()}

    def test_one_tensor_in_two_shards(self, tmp_path: Path) -> None:
        tensor = {"a": torch.zeros(1)}
        write_shards(tmp_path / "c", {"1.safetensors": tensor, "2.safetensors": tensor | {"b": torch.zeros(1)}})
        write_index(tmp_path / "c", {"a": "1.safetensors", "b": "2.safetensors"})
        with pytest.raises(CheckpointError, match=r"2.safetensors and 1.safetensors both hold the tensor a: keep one"):
            Checkpoint.open(tmp_path / "c")

    @pytest.mark.parametrize("length", [0, 4, 60, -1])
    def test_truncated_file(self, single: Path, length: int) -> None:
        content = (single / SINGLE_NAME).read_bytes()
        (single / SINGLE_NAME).write_bytes(content[:length])
        with pytest.raises(
            CheckpointError, match=r"model.safetensors is truncated or no safetensors file \(.+\): copy it again"
        ):
            Checkpoint.open(single)

    def test_header_longer_than_the_file(self, single: Path) -> None:
        (single / SINGLE_NAME).write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
        with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
            Checkpoint.open(single)

    def test_no_weights(self, single: Path) -> None:
        (single / SINGLE_NAME).unlink()
        with pytest.raises(CheckpointError, match=r"single holds no weights: expected model.safetensors or "):
            Checkpoint.open(single)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
    def test_pickled_weights_are_never_read(self, single: Path, name: str) -> None:
        (single / SINGLE_NAME).rename(single / name)
        expected = rf"holds only {re.escape(name)}, which would have to be unpickled: expected .*; save it as safetensors"
        with pytest.raises(CheckpointError, match=expected):
            Checkpoint.open(single)

    def test_directory_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no config.json in .*absent: expected a checkpoint directory"):
            Checkpoint.open(tmp_path / "absent")

    def test_file_in_place_of_the_directory(self, single: Path) -> None:
        with pytest.raises(CheckpointError, match=r"cannot read .*Not a directory"):
            Checkpoint.open(single / SINGLE_NAME)


class TestIndex:
    @pytest.mark.parametrize("name", ["../a.safetensors", "/tmp/a.safetensors", "sub/a.safetensors", "a.bin", "..", ""])
    def test_name_that_is_no_shard_here(self, sharded: Path, name: str) -> None:
        save_file({"a": torch.zeros(1)}, sharded.parent / "a.safetensors")
        write_index(sharded, {"a.weight": name})
        with pytest.raises(CheckpointError, match=rf"names {re.escape(repr(name))}: expected a .safetensors file in "):
            Checkpoint.open(sharded)

    def test_shard_that_is_missing(self, sharded: Path) -> None:
        (sharded / "b.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"names b.safetensors, which is not in .*: copy the missing shard"):
            Checkpoint.open(sharded)

    @pytest.mark.parametrize("weight_map", [None, [], "a.safetensors", {"a": 1}, {"a": None}])
    def test_without_a_map_of_files(self, sharded: Path, weight_map: object) -> None:
        write_index(sharded, weight_map)
        with pytest.raises(CheckpointError, match="has no weight_map of tensor names to files"):
            Checkpoint.open(sharded)

    def test_that_is_no_json(self, sharded: Path) -> None:
        (sharded / INDEX_NAME).write_text('{"weight_map": {"a')
        with pytest.raises(CheckpointError, match=rf"cannot read .*{re.escape(INDEX_NAME)}: Unterminated string"):
            Checkpoint.open(sharded)


class TestRead:
    def test_gives_the_stored_tensor_in_its_stored_type(self, sharded: Path) -> None:
        checkpoint = Checkpoint.open(sharded)
        for key, tensor in TENSORS.items():
            assert checkpoint.read(key).dtype == tensor.dtype
            assert torch.equal(checkpoint.read(key), tensor)

    def test_shard_that_went_away(self, single: Path) -> None:
        checkpoint = Checkpoint.open(single)
        (single / SINGLE_NAME).unlink()
        with pytest.raises(CheckpointError, match=r"cannot read a.weight from .*model.safetensors: "):
            checkpoint.read("a.weight")


class TestRequire:
    def test_exactly_these_tensors(self, single: Path) -> None:
        Checkpoint.open(single).require(SHAPES)

    def test_every_problem_is_in_one_message(self, single: Path) -> None:
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.open(single).require({"a.weight": (3, 2), "c.weight": (1,), "d.weight": (1,)})
        message = str(caught.value)
        assert "2 missing (c.weight, d.weight)" in message
        assert "1 unexpected (b.bias)" in message
        assert "1 of another shape (a.weight is [2, 3], expected [3, 2])" in message
        assert message.endswith("convert the checkpoint, or correct the config")

    def test_long_lists_are_cut_and_counted(self, single: Path) -> None:
        absent: dict[str, tuple[int, ...]] = {f"layer.{i}": (1,) for i in range(10)}
        with pytest.raises(CheckpointError, match=r"10 missing \(layer.0, layer.1, layer.2, layer.3, ... 6 more\)"):
            Checkpoint.open(single).require(SHAPES | absent)

    @pytest.mark.parametrize("key", ["model.layers.3.self_attn.rotary_emb.inv_freq", "vision.embeddings.position_ids"])
    def test_values_that_follow_from_the_config_may_be_there(self, tmp_path: Path, key: str) -> None:
        checkpoint = Checkpoint.open(write_single(tmp_path / "c", TENSORS | {key: torch.zeros(4)}))
        checkpoint.require(SHAPES)

    def test_a_name_that_only_looks_derived_is_refused(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint.open(write_single(tmp_path / "c", TENSORS | {"inv_freq.weight": torch.zeros(4)}))
        with pytest.raises(CheckpointError, match=r"1 unexpected \(inv_freq.weight\)"):
            checkpoint.require(SHAPES)

    def test_ignored_tensors_may_be_there_and_need_not(self, single: Path) -> None:
        checkpoint = Checkpoint.open(single)
        expected = {"a.weight": (2, 3)}
        with pytest.raises(CheckpointError, match=r"1 unexpected \(b.bias\)"):
            checkpoint.require(expected)
        checkpoint.require(expected, ignored=frozenset({"b.bias", "head.weight"}))


class TestReadJson:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "cannot read .*config.json: Expecting value"),
            (b"{", "cannot read .*config.json: Expecting property name"),
            (b"[1]", "config.json holds a list, expected a JSON object"),
            (b"null", "config.json holds a NoneType, expected a JSON object"),
            (b'{"a": "\xff"}', "cannot read .*config.json: 'utf-8' codec"),
            (b'{"a": ' + b"1" * 5000 + b"}", "cannot read .*config.json: Exceeds the limit"),
            (b"[" * 100_000, "cannot read .*config.json: maximum recursion"),
        ],
        ids=["empty", "cut", "list", "null", "latin-1", "endless number", "deep"],
    )
    def test_what_is_no_object(self, tmp_path: Path, content: bytes, expected: str) -> None:
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=expected):
            read_json(tmp_path / "config.json")

    def test_gives_an_object(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"name": "größe", "value": null}', encoding="utf-8")
        assert read_json(tmp_path / "config.json") == {"name": "größe", "value": None}


def test_tokenizer_that_is_missing_says_how_to_get_it(single: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer.json in .*single: save the fast tokenizer there"):
        _ = Checkpoint.open(single).tokenizer_path
