"""What is kept of an activation: a histogram of its magnitudes, each channel's largest, and a sample of its rows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from leo_edge.calib.histogram import Histogram

_SAMPLED_VALUES, _FEWEST_ROWS, _MOST_ROWS = 1 << 18, 16, 128
Rows = npt.NDArray[np.float16]  # [R, K]


@dataclass
class RowSample:
    """Rows [R, K] of all that were seen, each as likely as the other, whatever their number; `keys` decide which."""

    rows: Rows
    keys: npt.NDArray[np.float64]

    @classmethod
    def empty(cls, width: int) -> RowSample:
        """Returns a sample of nothing."""
        return cls(np.empty((0, width), np.float16), np.empty(0))

    def add(self, rows: npt.NDArray[Any], random: np.random.Generator) -> None:
        """Takes rows [n, K] into account."""
        room = min(_MOST_ROWS, max(_FEWEST_ROWS, _SAMPLED_VALUES // rows.shape[1]))
        keys = np.concatenate([self.keys, random.random(len(rows))])
        kept = np.sort(np.argsort(keys)[:room])
        limit = np.finfo(np.float16).max
        old, new = kept[kept < len(self.rows)], kept[kept >= len(self.rows)] - len(self.rows)
        self.rows = np.concatenate([self.rows[old], np.clip(rows[new], -limit, limit).astype(np.float16)])
        self.keys = keys[kept]


@dataclass
class Statistics:
    """Of one activation, over all prompts.

    channels: each channel's largest magnitude [K], over the last axis; empty where it has none (a convolution's input).
    visual, text: rows at visual tokens and at all others; of a vision graph all are visual.
    sensitivity: what a squared error at a visual and at a text token does to the answer (see `modality`); None: not measured.
    """

    histogram: Histogram = field(default_factory=Histogram)
    channels: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    visual: RowSample = field(default_factory=lambda: RowSample.empty(0))
    text: RowSample = field(default_factory=lambda: RowSample.empty(0))
    sensitivity: tuple[float, float] | None = None

    def add_rows(self, name: str, values: npt.NDArray[Any], is_visual: npt.NDArray[np.bool_], prompt: int) -> None:
        """Takes an activation [S, K] of prompt number `prompt` into account. What is sampled depends on name and number alone.

        Raises:
            CalibrationError: a value is not finite.
        """
        self.histogram.add(values)
        largest = np.abs(values).max(axis=0).astype(np.float32)
        self.channels = largest if not self.channels.size else np.maximum(self.channels, largest)
        random = np.random.default_rng([zlib.crc32(name.encode()), prompt])
        for sample_name, rows in (("visual", values[is_visual]), ("text", values[~is_visual])):
            sample: RowSample = getattr(self, sample_name)
            if not sample.rows.shape[1]:
                sample = RowSample.empty(values.shape[1])
                setattr(self, sample_name, sample)
            if len(rows):
                sample.add(rows, random)
