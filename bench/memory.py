"""How much memory a process holds, as Linux counts it: pages of the host that are in use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_SELF = Path("/proc/self")
# https://docs.kernel.org/filesystems/proc.html: "Writing 5 to /proc/PID/clear_refs resets the peak resident set size".
_RESET_PEAK = "5"


class PeakMemory:
    """The most memory that this process holds from now on.

    `base_bytes` counts in place of what it holds now, so that what was there before for another reason does not count. Where
    the kernel does not let the peak be reset, it is the peak since the process began.
    """

    def __init__(self, base_bytes: int | None = None, *, process: Path = _SELF) -> None:
        self._process = process
        now_bytes = held_bytes(process)
        self._other_bytes = 0 if base_bytes is None else now_bytes - base_bytes
        with contextlib.suppress(OSError):
            (process / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")

    def peak_bytes(self) -> int:
        """Returns the peak until now."""
        return _status_bytes(self._process, "VmHWM") - self._other_bytes


def held_bytes(process: Path = _SELF) -> int:
    """Returns how much memory a process holds now."""
    return _status_bytes(process, "VmRSS")


def peak_bytes_of(pid: int) -> int:
    """Returns the most memory that another process has held since it began."""
    return _status_bytes(Path("/proc") / str(pid), "VmHWM")


def memory_bytes() -> int:
    """Returns the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _status_bytes(process: Path, field: str) -> int:
    for line in (process / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{process}/status has no {field}")
