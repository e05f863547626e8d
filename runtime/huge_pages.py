"""Puts what is in memory on huge pages, where the system leaves that to the program (Linux, transparent huge pages by madvise).

A decoded token reads all weights of the language model once. On pages of 4 kB the CPU waits for page tables on the way: a
machine that reads 37 GB/s from pages of 2 MB reads 30 from small ones. See madvise(2): MADV_COLLAPSE, since Linux 6.1.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_HUGE = 2 << 20
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0\s*(\[heap\])?$")
# Of a mapping: one that is mostly untouched is a thread's stack, or room for what may come, and is not to be filled.
_RESIDENT = 0.8


def use_huge_pages() -> int:
    """Collapses the process's large private mappings to huge pages; returns how many bytes that were, 0 where it cannot.

    What it does not get changes nothing but speed. It takes about a second a gigabyte, once.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    collapsed = 0
    for start, end in resident_ranges(_read(_SMAPS)):
        if not (madvise(start, end - start, _MADV_HUGEPAGE) or madvise(start, end - start, _MADV_COLLAPSE)):
            collapsed += end - start
    return collapsed


def resident_ranges(smaps: str) -> Iterator[tuple[int, int]]:
    """Yields start and end of what is mostly resident and not on huge pages yet, in whole huge pages, from /proc/PID/smaps."""
    mapping: tuple[int, int] | None = None
    sizes: dict[str, int] = {}
    for line in [*smaps.splitlines(), "0-0 ---p"]:
        name, _, value = line.partition(":")
        if name in ("Size", "Rss", "AnonHugePages"):
            sizes[name] = int(value.split()[0])
        elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            if mapping is not None and sizes["Rss"] >= _RESIDENT * sizes["Size"] > 2 * sizes["AnonHugePages"]:
                start, end = -(-mapping[0] // _HUGE) * _HUGE, mapping[1] // _HUGE * _HUGE
                if start < end:
                    yield start, end
            match = _MAPPING.match(line)
            mapping = None if match is None else (int(match[1], 16), int(match[2], 16))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:  # no /proc, as in some containers
        return ""
