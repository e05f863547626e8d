"""What many tests share: tiny checkpoints and their bundles, made once per session, and bad input to the command line."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leo_edge.cli import main

CommandLine = Callable[..., str]


class MadeOnce(dict[str, Path]):
    """Directories by name, each made when it is first asked for; test processes side by side share them."""

    def __init__(self, home: Path, make: Callable[[str, Path], object]) -> None:
        """`make` takes a name and the directory to be, which it leaves whole or absent."""
        super().__init__()
        self._home, self._make = home, make

    def __missing__(self, name: str) -> Path:
        path = self._home / name
        with path.with_name(f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                self._make(name, path)
        self[name] = path
        return path


def shared_directory(factory: pytest.TempPathFactory, name: str) -> Path:
    """Returns a directory of this run, the same one in each of its test processes."""
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps what `open_bundle` remembers out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Checkpoints by the name of a tiny preset. Copy one before you change it."""
    from leo_edge.export.random_checkpoint import write_random_checkpoint

    return MadeOnce(shared_directory(tmp_path_factory, "checkpoints"), write_random_checkpoint)


@pytest.fixture(scope="session")
def tiny_bundles(
    tmp_path_factory: pytest.TempPathFactory,
    session_cache: Path,  # noqa: ARG001 - wanted for what it does
    tiny_checkpoints: MadeOnce,
) -> MadeOnce:
    """Bundles (opset 20, float32) by the name of a tiny preset. Copy one before you change it."""
    from leo_edge.export.exporter import ExportOptions, export_bundle

    def export(preset: str, path: Path) -> None:
        export_bundle(tiny_checkpoints[preset], path, ExportOptions(), lambda _: None)

    return MadeOnce(shared_directory(tmp_path_factory, "bundles"), export)


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs a command whose input is bad: exit code 2, no result, and one `error:` line, which it returns."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        try:
            code: object = main([str(argument) for argument in arguments])
        except SystemExit as exit_of_argparse:
            code = exit_of_argparse.code
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert code == 2, err
        assert out == ""
        assert [line for line in lines if line.startswith("error:")] == lines[-1:], err
        assert "Traceback" not in err
        return lines[-1]

    return run


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LEO-MINI of one expert and one layer each, with weights of seed 1: the smallest that has every stage."""
    from leo_edge.export.presets import PRESETS
    from leo_edge.export.random_checkpoint import write_config_checkpoint

    mini, leo = PRESETS["leo-mini-tiny"], PRESETS["leo-tiny"]
    expert = {"name": "vit", "model_type": "internvl_vision", **leo["vision_config_1"], "num_hidden_layers": 1}
    llm = mini["llm_config"] | {"num_hidden_layers": 1}
    config = mini | {"vision_configs": [expert], "llm_config": llm}
    made = MadeOnce(shared_directory(tmp_path_factory, "micro"), lambda _, path: write_config_checkpoint(config, path, seed=1))
    return made["checkpoint"]


@pytest.fixture(scope="session")
def micro_bundles(
    tmp_path_factory: pytest.TempPathFactory,
    session_cache: Path,  # noqa: ARG001 - wanted for what it does
    micro_checkpoint: Path,
) -> MadeOnce:
    """Bundles of it: "plain" by `leo-edge export` alone, "fused" in opset 24 and float16 with fewer tiles and tokens."""
    options = {"plain": "", "fused": "--opset 24 --float fp16 --max-tiles 2 --context-len 640"}

    def export(name: str, path: Path) -> None:
        assert main(["export", str(micro_checkpoint), str(path), *options[name].split()]) == 0

    return MadeOnce(shared_directory(tmp_path_factory, "micro-bundles"), export)
