"""Devices that a bundle can be planned for: peaks, memory and power modes, and which share of a peak is reached.

`devices.json` holds them. Peaks are of the GPU alone, dense, the DLA apart: INT8 of the Ampere parts is multiprocessors x 4096
x clock, FP16 is half of it. An INT8 peak of null is a power mode whose clock is not in the table. The memory bandwidth of a
power mode is not published: that of the device is taken for all. Each efficiency stands there with its reason: published,
fitted to a published figure, or assumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leo_edge.bench.result import BenchResult
from leo_edge.runtime.errors import LeoEdgeError

_TABLE = Path(__file__).with_name("devices.json")
THIS = "this"


@dataclass(frozen=True)
class Efficiency:
    """A number that the table cannot derive, and why it is what it is."""

    value: float
    reason: str


@dataclass(frozen=True)
class Efficiencies:
    """What is reached of a device's peaks.

    gemm_fp16, gemm_int8: fraction of the peak in a graph's products; bandwidth: fraction of the memory bandwidth.
    fp32_of_fp16: how fast products in float32 are, as a fraction of those in float16.
    overhead_ms: of one run of a graph; runtime_gb: memory beside weights, cache and activations.
    """

    gemm_fp16: Efficiency
    gemm_int8: Efficiency
    fp32_of_fp16: Efficiency
    bandwidth: Efficiency
    overhead_ms: Efficiency
    runtime_gb: Efficiency

    def __post_init__(self) -> None:
        for name in ("gemm_fp16", "gemm_int8", "fp32_of_fp16", "bandwidth"):
            if not 0 < getattr(self, name).value <= 1:
                raise ValueError(f"efficiency {name} must be above 0 and at most 1, got {getattr(self, name).value}")


@dataclass(frozen=True)
class Device:
    """What a device can do in its power mode `power`: `int8_tops` and `float_tflops` are 1e12 operations per second."""

    name: str
    title: str
    int8_tops: float
    float_tflops: float
    memory_gb: float
    bandwidth_gb_s: float
    power: str
    efficiencies: Efficiencies

    def __post_init__(self) -> None:
        for name in ("int8_tops", "float_tflops", "memory_gb", "bandwidth_gb_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} of {self.name} must be above 0, got {getattr(self, name)}")

    def peak(self, precision: str | None) -> float:
        """Returns the reachable operations per second of products in a precision, "int8" or a float type."""
        if precision == "int8":
            return self.int8_tops * 1e12 * self.efficiencies.gemm_int8.value
        share = self.efficiencies.fp32_of_fp16.value if precision == "float32" else 1.0
        return self.float_tflops * 1e12 * self.efficiencies.gemm_fp16.value * share

    @property
    def bandwidth(self) -> float:
        """Reachable bytes per second."""
        return self.bandwidth_gb_s * 1e9 * self.efficiencies.bandwidth.value


def device_names() -> tuple[str, ...]:
    """Returns the names of the table's devices."""
    return tuple(_read()["devices"])


def find_device(name: str, power: str | None = None) -> Device:
    """Returns a device of the table in a power mode, by default its highest.

    Raises:
        LeoEdgeError: there is no such device or mode, or the peak in that mode is not known.
    """
    table = _read()
    entry = table["devices"].get(name)
    if entry is None:
        known = ", ".join(table["devices"])
        raise LeoEdgeError(f"unknown device {name!r}: take one of {known}; or {THIS}, with --calibrate RESULT")
    modes: Mapping[str, float | None] = entry["power_modes"]
    mode = list(modes)[-1] if power is None else power.lower()
    if mode not in modes:
        raise LeoEdgeError(f"{name} has no power mode {power!r}: take one of {', '.join(modes)}")
    tops = modes[mode]
    if tops is None:
        told = ", ".join(one for one, value in modes.items() if value is not None)
        raise LeoEdgeError(f"the clock of {name} at {mode} is not in the table: take {told}, or calibrate on the device")
    flops = entry["fp16_tflops"] * tops / entry["int8_tops"]
    efficiencies = Efficiencies(**{key: Efficiency(**value) for key, value in table["efficiency"].items()})
    return Device(name, entry["title"], tops, flops, entry["memory_gb"], entry["bandwidth_gb_s"], mode, efficiencies)


def device_of(result: BenchResult) -> Device:
    """Returns the machine of a result, with what was measured of it as the peaks; calibration finds the shares of them.

    Raises:
        LeoEdgeError: the result does not say what the machine can do.
    """
    machine = result.machine
    if machine.read_gb_s is None or machine.gemm_fp32_gops is None:
        raise LeoEdgeError(
            f"the result of {machine.device} has no measured limits: measure it again without --no-limits, or name a device"
        )
    whole = Efficiency(1.0, "measured: the best that this machine did")
    efficiencies = Efficiencies(whole, whole, whole, whole, replace(whole, value=0.0), replace(whole, value=0.0))
    int8 = machine.gemm_int8_gops or machine.gemm_fp32_gops
    memory_gb, power = machine.memory_bytes / 1e9, machine.power_mode or "as measured"
    return Device(
        THIS, machine.device, int8 / 1e3, machine.gemm_fp32_gops / 1e3, memory_gb, machine.read_gb_s, power, efficiencies
    )


def _read() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table
