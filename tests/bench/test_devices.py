"""bench/devices.py: the table of devices, and a machine that was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leo_edge.bench.devices import Efficiency, device_names, device_of, find_device
from leo_edge.runtime.errors import LeoEdgeError
from tests.bench.made_results import MACHINE, made_result


@pytest.mark.parametrize("name", device_names())
def test_every_device_is_whole_and_int8_is_twice_float(name: str) -> None:
    device = find_device(name)
    assert device.int8_tops / device.float_tflops == pytest.approx(2, rel=0.06)
    assert device.bandwidth < device.bandwidth_gb_s * 1e9


def test_a_power_mode_slows_products_and_not_memory() -> None:
    full, half = find_device("jetson-agx-orin-64"), find_device("jetson-agx-orin-64", "50W")
    assert (full.power, half.power) == ("maxn", "50w")
    assert half.peak("int8") / full.peak("int8") == pytest.approx(53 / 85)
    assert half.peak("float16") / full.peak("float16") == pytest.approx(53 / 85)
    assert half.bandwidth == full.bandwidth


@pytest.mark.parametrize(
    ("name", "power", "message"),
    [
        ("orin", None, "unknown device 'orin': take one of jetson-agx-orin-64, .*jetson-agx-thor; or this"),
        ("jetson-agx-orin-64", "40w", "no power mode '40w': take one of 15w, 30w, 50w, maxn"),
        ("jetson-orin-nx-16", "10w", "at 10w is not in the table: take maxn"),
    ],
)
def test_what_is_not_in_the_table(name: str, power: str | None, message: str) -> None:
    with pytest.raises(LeoEdgeError, match=message):
        find_device(name, power)


def test_a_measured_machine_has_its_own_limits() -> None:
    machine = replace(MACHINE, read_gb_s=20.0, gemm_fp32_gops=150.0, gemm_int8_gops=600.0)
    device = device_of(made_result({"answer": [1]}, machine=machine))
    assert (device.peak("int8"), device.peak("float32"), device.bandwidth) == (600e9, 150e9, 20e9)
    with pytest.raises(LeoEdgeError, match="no measured limits"):
        device_of(made_result({"answer": [1]}))


def test_an_efficiency_is_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"gemm_int8 must be above 0 and at most 1, got 1\.5"):
        replace(find_device("jetson-agx-thor").efficiencies, gemm_int8=Efficiency(1.5, "wrong"))
