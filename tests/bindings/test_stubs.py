"""Stubs are made whole or not at all, and what pybind11-stubgen writes is mended so that it parses and is true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.bindings import stubs
from tests.bindings.importers import ask_types
from tests.bindings.tensorrt_stub import repair

# As stubgen writes it, with each kind of what is to be mended.
WRITTEN = '''"""Bindings."""
import typing
class DataType:
    """A type."""
    @property
    def itemsize(self):
        ...
class Dims:
    @typing.overload
    def __getitem__(self, arg0: typing.SupportsInt) -> int:
        ...
    def __len__(self) -> int:
        ...
class ITensor:
    shape: Dims
    def is_input(self: ILayer, in: list[int], kind: DataType = <DataType.FLOAT: 0>, name: str = None, axis: int) -> bool:
        """
        Says whether.
        """
    def __enter__(this):
        ...
class Runtime:
    def deserialize_cuda_engine(self, serialized_engine: typing_extensions.Buffer) -> nvinfer1::ICudaEngine:
        ...
    def builder(self) -> nvinfer1::v_1_0::IBuilder:
        ...
    def unknown(self) -> nvinfer1::INothing:
        ...
class ICudaEngine:
    def serialize(self, strategy: typing.Optional[DataType]) -> DataType:
        ...
class Builder:
    pass
bool: DataType
'''


def test_what_stubgen_writes_is_mended() -> None:
    with pytest.raises(SyntaxError):
        ast.parse(WRITTEN)
    mended = repair(WRITTEN)
    compile(mended, "tensorrt/__init__.pyi", "exec")
    lines = {line.strip() for line in mended.splitlines()}
    assert {
        "def itemsize(self) -> float:",
        "def __iter__(self) -> collections.abc.Iterator[int]:",
        "def shape(self) -> Dims:",
        "def shape(self, value: Dims | collections.abc.Sequence[int]) -> None:",
        "def is_input(self, in_: collections.abc.Sequence[int], kind: DataType=..., name: str | None=None, axis: int=...)"
        " -> builtins.bool:",
        "def deserialize_cuda_engine(self, serialized_engine: typing_extensions.Buffer) -> ICudaEngine | None:",
        "def builder(self) -> Builder:",
        "def unknown(self) -> typing.Any:",
        "def serialize(self, strategy: typing.Optional[DataType]) -> DataType | None:",
        "bool: DataType",
    } <= lines
    assert "__enter__" not in mended


def test_what_no_repair_knows_is_refused() -> None:
    with pytest.raises(SyntaxError):
        repair("class Dims:\n    def size(self) -> std::vector<int>:\n        ...\n")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of .stubs, on a machine that has neither network nor compiler."""
    monkeypatch.setattr(stubs, "STUBS", tmp_path / ".stubs")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / ".stubs"


def test_without_a_wheel_nothing_is_left_but_the_reason(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stubs.why_missing("10.3.0") == "no stubs of 10.3.0 of these sources: `make stubs` makes them"
    assert stubs.main(["10.3.0"]) == 0
    why = "no wheel of tensorrt-cu12-bindings 10.3.0 for this Python from pip"
    assert capsys.readouterr().out.startswith(f"10.3.0: not made: {why}")
    assert (stubs.why_missing("10.3.0") or "").startswith(why)
    assert {path.name for path in empty.iterdir()} == {"wheels", "10.3.0.unavailable"}


def test_without_a_compiler_the_reason_says_so(empty: Path) -> None:
    kept = list((Path(__file__).parents[2] / ".stubs/wheels").glob("tensorrt_cu12_bindings-10.3.0-*.whl"))
    if not kept:
        pytest.skip("no wheel of tensorrt-cu12-bindings 10.3.0: `make stubs` downloads it")
    empty.mkdir()
    (empty / "wheels").symlink_to(kept[0].parent)
    with pytest.raises(stubs.StubsUnavailableError, match="no C compiler: gcc builds"):
        stubs.make("10.3.0")
    assert stubs.why_missing("10.3.0") == "no C compiler: gcc builds what TensorRT's bindings link to"
    assert not (empty / "10.3.0").exists()


def test_an_unknown_version_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert stubs.main(["9.9"]) == 2
    assert capsys.readouterr().err.startswith("error: got 9.9, expected some of 10.3.0, ")


def test_what_is_there_is_kept_until_its_sources_change(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubs, "_cuda_stub", lambda name, _folder: {"cuda/bindings/runtime.pyi": f"# {name}\n"})
    assert stubs.make("cuda-13.2.0") == "cuda-13.2.0: made, 1 lines"
    assert stubs.why_missing("cuda-13.2.0") is None
    assert stubs.make("cuda-13.2.0") == "cuda-13.2.0: there already"
    (empty / "cuda-13.2.0" / stubs.STAMP).write_text("of other sources")
    assert stubs.why_missing("cuda-13.2.0") is not None
    assert stubs.make("cuda-13.2.0") == "cuda-13.2.0: made, 1 lines"


def test_types_are_asked_for_where_a_name_is_looked_up() -> None:
    source = (
        "import tensorrt as trt\n\n\ndef f(plan: trt.ICudaEngine) -> str:\n    print(f'{plan.num_io}', plan.first.num_io)\n"
    )
    asked = ask_types(source, {"num_io", "ICudaEngine"})
    assert asked == source.replace("plan.first.num_io", "reveal_type(plan.first).num_io")
