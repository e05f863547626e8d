"""runtime/huge_pages.py: which memory is collapsed, and that its content stays."""

import ctypes
import mmap
import sys

import pytest

from leo_edge.runtime.huge_pages import resident_ranges, use_huge_pages

MB = 1 << 20


def entry(start: int, size: int, rss: int, huge: int = 0, *, kind: str = "rw-p 00000000 00:00 0 ") -> str:
    return f"{start:x}-{start + size:x} {kind}\nSize: {size >> 10} kB\nRss: {rss >> 10} kB\nAnonHugePages: {huge >> 10} kB\n"


def ranges(*entries: str) -> list[tuple[int, int]]:
    return list(resident_ranges("".join(entries)))


def test_what_is_resident_in_whole_huge_pages() -> None:
    assert ranges(entry(3 * MB, 8 * MB, 8 * MB)) == [(4 * MB, 10 * MB)]
    assert ranges(entry(3 * MB, 2 * MB, 2 * MB)) == []  # no whole huge page in it


def test_the_heap_too() -> None:
    assert ranges(entry(4 * MB, 4 * MB, 4 * MB, kind="rw-p 00000000 00:00 0    [heap]")) == [(4 * MB, 8 * MB)]


@pytest.mark.parametrize(
    "left_alone",
    [
        entry(4 * MB, 8 * MB, 1 * MB),  # a stack, or room for what may come
        entry(4 * MB, 8 * MB, 8 * MB, 8 * MB),  # done
        entry(4 * MB, 8 * MB, 8 * MB, kind="r--p 00000000 fd:00 123    /weights"),
        entry(4 * MB, 8 * MB, 8 * MB, kind="rw-p 00000000 fd:00 123    /lib.so"),
        entry(4 * MB, 8 * MB, 8 * MB, kind="rw-p 00000000 00:00 0    [stack]"),
        entry(4 * MB, 8 * MB, 8 * MB, kind="rw-s 00000000 00:00 0 "),
    ],
)
def test_what_is_left_alone(left_alone: str) -> None:
    assert ranges(left_alone, entry(32 * MB, 2 * MB, 2 * MB)) == [(32 * MB, 34 * MB)]


def test_no_smaps() -> None:
    assert ranges() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="huge pages are Linux's")
def test_content_stays() -> None:
    with mmap.mmap(-1, 16 * MB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        content = bytes(range(256)) * (16 * MB // 256)
        ctypes.memmove(address, content, len(content))
        assert use_huge_pages() >= 0
        assert ctypes.string_at(address, len(content)) == content
