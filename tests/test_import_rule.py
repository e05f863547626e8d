"""The import rule, in fresh interpreters: the vehicle carries no torch, and the command line starts without it.

The import linter holds the same rule for what is written; these tests hold it for what happens.
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest

HEAVY = frozenset({"torch", "transformers", "onnx", "nuscenes", "rclpy", "matplotlib"})
ENGINES = frozenset({"onnxruntime", "tensorrt", "cuda"})

# Run as `python -c PRELUDE + code name name ...`: the names cannot be imported in that interpreter.
PRELUDE = """
import importlib, pkgutil, sys

class Blocker:
    blocked = frozenset(sys.argv[1:])

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"blocked: {fullname}", name=fullname)

sys.meta_path.insert(0, Blocker())
"""

IMPORT_RUNTIME = (
    PRELUDE
    + f"""
import leo_edge.runtime
for module in pkgutil.walk_packages(leo_edge.runtime.__path__, "leo_edge.runtime."):
    try:
        importlib.import_module(module.name)
        print(module.name)
    except ModuleNotFoundError as error:
        if error.name not in {sorted(ENGINES)}:
            raise
        print(module.name, "needs", error.name)
"""
)


def run_blocked(code: str, blocked: frozenset[str]) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter in which no top-level module of `blocked` can be imported."""
    return subprocess.run([sys.executable, "-c", code, *sorted(blocked)], capture_output=True, text=True, check=False)


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_distributions(roots: frozenset[str]) -> frozenset[str]:
    """The installed distributions that `roots` pull in without extras, themselves included."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = canonical(todo.pop())
        if name in found:
            continue
        try:
            requirements = requires(name) or []
        except PackageNotFoundError:
            continue  # not for this platform
        found.add(name)
        plain = [text for text in requirements if "extra ==" not in text]
        todo += [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in plain]
    return frozenset(found)


def undeclared_modules() -> frozenset[str]:
    """The top-level modules installed here that neither the bare runtime nor an inference engine brings."""
    allowed = required_distributions(frozenset({"leo_edge"}) | ENGINES)
    installed = packages_distributions()
    return frozenset(module for module, names in installed.items() if not allowed & {canonical(name) for name in names})


def test_runtime_imports_where_no_heavy_package_is() -> None:
    result = run_blocked(IMPORT_RUNTIME, HEAVY)
    assert result.returncode == 0, result.stderr


def test_runtime_imports_where_only_its_declared_requirements_are() -> None:
    undeclared = undeclared_modules()
    assert "pytest" in undeclared, "this test would block nothing"
    assert not undeclared & {"leo_edge", "numpy", "PIL", "tokenizers"}
    result = run_blocked(IMPORT_RUNTIME, undeclared)
    assert result.returncode == 0, result.stderr


def test_cli_imports_where_no_heavy_package_is() -> None:
    result = run_blocked(PRELUDE + "import leo_edge.cli", HEAVY)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", [*sorted(HEAVY), "onnx.helper", "onnxscript"])
def test_blocker_blocks(module: str) -> None:
    """The negative control, with a package that imports onnx in the list."""
    result = run_blocked(PRELUDE + f"import {module}", HEAVY)
    assert result.returncode == 1
    assert "ModuleNotFoundError: blocked: " in result.stderr
