"""Puts the doubles in the place of `tensorrt` and `cuda`, in this process or in a child's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tests.doubles.machine import VARIABLE, Machine, MachineConfig, set_machine

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
_DOUBLES = ("tensorrt", "cuda", "tests.doubles.trt")


@contextmanager
def installed(config: MachineConfig) -> Iterator[Machine]:
    """Makes `import tensorrt` and `import cuda.bindings.runtime` find the doubles on such a machine, and yields it.

    Modules of leo_edge that had imported either are imported anew on their next import, after it too.
    """
    machine = set_machine(config)
    assert machine is not None
    forget()
    sys.path.insert(0, str(FOLDER))
    try:
        yield machine
    finally:
        sys.path.remove(str(FOLDER))
        forget()
        set_machine(None)


def forget() -> None:
    """Takes the doubles, what they stand for, and modules of leo_edge that hold something of them out of `sys.modules`."""
    names = {name for name in sys.modules if _is_double(name)}
    while more := {name for name, module in list(sys.modules.items()) if name not in names and _holds(name, module, names)}:
        names |= more
    for name in names:
        module = sys.modules.pop(name)
        parent, _, last = name.rpartition(".")
        if parent in sys.modules and getattr(sys.modules[parent], last, None) is module:
            delattr(sys.modules[parent], last)


def environment(config: MachineConfig) -> dict[str, str]:
    """Returns a child process's environment in which both modules are the doubles, on such a machine."""
    path = [str(FOLDER), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), VARIABLE: config.to_json()}


def _is_double(name: str) -> bool:
    return any(name == one or name.startswith(one + ".") for one in _DOUBLES)


def _holds(name: str, module: ModuleType, names: set[str]) -> bool:
    """Whether a module of leo_edge has a value that one of `names` made; a package does not count for its modules."""
    if not name.startswith("leo_edge.") or hasattr(module, "__path__"):
        return False
    values = list(vars(module).values())
    sources = [value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) for value in values]
    return any(isinstance(source, str) and (source in names or _is_double(source)) for source in sources)
