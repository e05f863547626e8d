"""runtime/embedding.py: the rows that the safetensors package reads, and one error for every file that has none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open

from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BundleError

FLOAT_TYPES = [np.float32, np.float16]


def random_rows(dtype: Any, shape: tuple[int, ...] = (11, 6)) -> npt.NDArray[Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def write(path: Path, dtype: Any = np.float32) -> Path:
    safetensors_numpy.save_file({"embedding": random_rows(dtype)}, path)
    return path


def write_raw(path: Path, header: object, data: bytes = bytes(24)) -> Path:
    """A file in the safetensors format around any header; the data has room for 2 x 3 float32."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def header(**changes: Any) -> dict[str, Any]:
    return {"embedding": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}


class TestLookup:
    @pytest.mark.parametrize("dtype", FLOAT_TYPES)
    def test_rows_equal_those_of_the_safetensors_package(self, tmp_path: Path, dtype: Any) -> None:
        table = EmbeddingTable(write(tmp_path / "e.safetensors", dtype))
        expected = safetensors_numpy.load_file(tmp_path / "e.safetensors")["embedding"]
        ids = np.array([10, 0, 3, 3, 7])
        rows = table.lookup(ids)
        assert table.shape == expected.shape == (11, 6)
        assert rows.dtype == dtype
        np.testing.assert_array_equal(rows, expected[ids])
        assert not np.array_equal(rows, expected[ids[::-1]])

    @pytest.mark.parametrize("dtype", FLOAT_TYPES)
    def test_other_tensors_and_metadata_in_the_file_change_nothing(self, tmp_path: Path, dtype: Any) -> None:
        tensors = {"a": random_rows(np.int8, (5,)), "embedding": random_rows(dtype), "z": random_rows(np.float32, (3,))}
        safetensors_numpy.save_file(tensors, tmp_path / "e.safetensors", metadata={"made by": "a test"})
        rows = EmbeddingTable(tmp_path / "e.safetensors").lookup(np.arange(11))
        np.testing.assert_array_equal(rows, tensors["embedding"])

    def test_the_data_may_start_at_any_byte(self, tmp_path: Path) -> None:
        rows = random_rows(np.float32, (2, 3))
        for pad in range(5):  # spaces behind the JSON are part of the header
            text = json.dumps(header()).encode() + b" " * pad
            (tmp_path / "e").write_bytes(len(text).to_bytes(8, "little") + text + rows.tobytes())
            np.testing.assert_array_equal(EmbeddingTable(tmp_path / "e").lookup(np.arange(2)), rows)

    def test_rows_are_copies(self, tmp_path: Path) -> None:
        path = write(tmp_path / "e.safetensors")
        before = path.read_bytes()
        table = EmbeddingTable(path)
        rows = table.lookup(np.array([1, 2]))
        rows[:] = 9.0  # the pipeline writes the visual embeddings into them
        np.testing.assert_array_equal(table.lookup(np.array([1, 2])), random_rows(np.float32)[1:3])
        assert path.read_bytes() == before

    def test_a_row_that_is_not_there(self, tmp_path: Path) -> None:
        table = EmbeddingTable(write(tmp_path / "e.safetensors"))
        with pytest.raises(IndexError, match="index 11 is out of bounds"):
            table.lookup(np.array([11]))


class TestBadFile:
    @pytest.mark.parametrize("dtype", FLOAT_TYPES)
    @pytest.mark.parametrize("cut", [1, 11 * 6 * 2])
    def test_truncated_data(self, tmp_path: Path, dtype: Any, cut: int) -> None:
        path = write(tmp_path / "e.safetensors", dtype)
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(BundleError, match=r"e\.safetensors holds no embedding table .*greater than file size"):
            EmbeddingTable(path)

    @pytest.mark.parametrize("length", [0, 4, 8, 40])
    def test_truncated_header(self, tmp_path: Path, length: int) -> None:
        path = write(tmp_path / "e.safetensors")
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(BundleError, match=r"holds no embedding table \(JSONDecodeError.*: export the bundle again"):
            EmbeddingTable(path)

    def test_another_name(self, tmp_path: Path) -> None:
        safetensors_numpy.save_file({"embeddings": random_rows(np.float32)}, tmp_path / "e.safetensors")
        with pytest.raises(BundleError, match=r"holds no embedding table \(KeyError\('embedding'\)\)"):
            EmbeddingTable(tmp_path / "e.safetensors")

    def test_bfloat16(self, tmp_path: Path) -> None:
        path = write_raw(tmp_path / "e", header(dtype="BF16", data_offsets=[0, 12]), bytes(12))
        with safe_open(path, framework="np") as file:
            assert file.get_slice("embedding").get_dtype() == "BF16"
        with pytest.raises(BundleError, match=r"holds no embedding table \(KeyError\('BF16'\)\)"):
            EmbeddingTable(path)

    @pytest.mark.parametrize("dtype", [np.float64, np.int8])
    def test_other_types(self, tmp_path: Path, dtype: Any) -> None:
        path = write(tmp_path / "e.safetensors", dtype)
        with pytest.raises(BundleError, match=r"holds no embedding table \(KeyError"):
            EmbeddingTable(path)

    @pytest.mark.parametrize("shape", [(66,), (11, 3, 2)])
    def test_not_two_dimensions(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        safetensors_numpy.save_file({"embedding": random_rows(np.float32, shape)}, tmp_path / "e.safetensors")
        with pytest.raises(BundleError, match=r"holds no embedding table \(ValueError.* to unpack"):
            EmbeddingTable(tmp_path / "e.safetensors")

    @pytest.mark.parametrize(
        "content",
        [
            b"\x89PNG\r\n\x1a\n" + bytes(32),
            b'{"embedding": [[0.0]]}',
            b"\xff" * 64,  # a header longer than an integer of this machine
            bytes(64),
        ],
    )
    def test_not_a_safetensors_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "e.safetensors").write_bytes(content)
        with pytest.raises(BundleError, match=r"e\.safetensors holds no embedding table"):
            EmbeddingTable(tmp_path / "e.safetensors")

    @pytest.mark.parametrize(
        "wrong",
        [
            [],
            {"embedding": None},
            {"embedding": [2, 3]},
            header(shape=None),
            header(shape=[2, -3]),
            header(shape=[2**40, 2**40]),
            header(dtype=["F32"]),
            header(data_offsets=None),
            header(data_offsets=["0", "24"]),
            header(data_offsets=[8, 32]),  # runs out of the file
        ],
    )
    @pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy multiplies an impossible shape
    def test_headers_that_say_nothing_possible(self, tmp_path: Path, wrong: object) -> None:
        assert EmbeddingTable(write_raw(tmp_path / "right", header())).shape == (2, 3)
        with pytest.raises(BundleError, match="holds no embedding table"):
            EmbeddingTable(write_raw(tmp_path / "wrong", wrong))

    @pytest.mark.parametrize("offsets", [[], [-8, 16], [0, 8]], ids=str)
    def test_offsets_that_do_not_fit_the_shape(self, tmp_path: Path, offsets: list[int]) -> None:
        with pytest.raises(BundleError, match="holds no embedding table"):
            EmbeddingTable(write_raw(tmp_path / "wrong", header(data_offsets=offsets)))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"e\.safetensors holds no embedding table \(FileNotFoundError"):
            EmbeddingTable(tmp_path / "e.safetensors")
