"""What a stub (.pyi) declares, to hold the doubles against the real bindings."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass
class Surface:
    """Names of a module, members of its classes, and the arguments of functions: every overload's, without self."""

    members: dict[str, set[str]] = field(default_factory=dict)
    arguments: dict[str, list[list[str]]] = field(default_factory=dict)


def read_surface(stub: Path) -> Surface:
    """Reads a stub."""
    found = Surface()
    for statement in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef):
            found.members[statement.name] = _members(statement)
            for one in statement.body:
                if isinstance(one, ast.FunctionDef):
                    found.arguments.setdefault(f"{statement.name}.{one.name}", []).append(_arguments(one)[1:])
        elif isinstance(statement, ast.FunctionDef):
            found.members[statement.name] = set()
            found.arguments.setdefault(statement.name, []).append(_arguments(statement))
        else:
            found.members.update({name: set() for name in _assigned(statement)})
    return found


def differences(module: ModuleType, real: Surface) -> list[str]:
    """Returns what the double has that the real module has not: names, members, arguments by another name or place."""
    wrong = []
    for name in _public(module):
        value = getattr(module, name)
        if inspect.ismodule(value):
            continue
        if name not in real.members:
            wrong.append(f"{name} is not in the real module")
        elif inspect.isclass(value):
            missing = {one for one in _public(value) if one not in real.members[name]}
            wrong += [f"{name}.{one} is not in the real class" for one in sorted(missing)]
            for one in sorted(set(_public(value)) - missing):
                wrong += _compare(f"{name}.{one}", inspect.getattr_static(value, one), real)
        else:
            wrong += _compare(name, value, real)
    return wrong


def _compare(name: str, value: Any, real: Surface) -> list[str]:
    if not inspect.isfunction(value) or name not in real.arguments:
        return []
    ours = [one.name for one in inspect.signature(value).parameters.values()]
    if "." in name and not isinstance(value, staticmethod):
        ours = ours[1:]
    if any(theirs[: len(ours)] == ours for theirs in real.arguments[name]):
        return []
    return [f"{name} takes {ours}, the real one {real.arguments[name]}"]


def _public(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_") and name != "make" and _has(thing, name)]


def _has(thing: Any, name: str) -> bool:
    """Whether it is the double's own: what comes from bytearray or int is hidden, or not the double's doing."""
    if not inspect.isclass(thing):
        return not getattr(getattr(thing, name), "__module__", "").startswith("typing")
    owner = next((one for one in thing.__mro__ if name in vars(one)), object)
    return owner.__module__.startswith("tests.doubles")


def _members(cls: ast.ClassDef) -> set[str]:
    names = {name for one in cls.body for name in _assigned(one)}
    names |= {one.name for one in cls.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))}
    return names


def _assigned(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _arguments(function: ast.FunctionDef) -> list[str]:
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
