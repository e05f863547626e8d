"""Finds the code of ours that reaches TensorRT or CUDA, and makes the type checker say what types it sees there."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINDINGS = ("tensorrt", "cuda")


def reaching() -> list[Path]:
    """Returns the files of leo_edge, relative to the root, that import the bindings, or a module of ours that does.

    The second hold objects of the bindings that they were given.
    """
    imports = {path: set(_imports(path)) for path in _sources()}
    direct = [path for path, modules in imports.items() if any(module.split(".")[0] in BINDINGS for module in modules)]
    ours = {str(path.with_suffix("")).replace(os.sep, ".") for path in direct}
    return sorted(path for path, modules in imports.items() if path in direct or modules & ours)


def _sources() -> Iterator[Path]:
    for folder, _, files in os.walk(ROOT / "leo_edge", followlinks=True):  # its packages are links
        yield from (Path(folder, file).relative_to(ROOT) for file in files if file.endswith(".py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names_of(stub: Path) -> set[str]:
    """Returns those of a stub's names that have several words: `name` and `shape` are attributes of much else."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(stub.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found if not name.startswith("_") and ("_" in name or not name.islower())}


def ask_types(source: str, names: set[str]) -> str:
    """Returns code with the same lines, in which mypy reveals the type of whatever one of `names` is looked up on.

    `engine.num_layers` becomes `reveal_type(engine).num_layers`. What is looked up on a module is left: mypy knows modules. So
    is what stands in an f-string, of which older Pythons do not know the place.
    """
    tree = ast.parse(source)
    modules = {alias.asname or alias.name for alias in ast.walk(tree) if isinstance(alias, ast.alias)}
    in_text = {inner for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for inner in ast.walk(node)}
    lines = [line.encode() for line in source.splitlines(keepends=True)]  # places are counted in bytes
    insertions: list[tuple[int, int, bytes]] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in names or node in in_text:
            continue
        on = node.value
        if _root(on) in modules:
            continue
        end = (on.end_lineno or on.lineno, on.end_col_offset or on.col_offset)  # ast.parse always gives an end
        insertions += [(on.lineno, on.col_offset, b"reveal_type("), (*end, b")")]
    # From the end, so that places hold. At one place there are only openings, or only closings: their order is all the same.
    for line, column, text in sorted(insertions, reverse=True):
        lines[line - 1] = lines[line - 1][:column] + text + lines[line - 1][column:]
    return b"".join(lines).decode()


def _root(node: ast.expr) -> str | None:
    """Returns what a chain of attributes begins with, if it is a name: trt of trt.ILogger.Severity."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
