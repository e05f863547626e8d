"""What the machine is and how it is set, as Linux and Jetson tell it: names, cores, clocks, power mode, versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from leo_edge.bench.limits import Limits
from leo_edge.bench.memory import memory_bytes
from leo_edge.bench.result import Machine

ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_PACKAGES = ("leo_edge", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tokenizers", "pillow")
_NVPMODEL_S = 10


def query_power_model() -> str | None:
    """Returns what a Jetson's `nvpmodel -q` says of its power mode, None on another machine."""
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=_NVPMODEL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NV Power Mode:\s*(\S.*)", done.stdout)
    return found.group(1).strip() if found else None


def describe_machine(
    threads: int,
    limits: Limits,
    clocks_before_mhz: tuple[float, ...],
    *,
    gpu: str | None = None,
    root: Path = ROOT,
    power_model: Callable[[], str | None] = query_power_model,
) -> Machine:
    """Returns the machine as it is now. `clocks_before_mhz` are those before the work; `gpu` names what ran, if one did."""
    cpu = cpu_name(root)
    board = _text(root / "proc/device-tree/model")
    return Machine(
        device=", ".join(name for name in (board, gpu) if name) or cpu,
        cpu=cpu,
        cores=os.cpu_count() or 1,
        threads=threads,
        memory_bytes=memory_bytes(),
        system=_system(root),
        power_mode=power_model() or _governor(root),
        clocks_mhz=clocks_before_mhz + cpu_clocks_mhz(root),
        read_gb_s=limits.read_gb_s,
        gemm_fp32_gops=limits.gemm_fp32_gops,
        gemm_int8_gops=limits.gemm_int8_gops,
    )


def cpu_name(root: Path = ROOT) -> str:
    """Returns the CPU's name; an ARM kernel tells none, then its architecture."""
    found = re.search(r"^model name\s*:\s*(\S.*)$", _text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def cpu_clocks_mhz(root: Path = ROOT) -> tuple[float, ...]:
    """Returns each CPU's clock now; none where the kernel does not tell."""
    paths = sorted((root / _CPUS).glob("cpu[0-9]*/cpufreq/scaling_cur_freq"), key=lambda path: _number(path.parts[-3]))
    khz = [text for path in paths if (text := _text(path)) is not None]
    if khz:
        return tuple(int(text) / 1e3 for text in khz)
    return tuple(map(float, re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _text(root / "proc/cpuinfo") or "", re.MULTILINE)))


def physical_cores(root: Path = ROOT) -> int:
    """Returns how many cores there are, two threads of one counted once: as many threads does onnxruntime take by itself."""
    topologies = [path.parent for path in (root / _CPUS).glob("cpu[0-9]*/topology/core_id")]
    cores = {(_text(topology / "physical_package_id"), _text(topology / "core_id")) for topology in topologies}
    return len(cores) or os.cpu_count() or 1


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and of what computes, as far as it is installed."""
    found = {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}
    return {package: number for package, number in found.items() if number is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _governor(root: Path) -> str | None:
    return _text(root / _CPUS / "cpu0/cpufreq/scaling_governor")


def _system(root: Path) -> str:
    jetson = _text(root / "etc/nv_tegra_release")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return system if jetson is None else f"{system}, {jetson.splitlines()[0].lstrip('# ')}"


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)


def _text(path: Path) -> str | None:
    """Returns what a file says, None if it is not there. The device tree ends its texts with a zero byte."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None
