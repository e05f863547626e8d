"""Makes type stubs of TensorRT's and CUDA's Python bindings: `python -m tests.bindings.stubs [VERSION...]`.

The bindings are wheels of their own, without the libraries. They are proprietary: what is made of them stays in .stubs/, which
git ignores, a folder per version for MYPYPATH. TensorRT's import against libraries that hold nothing but the nine symbols that
they miss, in a process of its own, where pybind11-stubgen reads them; CUDA's import without a driver.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bindings.tensorrt_stub import repair

STUBS = Path(__file__).resolve().parents[2] / ".stubs"
STAMP = "made_from.sha256"
# JetPack 6.2's, JetPack 7.2's and the newest. cu12 and cu13 hold the same bindings; 10.3.0 is there as cu12 alone.
TENSORRT = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
# The oldest that runtime/cuda.py knows, the last line of CUDA 12, and JetPack 7.2's.
CUDA = ("12.9.1", "12.9.4", "13.2.0")
# What cuda-bindings finds NVIDIA's libraries with, since 12.9 (~=1.1); it has wheels for Python 3.10 still.
_PATHFINDER = ("cuda-pathfinder", "1.3.5")
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "getNvOnnxParserVersion",
)
_LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")


class StubsUnavailableError(Exception):
    """This machine lacks what stubs are made with: the checks that need them are left out, and say so."""


def names() -> tuple[str, ...]:
    """Returns the names of all stubs, which are folders in .stubs/: TensorRT's by version, CUDA's as cuda-<version>."""
    return (*TENSORRT, *(f"cuda-{version}" for version in CUDA))


def why_missing(name: str) -> str | None:
    """Returns why there is no stub of this name, or None: there is one, of these sources."""
    if _stamp(name).is_file() and _stamp(name).read_text() == _fingerprint():
        return None
    reason = STUBS / f"{name}.unavailable"
    return reason.read_text().strip() if reason.is_file() else f"no stubs of {name} of these sources: `make stubs` makes them"


def make(name: str) -> str:
    """Makes a stub unless there is one, whole or not at all. Returns what was done, in one line.

    Raises:
        StubsUnavailableError: no wheel for this Python or no network, no C compiler, no stubgen.
        RuntimeError: the bindings do not import, or stubgen fails.
    """
    if why_missing(name) is None:
        return f"{name}: there already"
    STUBS.mkdir(exist_ok=True)
    reason = STUBS / f"{name}.unavailable"
    reason.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=STUBS) as folder:
            done = Path(folder) / "done"
            contents = _tensorrt_stub(name, Path(folder)) if name in TENSORRT else _cuda_stub(name, Path(folder))
            for file, text in contents.items():
                (done / file).parent.mkdir(parents=True, exist_ok=True)
                (done / file).write_text(text)
            (done / STAMP).write_text(_fingerprint())
            shutil.rmtree(STUBS / name, ignore_errors=True)
            done.rename(STUBS / name)
    except StubsUnavailableError as error:
        reason.write_text(f"{error}\n")
        raise
    return f"{name}: made, {sum(len(text.splitlines()) for text in contents.values()):,} lines"


def _stamp(name: str) -> Path:
    return STUBS / name / STAMP


def _fingerprint() -> str:
    """Of what a stub depends on, but its wheel, which never changes."""
    digest = hashlib.sha256(sys.version.encode())
    for source in ("cuda_stub.py", "stubs.py", "tensorrt_stub.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    if importlib.util.find_spec("pybind11_stubgen"):
        digest.update(importlib.metadata.version("pybind11-stubgen").encode())
    return digest.hexdigest()


def _tensorrt_stub(version: str, folder: Path) -> dict[str, str]:
    """Returns files and what they hold."""
    if importlib.util.find_spec("pybind11_stubgen") is None:
        raise StubsUnavailableError("pybind11-stubgen is not installed: `make env` does it")
    stubgen = ["-m", "pybind11_stubgen", "--print-invalid-expressions-as-is", "--output-dir", str(folder / "raw")]
    run_with_tensorrt(version, folder, [*stubgen, "tensorrt_bindings.tensorrt"])
    return {"tensorrt/__init__.pyi": repair((folder / "raw/tensorrt_bindings/tensorrt.pyi").read_text())}


def run_with_tensorrt(version: str, folder: Path, arguments: Sequence[str]) -> str:
    """Runs Python where `tensorrt_bindings` can be imported, and not used. Returns what it prints; `folder` takes the files.

    Raises:
        StubsUnavailableError: there is no wheel or no C compiler.
        RuntimeError: it failed.
    """
    _unpack(TENSORRT[version], version, folder / "wheel")
    _compile_libraries(folder / "libraries", major=version.partition(".")[0])
    return _python(arguments, {"PYTHONPATH": folder / "wheel", "LD_LIBRARY_PATH": folder / "libraries"})


def _cuda_stub(name: str, folder: Path) -> dict[str, str]:
    _unpack("cuda-bindings", name.removeprefix("cuda-"), folder / "wheel")
    _unpack(*_PATHFINDER, folder / "wheel")
    text = _python([str(Path(__file__).with_name("cuda_stub.py"))], {"PYTHONPATH": folder / "wheel"})
    return {"cuda/__init__.pyi": "", "cuda/bindings/__init__.pyi": "__version__: str\n", "cuda/bindings/runtime.pyi": text}


def _unpack(project: str, version: str, folder: Path) -> None:
    """Unpacks a wheel, which is downloaded once."""
    wheels = STUBS / "wheels"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"

    def kept() -> list[Path]:
        found = wheels.glob(f"{project.replace('-', '_')}-{version}-*.whl")
        return [wheel for wheel in found if f"-{tag}-" in wheel.name or "-py3-" in wheel.name]

    if not kept():
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "15", "--dest", str(wheels)]
        ran = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, f"{project}=={version}"], capture_output=True, text=True
        )
        if ran.returncode or not kept():
            said = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave none"]
            raise StubsUnavailableError(f"no wheel of {project} {version} for this Python from pip: {said[-1]}")
    with zipfile.ZipFile(kept()[0]) as wheel:
        wheel.extractall(folder)


def _compile_libraries(folder: Path, major: str) -> None:
    """Builds what the bindings link to: symbols that are never called."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise StubsUnavailableError("no C compiler: gcc builds what TensorRT's bindings link to")
    folder.mkdir()
    source = folder / "symbols.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS))
    for library in _LIBRARIES:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / f"{library}.so.{major}", source], check=True)


def _python(arguments: Sequence[str], paths: Mapping[str, Path]) -> str:
    """Runs Python with these search paths and returns what it prints.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, **{name: str(path) for name, path in paths.items()}}
    ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{ran.stderr[-4000:]}")
    return ran.stdout


def main(wanted: Sequence[str]) -> int:
    """Makes the stubs that are named, or all. Returns 0 also where this machine cannot: the tests leave out what needs them."""
    unknown = [name for name in wanted if name not in names()]
    if unknown:
        print(f"error: got {', '.join(unknown)}, expected some of {', '.join(names())}", file=sys.stderr)
        return 2
    for name in wanted or names():
        print(_made_or_why_not(name))
    return 0


def _made_or_why_not(name: str) -> str:
    try:
        return make(name)
    except StubsUnavailableError as error:
        return f"{name}: not made: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
