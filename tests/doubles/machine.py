"""The imaginary machine that the doubles stand for: which device and TensorRT it has, and what goes wrong on it.

There is one per process. Tests in the process set it by `set_machine`; a child process reads it from the environment variable
`LEO_EDGE_TEST_MACHINE`, which holds JSON or the path of a JSON file.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.doubles.device.memory import DeviceMemory, PinnedMemory
from tests.doubles.device.order import Order
from tests.doubles.device.streams import Scheduler

VARIABLE = "LEO_EDGE_TEST_MACHINE"

TENSORRT_10_3 = "10.3.0"
TENSORRT_10_16 = "10.16.1.11"
TENSORRT_11_4 = "11.4.0.106"

FAULTS = {
    "no-device": "no GPU: cudaErrorNoDevice, as with num_devices 0",
    "driver-too-old": "every CUDA call says cudaErrorInsufficientDriver, as without any driver",
    "no-tensorrt": "`import tensorrt` finds no such module",
    "no-cuda-bindings": "`import cuda` finds no such module",
    "no-libnvinfer": "`import tensorrt` misses libnvinfer.so",
    "no-libnvdla": "`import tensorrt` misses libnvdla_compiler.so, which JetPack's TensorRT links and a container mounts",
    "malloc": "cudaMalloc is out of memory",
    "host-alloc": "cudaHostAlloc and cudaMallocHost are out of memory",
    "stream-create": "cudaStreamCreate* is out of memory",
    "event-create": "cudaEventCreate* is out of memory",
    "graph-instantiate": "cudaGraphInstantiate is out of memory",
    "illegal-address": "the next work that is run reads an illegal address: every later CUDA call fails too",
    "deserialize-memory": "no memory for an engine's weights",
    "context-memory": "no memory for a context's activations",
    "build-memory": "no memory for any tactic of the build",
    "build-fails": "the builder finds no implementation for a node",
    "parser": "the parser refuses the first node",
    "enqueue": "execute_async_v3 returns False",
    "plan-version": "every plan counts as written by another TensorRT",
    "plan-device": "every plan counts as built for another compute capability",
}
"""What can be made to go wrong. `name:3` goes wrong from the third time on."""


@dataclass(frozen=True)
class MachineConfig:
    """What the machine is. `faults` are names of `FAULTS`.

    `cuda` is the CUDA release of runtime, driver and bindings; empty takes the one that comes with the TensorRT.
    `step_seconds` is how long each step of a build takes, for tests that interrupt one. `races` False lets unordered accesses
    pass, which then read what is there: old data, or NaN.
    """

    tensorrt: str = TENSORRT_10_3
    cuda: str = ""
    device_name: str = "Orin"
    compute_capability: tuple[int, int] = (8, 7)
    total_memory_bytes: int = 32 << 30
    num_devices: int = 1
    faults: tuple[str, ...] = ()
    step_seconds: float = 0.0
    races: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "compute_capability", tuple(self.compute_capability))
        object.__setattr__(self, "faults", tuple(self.faults))
        unknown = [fault for fault in self.faults if fault.partition(":")[0] not in FAULTS]
        if unknown:
            raise ValueError(f"unknown faults {unknown}: there are {sorted(FAULTS)}")
        if self.tensorrt_release[0] not in (10, 11):
            raise ValueError(f"TensorRT {self.tensorrt}: the double knows 10 and 11")

    @property
    def tensorrt_release(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in self.tensorrt.split("."))

    @property
    def cuda_release(self) -> tuple[int, int]:
        """CUDA's major and minor number. JetPack 6.2 has 12.6 with TensorRT 10.3, JetPack 7.2 13.2 with 10.16."""
        text = self.cuda or ("13.2" if self.tensorrt_release >= (10, 13) else "12.6")
        major, minor = text.split(".")
        return int(major), int(minor)

    def to_json(self) -> str:
        """Returns it as the environment variable holds it."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> MachineConfig:
        """Reads it.

        Raises:
            ValueError: an unknown field, fault or version.
        """
        given: dict[str, Any] = json.loads(text)
        unknown = set(given) - {one.name for one in fields(MachineConfig)}
        if unknown:
            raise ValueError(f"{VARIABLE} has unknown fields {sorted(unknown)}")
        return MachineConfig(**given)


@dataclass
class Machine:
    """The state of the machine: memory, and what is queued on it.

    `trt_live` counts TensorRT's objects that hold device resources; `last_error` is what cudaGetLastError says. Everything that
    changes the machine holds `lock`.
    """

    config: MachineConfig = field(default_factory=MachineConfig)
    last_error: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    trt_live: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.memory = DeviceMemory(self.config.total_memory_bytes)
        self.pinned = PinnedMemory()
        self.scheduler = Scheduler(Order(enabled=self.config.races), lambda: self.fails("illegal-address"))

    @property
    def has_device(self) -> bool:
        """Whether CUDA would find a device and a driver for it."""
        broken = {"no-device", "driver-too-old"} & {fault.partition(":")[0] for fault in self.config.faults}
        return self.config.num_devices > 0 and not broken

    def fails(self, fault: str) -> bool:
        """Whether a fault shows now; asking counts as one time."""
        if fault not in FAULTS:
            raise ValueError(f"unknown fault {fault}")
        self.asked[fault] += 1
        return any(
            name == fault and self.asked[fault] >= int(first or 1)
            for name, _, first in (given.partition(":") for given in self.config.faults)
        )

    def live(self) -> dict[str, int]:
        """Counts what is still allocated or alive, by kind; nothing at all is an empty dict."""
        found = {
            "device allocations": self.memory.count("user"),
            "pinned allocations": self.pinned.count(),
            **self.scheduler.live(),
            **{f"tensorrt {kind}": number for kind, number in self.trt_live.items()},
        }
        return {kind: number for kind, number in found.items() if number}


_current: Machine | None = None


def machine() -> Machine:
    """Returns this process's machine, made from the environment when nobody set one."""
    global _current
    if _current is None:
        text = os.environ.get(VARIABLE, "{}")
        _current = Machine(MachineConfig.from_json(text if text.lstrip().startswith("{") else Path(text).read_text()))
    return _current


def set_machine(config: MachineConfig | None) -> Machine | None:
    """Replaces this process's machine by a fresh one; None takes it away."""
    global _current
    _current = None if config is None else Machine(config)
    return _current
