"""The double of `cuda.bindings`: of its modules there is `runtime`."""

from tests.doubles.machine import machine as _machine

__version__ = "{}.{}.0".format(*_machine().config.cuda_release)
