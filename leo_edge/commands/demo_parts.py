"""What the demo and its jobs are made from: the shipped model as a bundle, and a drawn drive."""

from __future__ import annotations

import os
from pathlib import Path

from leo_edge.commands.progress import say


def export_shipped(bundle: Path) -> None:
    """Exports the shipped tiny model to a new directory."""
    from leo_edge.demo.answer_file import SHIPPED
    from leo_edge.export.exporter import ExportOptions, export_bundle

    say(f"exporting {SHIPPED} to {bundle}")
    export_bundle(SHIPPED, bundle, ExportOptions(), say)


def draw_drive(drive: Path, seconds: float) -> None:
    """Draws keyframes of one val scene as a dataset in a new directory."""
    from leo_edge.demo.dataset.plan import DatasetOptions
    from leo_edge.demo.dataset.writer import write_dataset

    say(f"drawing a drive of {seconds:g} s to {drive}")
    options = DatasetOptions(num_scenes=1, split="val", seconds=seconds, keyframes_only=True)
    write_dataset(drive, options, processes=os.cpu_count() or 1)
