"""Peak memory, of this process and of a made-up one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from leo_edge.bench.memory import PeakMemory, held_bytes, peak_bytes_of

_SIZE = 64 << 20


def _process(home: Path, held_kb: int, peak_kb: int) -> Path:
    (home / "status").write_text(f"Name:\tx\nVmHWM:\t  {peak_kb} kB\nVmRSS:\t  {held_kb} kB\n")
    return home


def test_what_was_held_and_given_back_is_in_the_peak() -> None:
    meter = PeakMemory()
    before = held_bytes()
    assert meter.peak_bytes() < before + _SIZE  # the control
    np.ones(_SIZE, np.uint8)
    assert meter.peak_bytes() >= before + _SIZE * 0.9
    assert held_bytes() < before + _SIZE


def test_a_new_meter_forgets_an_old_peak() -> None:
    np.ones(_SIZE, np.uint8)
    meter = PeakMemory()
    assert meter.peak_bytes() < held_bytes() + _SIZE


def test_what_others_hold_does_not_count(tmp_path: Path) -> None:
    meter = PeakMemory(base_bytes=1000 * 1024, process=_process(tmp_path, held_kb=5000, peak_kb=5000))
    assert (tmp_path / "clear_refs").read_text() == "5"
    _process(tmp_path, held_kb=6000, peak_kb=7000)
    assert meter.peak_bytes() == (7000 - 5000 + 1000) * 1024


def test_the_peak_of_another_process_is_read() -> None:
    assert peak_bytes_of(os.getpid()) >= held_bytes()


def test_a_status_without_the_field_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tkernel thread\n")
    with pytest.raises(OSError, match="has no VmRSS"):
        held_bytes(tmp_path)
