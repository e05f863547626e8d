"""calib/table.py: a table comes back as it was written, and a broken one is told from a whole one."""

from pathlib import Path

import numpy as np
import pytest

from leo_edge.calib.statistics import Statistics
from leo_edge.calib.table import CalibrationTable, read_table, write_table
from leo_edge.runtime.errors import CalibrationError

RANDOM = np.random.default_rng(3)


def statistics(prompts: int = 3) -> Statistics:
    made = Statistics()
    for prompt in range(prompts):
        rows = RANDOM.standard_normal((300, 16)).astype(np.float32)
        made.add_rows("x", rows, np.arange(300) < 200, prompt)
    made.sensitivity = (0.25, 2.0)
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    conv = Statistics()
    conv.histogram.add(RANDOM.standard_normal((1, 3, 4, 4)))
    write_table(
        tmp_path / "t", CalibrationTable({("llm", "x"): statistics(), ("vision.a", "y"): conv}, {"bundle": "abc", "n": 1})
    )
    return tmp_path / "t"


def test_a_table_comes_back(tmp_path: Path) -> None:
    one = statistics()
    write_table(tmp_path / "t", CalibrationTable({("llm", "x"): one}, {"bundle": "abc"}))
    back = read_table(tmp_path / "t")
    got = back.of("llm", "x")
    assert back.provenance == {"bundle": "abc"}
    assert (got.histogram.width, got.histogram.largest, got.sensitivity) == (
        one.histogram.width,
        one.histogram.largest,
        (0.25, 2.0),
    )
    for mine, theirs in (
        (one.histogram.counts, got.histogram.counts),
        (one.channels, got.channels),
        (one.visual.rows, got.visual.rows),
        (one.text.keys, got.text.keys),
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_it_goes_on_where_it_stopped(table: Path) -> None:
    """Counting on from a table read back is counting on."""
    rows = RANDOM.standard_normal((50, 16)).astype(np.float32)
    back, again = read_table(table).of("llm", "x"), read_table(table).of("llm", "x")
    for one in (back, again):
        one.add_rows("x", 9 * rows, np.ones(50, bool), 7)
    np.testing.assert_array_equal(back.visual.rows, again.visual.rows)
    assert back.histogram.counts.sum() == 950 * 16


def test_rows_are_a_fair_sample_of_bounded_size() -> None:
    one = Statistics()
    for prompt in range(50):
        one.add_rows("x", np.full((40, 8), prompt, np.float32), np.ones(40, bool), prompt)
    taken = one.visual.rows[:, 0].astype(int)
    assert len(taken) == 128
    assert 18 < taken.mean() < 31
    assert len(np.unique(taken)) > 35


class TestBroken:
    def test_no_table(self, tmp_path: Path) -> None:
        with pytest.raises(CalibrationError, match=r"no calibration table .*: write one with `leo-edge calibrate`"):
            read_table(tmp_path / "t")

    @pytest.mark.parametrize("cut", [10, 2000])
    def test_truncated(self, table: Path, cut: int) -> None:
        table.write_bytes(table.read_bytes()[:cut])
        with pytest.raises(CalibrationError, match=r"cannot read calibration table .*: it was altered, calibrate again"):
            read_table(table)

    def test_another_file(self, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(3)}, tmp_path / "t")
        with pytest.raises(CalibrationError, match="has table format none, expected 1: calibrate again"):
            read_table(tmp_path / "t")

    def test_another_bundle_and_a_missing_activation(self, table: Path) -> None:
        read = read_table(table)
        read.check_bundle("abc")
        with pytest.raises(CalibrationError, match="the table is of bundle abc, got bundle xyz: calibrate this one"):
            read.check_bundle("xyz")
        with pytest.raises(CalibrationError, match="the table lacks z of graph llm: calibrate again with this bundle"):
            read.of("llm", "z")
