"""What a machine says of itself: a Jetson's files, a server's, and this one's."""

from __future__ import annotations

from pathlib import Path

import pytest

from leo_edge.bench.limits import Limits
from leo_edge.bench.machine import cpu_clocks_mhz, describe_machine, installed_versions, physical_cores, query_power_model

_CPUS = "sys/devices/system/cpu"


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _jetson(root: Path) -> Path:
    files = {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd42\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\nmore\n",
        f"{_CPUS}/cpu0/cpufreq/scaling_governor": "schedutil\n",
    }
    clocks = {0: 2201600, 2: 1500000, 10: 729600}
    return _write(root, files | {f"{_CPUS}/cpu{i}/cpufreq/scaling_cur_freq": f"{khz}\n" for i, khz in clocks.items()})


def test_a_jetson_is_named_by_its_board_its_gpu_and_its_power_mode(tmp_path: Path) -> None:
    root = _jetson(tmp_path)
    machine = describe_machine(4, Limits(200.0), (1.0,), gpu="Orin", root=root, power_model=lambda: "MODE_30W")
    assert machine.device == "NVIDIA Jetson AGX Orin Developer Kit, Orin"
    assert machine.power_mode == "MODE_30W"
    assert machine.clocks_mhz == (1.0, 2201.6, 1500.0, 729.6)
    assert machine.system.endswith("R36 (release), REVISION: 4.3")
    assert (machine.threads, machine.read_gb_s, machine.gemm_int8_gops) == (4, 200.0, None)


def test_without_nvpmodel_the_governor_is_the_power_mode(tmp_path: Path) -> None:
    assert describe_machine(1, Limits(), (), root=_jetson(tmp_path), power_model=lambda: None).power_mode == "schedutil"
    assert describe_machine(1, Limits(), (), root=tmp_path / "no", power_model=lambda: None).power_mode is None


def test_a_server_is_named_by_its_cpu(tmp_path: Path) -> None:
    text = "".join(f"processor\t: {i}\nmodel name\t: AMD EPYC 9B14\ncpu MHz\t\t: {2600 + i}.5\n" for i in range(2))
    root = _write(tmp_path, {"proc/cpuinfo": text})
    assert describe_machine(1, Limits(), (), root=root, power_model=lambda: None).device == "AMD EPYC 9B14"
    assert cpu_clocks_mhz(root) == (2600.5, 2601.5)


def test_two_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    for cpu, (package, core) in enumerate([(0, 0), (0, 1), (0, 0), (1, 0)]):
        topology = f"{_CPUS}/cpu{cpu}/topology"
        _write(tmp_path, {f"{topology}/core_id": f"{core}\n", f"{topology}/physical_package_id": f"{package}\n"})
    assert physical_cores(tmp_path) == 3


def test_nvpmodel_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text("#!/bin/sh\ntest \"$1\" = -q && printf 'NV Power Mode: MODE_50W\\n3\\n'\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert query_power_model() is None  # the control: it is not executable yet
    program.chmod(0o755)
    assert query_power_model() == "MODE_50W"


def test_versions_of_what_computes_are_told() -> None:
    versions = installed_versions()
    assert {"python", "numpy", "onnxruntime", "leo_edge"} <= set(versions)
    assert "tensorrt-imaginary" not in versions
