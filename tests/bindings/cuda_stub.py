"""Prints a stub of the `cuda.bindings.runtime` that can be imported: run by path, in a process of its own.

The module is Cython and has no types. Its functions have signatures, and docstrings in NumPy's form that name the types of
arguments and results; every function gives a tuple of the error and the results, which are None on failure. Neither needs a
driver.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from types import ModuleType

_HEAD = """import typing
import typing_extensions

_Pointer: typing.TypeAlias = int | typing_extensions.Buffer | None
"""
_TYPES = {
    **dict.fromkeys(("int", "unsigned int", "size_t", "unsigned long long", "long long"), "int"),
    "float": "float",
    "bytes": "bytes",
    "char *": "bytes",
    "list[int]": "list[int]",
}
# Pointers are integers as results (void_ptr in runtime.pyx); the docstrings say Any.
_POINTER_RESULTS = frozenset({"devPtr", "pDevice", "pHost", "ptr"})
_ENTRY = re.compile(r"(?P<indentation> *)(?P<name>\w+)(?: : (?P<type>.+))?")  # of a section; what it means is indented further
_REFERENCE = re.compile(r":py:obj:`~\.(\w+)`")


def write_stub(module: ModuleType) -> str:
    """Returns the text of a stub: functions, enumerations, handles, structures and constants."""
    known = {name: value for name, value in sorted(vars(module).items()) if name.startswith("cuda")}
    classes = {name for name, value in known.items() if isinstance(value, type)}
    parts = [_HEAD]
    for name, value in known.items():
        if isinstance(value, type):
            parts.append(_class(name, value, classes))
        elif callable(value):
            parts.append(_function(name, value, classes))
        elif isinstance(value, int):
            parts.append(f"{name}: int")
    return "\n".join(parts) + "\n"


def _class(name: str, kind: type, classes: set[str]) -> str:
    members = getattr(kind, "__members__", None)  # of the enumerations
    if members is not None:
        lines = [f"{member}: typing.ClassVar[{name}]" for member in members] + ["name: str", "value: int"]
        return "\n    ".join([f"class {name}(int):", *lines])
    lines = ["def getPtr(self) -> int: ..."]
    if hasattr(kind, "__int__"):  # a handle, made of an integer and made into one
        lines += ["def __init__(self, init_value: int = ..., /) -> None: ...", "def __int__(self) -> int: ..."]
    types = _entries(kind, "Attributes")
    attributes = [attribute for attribute in vars(kind) if not attribute.startswith("_") and attribute != "getPtr"]
    lines += [f"{attribute}: {_type(types.get(attribute), classes)}" for attribute in attributes]
    return "\n    ".join([f"class {name}:", *lines])


def _function(name: str, function: Callable[..., object], classes: set[str]) -> str:
    documented = _entries(function, "Parameters")
    said = (inspect.getdoc(function) or "").partition("\n")[0]  # with the types in C: name(size_t count, kind: cudaMemcpyKind)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        in_c = re.search(rf"[(,] ?([\w ]+[ *]){parameter.name}[,=)]", said)
        if parameter.annotation is not parameter.empty:
            kind = _type(str(parameter.annotation), classes)
        elif in_c:
            kind = _type(in_c[1].strip(), classes)
        else:
            kind = _handle_or_pointer(documented.get(parameter.name), classes)
        parameters.append(f"{parameter.name}: {kind}" + ("" if parameter.default is parameter.empty else " = ..."))
    results = _entries(function, "Returns")
    results.pop("cudaError_t", None)  # always there; a few docstrings forget it
    returned = ["cudaError_t", *(_result(result, kind, classes) for result, kind in results.items())]
    return f"def {name}({', '.join(parameters)}) -> tuple[{', '.join(returned)}]: ..."


def _result(name: str, said: str | None, classes: set[str]) -> str:
    if said is None:  # cudaGetErrorName and -String, which do not fail: their docstrings give the type alone
        return _type(name, classes)
    kind = "int" if name in _POINTER_RESULTS else _type(said, classes)
    return kind if kind == "typing.Any" else f"{kind} | None"


def _entries(documented: object, section: str) -> dict[str, str | None]:
    """Returns the names that a section of a docstring lists, each with its type, if it has one."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    entries: dict[str, str | None] = {}
    inside = ""  # the indentation of the section, and a mark
    for line, following in itertools.pairwise([*lines, ""]):
        if following.strip().startswith("---"):
            inside = line[: -len(section)] + "|" if line.strip() == section else ""
        elif inside and (entry := _ENTRY.fullmatch(line)) and entry["indentation"] + "|" == inside:
            entries[entry["name"]] = entry["type"]
    return entries


def _type(said: str | None, classes: set[str]) -> str:
    name = _REFERENCE.sub(r"\1", said or "")
    return name if name in classes else _TYPES.get(name, "typing.Any")


def _handle_or_pointer(said: str | None, classes: set[str]) -> str:
    """A handle may be given as an integer too; a pointer as an integer or as what has a buffer."""
    handles = [name for name in _REFERENCE.findall(said or "") if name in classes]
    if handles:
        return " | ".join([*handles, "int", "None"])
    return "_Pointer" if said == "Any" else "typing.Any"


if __name__ == "__main__":
    from cuda.bindings import runtime

    print(write_stub(runtime), end="")
