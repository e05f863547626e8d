"""The double of cuda-python's package `cuda`; see `tests.doubles`."""

from tests.doubles.machine import machine as _machine

if _machine().fails("no-cuda-bindings"):
    raise ModuleNotFoundError("No module named 'cuda'", name="cuda")
