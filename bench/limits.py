"""What the machine can do at its best: memory read and products computed per second, measured on as many threads as work.

They are what a stage is held against: no stage can read faster or compute more, so its share of them says what is left to gain.
Each is the best of many passes, because a neighbour or a low clock only ever makes a pass slower.
"""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leo_edge.bench.memory import memory_bytes
from leo_edge.runtime.backend import Array
from leo_edge.runtime.manifest import GraphSpec
from leo_edge.runtime.spans import Clock

FP32, INT8 = "float32", "int8"
_CACHES = "sys/devices/system/cpu/cpu0/cache"
_CACHE_UNITS = {"K": 1 << 10, "M": 1 << 20}
_LEAST_BUFFER_BYTES, _CACHE_MULTIPLE, _MEMORY_SHARE = 256 << 20, 8, 4
_NUMPY_PRODUCT = 1536


@dataclass(frozen=True)
class Limits:
    """The best that was seen; None where it cannot be measured. Units as in `Machine`."""

    read_gb_s: float | None = None
    gemm_fp32_gops: float | None = None
    gemm_int8_gops: float | None = None

    def best(self, other: Limits) -> Limits:
        """Returns the better of each of two measurements."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Limits(*(max((one for one in pair if one is not None), default=None) for pair in pairs))


@dataclass(frozen=True)
class GemmModel:
    """A graph of one matrix product, as ONNX. `precision` is `FP32` or `INT8`; `operations` are 2 per multiply-add."""

    precision: str
    model: bytes
    spec: GraphSpec
    operations: int


def measure_limits(
    threads: int, models: Sequence[GemmModel], *, seconds: float = 0.5, clock: Clock = time.perf_counter_ns
) -> Limits:
    """Measures a CPU on `threads` threads, each speed for `seconds`.

    The products are those of `models` in onnxruntime, of each precision the fastest. Without any, fp32 is numpy's, which
    chooses its threads itself, and int8 is not known.

    Raises:
        BackendError: onnxruntime refuses a model.
    """
    read = read_gb_s(threads, seconds=seconds, clock=clock)
    if not models:
        return Limits(read, _numpy_gops(seconds, clock))
    best = {FP32: 0.0, INT8: 0.0}
    for model in models:
        best[model.precision] = max(best[model.precision], _model_gops(model, threads, seconds, clock))
    return Limits(read, *(best[precision] or None for precision in (FP32, INT8)))


def read_gb_s(threads: int, *, seconds: float, buffer_bytes: int | None = None, clock: Clock = time.perf_counter_ns) -> float:
    """Returns how fast `threads` threads together read memory, in 1e9 bytes per second, each a part of one buffer.

    The buffer is several times as large as the last-level cache, and on huge pages where the kernel gives them.
    """
    size = buffer_bytes or _buffer_bytes()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    words = np.frombuffer(memory, np.int64)
    words[:] = 1  # a page that was never written is read from the one page of zeros
    parts = np.array_split(words, threads)
    with ThreadPoolExecutor(threads) as pool:
        best_ns = _best_ns(lambda: list(pool.map(np.bitwise_or.reduce, parts)), seconds, clock)
    return size / best_ns


def _best_ns(work: Callable[[], object], seconds: float, clock: Clock) -> int:
    """Returns how long the fastest run took, of at least three."""
    work()
    times: list[int] = []
    while len(times) < 3 or sum(times) < seconds * 1e9:
        start_ns = clock()
        work()
        times.append(max(1, clock() - start_ns))
    return min(times)


def _numpy_gops(seconds: float, clock: Clock) -> float:
    a = np.ones((_NUMPY_PRODUCT, _NUMPY_PRODUCT), np.float32)
    return 2 * _NUMPY_PRODUCT**3 / _best_ns(lambda: a @ a, seconds, clock)


def _model_gops(model: GemmModel, threads: int, seconds: float, clock: Clock) -> float:
    from leo_edge.runtime.ort import OrtSession

    session = OrtSession(Path("gemm.onnx"), model.spec, threads=threads, int8=model.precision == INT8, model=model.model)
    inputs = _inputs(model.spec)
    return model.operations / _best_ns(lambda: session.run(inputs), seconds, clock)


def _inputs(spec: GraphSpec) -> Mapping[str, Array]:
    """Returns inputs of ones: how fast a product is does not depend on what is in it."""
    shapes = {port: tuple(dim for dim in port.shape if isinstance(dim, int)) for port in spec.inputs}
    return {port.name: np.ones(shape, np.dtype(port.dtype)) for port, shape in shapes.items()}


def _buffer_bytes(root: Path = Path("/")) -> int:
    """Returns a size that no cache holds, and that the memory does."""
    caches = [0]
    for path in (root / _CACHES).glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        caches.append(int(text[:-1]) * _CACHE_UNITS.get(text[-1:], 1))
    return max(1 << 20, min(max(_LEAST_BUFFER_BYTES, _CACHE_MULTIPLE * max(caches)), memory_bytes() // _MEMORY_SHARE))
