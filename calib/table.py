"""The calibration table: one safetensors file with the statistics of every activation, and what they were taken from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from leo_edge.calib.histogram import NUM_BINS, Histogram
from leo_edge.calib.statistics import RowSample, Statistics
from leo_edge.runtime.errors import CalibrationError
from leo_edge.runtime.whole_file import whole_file

FORMAT = 1
Key = tuple[str, str]  # graph, activation
_HEAD = "leo_edge"
_SUFFIXES = ("counts", "channels", "visual", "visual_keys", "text", "text_keys")


@dataclass
class CalibrationTable:
    """Statistics by graph and activation, and `provenance` as JSON: bundle, frames, questions, range, versions."""

    statistics: dict[Key, Statistics]
    provenance: dict[str, Any]

    @property
    def bundle_id(self) -> str:
        """The bundle that was observed."""
        return str(self.provenance["bundle"])

    def of(self, graph: str, name: str) -> Statistics:
        """Returns an activation's statistics.

        Raises:
            CalibrationError: it was not observed.
        """
        if (graph, name) not in self.statistics:
            raise CalibrationError(f"the table lacks {name} of graph {graph}: calibrate again with this bundle")
        return self.statistics[graph, name]

    def check_bundle(self, bundle_id: str) -> None:
        """Checks that the table is of a bundle.

        Raises:
            CalibrationError: it is of another.
        """
        if self.bundle_id != bundle_id:
            raise CalibrationError(f"the table is of bundle {self.bundle_id}, got bundle {bundle_id}: calibrate this one")


def write_table(path: Path, table: CalibrationTable) -> None:
    """Writes a table, over what was there; after an error, what was there still is."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    entries = []
    for i, ((graph, name), one) in enumerate(table.statistics.items()):
        entries.append([graph, name, one.histogram.width, one.histogram.largest, one.sensitivity])
        values = (one.histogram.counts, one.channels, one.visual.rows, one.visual.keys, one.text.rows, one.text.keys)
        arrays |= {f"{i}.{suffix}": np.ascontiguousarray(value) for suffix, value in zip(_SUFFIXES, values, strict=True)}
    head = {"format": FORMAT, "provenance": table.provenance, "entries": entries}
    with whole_file(path) as temporary:
        save_file(arrays, temporary, metadata={_HEAD: json.dumps(head)})
        temporary.chmod(0o644)  # safetensors writes files that only their owner can read


def read_table(path: Path) -> CalibrationTable:
    """Reads a table.

    Raises:
        CalibrationError: there is none, or it is truncated, altered or of another format.
    """
    if not path.is_file():
        raise CalibrationError(f"no calibration table {path}: write one with `leo-edge calibrate`")
    try:
        with safe_open(path, "numpy") as file:
            head = json.loads((file.metadata() or {}).get(_HEAD, "null"))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                got = head.get("format") if isinstance(head, dict) else "none"
                raise CalibrationError(f"{path} has table format {got}, expected {FORMAT}: calibrate again")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return CalibrationTable(dict(_entry(i, entry, arrays) for i, entry in enumerate(head["entries"])), head["provenance"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"cannot read calibration table {path} ({error}): it was altered, calibrate again") from error


def _entry(number: int, entry: list[Any], arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Key, Statistics]:
    graph, name, width, largest, sensitivity = entry
    counts, channels, visual, visual_keys, text, text_keys = (arrays[f"{number}.{suffix}"] for suffix in _SUFFIXES)
    if counts.shape != (NUM_BINS,):
        raise ValueError(f"{name} has {counts.shape} counts")
    histogram = Histogram(counts.copy(), float(width), float(largest))
    samples = RowSample(visual, visual_keys), RowSample(text, text_keys)
    return (graph, name), Statistics(histogram, channels, *samples, None if sensitivity is None else tuple(sensitivity))
