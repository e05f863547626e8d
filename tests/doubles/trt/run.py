"""One run of an engine on the device: what it reads, writes and leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.doubles.device.order import Access
from tests.doubles.errors import Race, Undefined
from tests.doubles.trt.core import EngineCore
from tests.doubles.trt.model import Port, Shape

_POISON = 0xA5


@dataclass
class State:
    """What a context keeps on the device. `ran`: profile and shapes of its last run; `flushed`: of the last that was queued."""

    alive: bool = True
    profile: int = -1
    ran: Any = None
    flushed: Any = None


@dataclass
class Run:
    """A run with the shapes and addresses that held when it was queued."""

    core: EngineCore
    state: State
    shapes: dict[str, Shape]
    addresses: dict[str, int]
    scratch: int
    scratch_bytes: int
    key: Any
    accesses: list[Access] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = {**self.shapes, **self.core.model.output_shapes(self.shapes)}
        reads = [self._access(port, writes=False) for port in self.core.inputs.values()]
        writes = [self._access(port, writes=True) for port in self.core.outputs.values()]
        scratch = Access(self.scratch, self.scratch_bytes, True, "a run's activation memory")
        self._refuse_overlaps(reads, writes, scratch)
        self.accesses = [*reads, *writes, scratch]

    def run(self) -> None:
        """Computes.

        Raises:
            Undefined: the context is gone, or its profile's change was not waited for.
            IllegalAddressError: a tensor leaves its memory.
        """
        if not self.state.alive:
            raise Undefined("a context was destroyed while its work was queued: synchronise first")
        if self.state.profile != self.key[0]:
            raise Undefined("a run came before the change of its profile: order its stream after that of the change")
        inputs = {name: self._view(port).copy() for name, port in self.core.inputs.items()}
        results = self.core.session.run(list(self.core.outputs), inputs)
        self.core.machine.memory.view(self.scratch, self.scratch_bytes).fill(_POISON)
        for port, result in zip(self.core.outputs.values(), results, strict=True):
            if result.shape != self.shapes[port.name]:
                raise AssertionError(f"{port.name}: inferred {self.shapes[port.name]}, computed {result.shape}")
            self._view(port)[...] = result
        self.state.ran = self.key

    def replay(self) -> None:
        """Computes as part of a graph.

        Raises:
            Undefined: the context ran with other shapes meanwhile.
        """
        if self.state.alive and self.state.ran != self.key:
            raise Undefined("a captured graph is launched after its context ran with other shapes: use one context per graph")
        self.run()

    def _view(self, port: Port) -> np.ndarray[Any, Any]:
        shape = self.shapes[port.name]
        size = int(np.prod(shape, dtype=np.int64)) * port.numpy.itemsize
        return self.core.machine.memory.view(self.addresses[port.name], size).view(port.numpy).reshape(shape)

    def _access(self, port: Port, *, writes: bool) -> Access:
        size = int(np.prod(self.shapes[port.name], dtype=np.int64)) * port.numpy.itemsize
        return Access(self.addresses[port.name], size, writes, f"tensor {port.name}")

    def _refuse_overlaps(self, reads: list[Access], writes: list[Access], scratch: Access) -> None:
        """Memory of one run that meets itself, but for outputs that are written in place."""
        names = [f"tensor {name}" for name in self.core.outputs]
        aliases = {f"tensor {output}": f"tensor {given}" for output, given in self.core.plan.aliases.items()}
        for place, output in enumerate(writes):
            for other in [*reads, *writes[place + 1 :]]:
                if other.what != aliases.get(names[place]) and output.conflicts(other):
                    raise Race(f"{output.what} overlaps {other.what} of the same run")
        for one in (*reads, *writes):
            if one.conflicts(scratch):
                raise Race(f"{one.what} overlaps the run's activation memory")
