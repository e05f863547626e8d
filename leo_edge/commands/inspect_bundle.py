"""`leo-edge inspect BUNDLE`: what is in a bundle, and what it costs to run for cameras of 1600x900 pixels."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leo_edge.bench.report import columns
from leo_edge.bench.result import QUESTION
from leo_edge.commands.progress import open_with_progress
from leo_edge.commands.report import printable
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, NUSCENES_PX
from leo_edge.runtime.manifest import GraphSpec, TensorSpec
from leo_edge.runtime.prompt import build_prompt
from leo_edge.runtime.tiles import TileGrid, choose_grid, num_tiles
from leo_edge.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from leo_edge.export.cost import StageCost, Workload

_COLUMNS = 100
_KEEP = "\u00a0"  # a space at which no line ends
_LABEL = 12
_PREFIXES = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True)
class Inspection:
    """All that is reported. `visual_tokens` and the workload's text tokens are the prompt."""

    bundle: Bundle
    grid: TileGrid
    workload: Workload
    visual_tokens: int
    stages: tuple[StageCost, ...]

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self.visual_tokens + self.workload.text_tokens

    def flops_per(self, per: str) -> int:
        """FLOPs of all stages that run once per "frame set", "question" or "token"."""
        return sum(stage.cost.flops for stage in self.stages if stage.per == per)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--cameras", type=int, default=6, metavar="N", help="cameras to count the cost for (default 6)")
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.cameras < 1:
        raise LeoEdgeError(f"--cameras must be at least 1, got {args.cameras}")
    inspection = inspect_bundle(open_with_progress(args.bundle), args.cameras)
    print(json.dumps(_json(inspection), indent=1, ensure_ascii=False) if args.json else _text(inspection))
    return 0


def inspect_bundle(bundle: Bundle, num_cameras: int) -> Inspection:
    """Counts a bundle's cost for one question about `num_cameras` cameras, each 1600x900."""
    from leo_edge.export.cost import Workload, bundle_costs, num_visual_tokens

    manifest = bundle.manifest
    grid = choose_grid(*NUSCENES_PX, manifest.tiling)
    tiles = num_tiles(grid, manifest.tiling)
    visual = num_visual_tokens(manifest, num_cameras, tiles)
    channels = itertools.islice(itertools.cycle(NUSCENES_CAMERAS), num_cameras)
    images = [(channel, visual // num_cameras) for channel in channels]
    prompt = build_prompt(QUESTION, images, manifest.prompt, Tokenizer(bundle.path(manifest.tokenizer)))
    workload = Workload(num_cameras, tiles, len(prompt.token_ids) - visual, len(prompt.question_ids))
    return Inspection(bundle, grid, workload, visual, bundle_costs(bundle, workload))


def _json(inspection: Inspection) -> dict[str, Any]:
    bundle, workload = inspection.bundle, inspection.workload
    manifest = bundle.manifest
    costs = []
    for stage in inspection.stages:
        entry = dataclasses.asdict(stage)
        cost = entry.pop("cost")
        costs.append(entry | {"flops": stage.cost.flops} | cost)
    graphs = {
        name: dataclasses.asdict(spec) | {"size_bytes": _size_bytes(bundle, spec)} for name, spec in manifest.graphs.items()
    }
    return {
        "bundle": str(bundle.directory),
        "id": bundle.id,
        "family": manifest.family,
        "float_type": manifest.float_type,
        "opset": manifest.opset,
        "decoder": dataclasses.asdict(manifest.decoder),
        "experts": [dataclasses.asdict(expert) for expert in manifest.experts],
        "tiling": dataclasses.asdict(manifest.tiling),
        "fuse": dataclasses.asdict(manifest.fuse),
        "graphs": graphs,
        "workload": {
            "image_px": list(NUSCENES_PX),
            "question": QUESTION,
            **dataclasses.asdict(workload),
            "visual_tokens": inspection.visual_tokens,
            "prompt_tokens": inspection.prompt_tokens,
        },
        "costs": costs,
        "size_bytes": bundle.size_bytes(),
        "provenance": dict(manifest.provenance),
    }


def _text(inspection: Inspection) -> str:
    parts = [
        _facts(inspection),
        _graph_table(inspection.bundle),
        _cost_table(inspection),
        _provenance(inspection.bundle.manifest.provenance),
    ]
    text = "\n\n".join(parts).replace(_KEEP, " ")
    return printable(text)  # names come from a file


def _facts(inspection: Inspection) -> str:
    bundle, manifest = inspection.bundle, inspection.bundle.manifest
    decoder, tiling, fuse = manifest.decoder, manifest.tiling, manifest.fuse
    experts = ", ".join(f"{expert.name} {expert.num_tokens:,} x {expert.width:,}" for expert in manifest.experts)
    thumbnail = " and a thumbnail" if tiling.use_thumbnail else ""
    tiles = inspection.workload.tiles_per_camera
    return _labelled(
        ("bundle", f"{bundle.directory}"),
        ("", f"{manifest.family}, id {bundle.id}, {manifest.float_type}, opset {manifest.opset}"),
        ("size", f"{_si(bundle.size_bytes(), 'B')} in {len(manifest.files)} files"),
        ("experts", f"{experts} (tokens x width per tile)"),
        ("tiling", f"{tiling.min_tiles} to {tiling.max_tiles} tiles of {tiling.tile_px} px{thumbnail}"),
        ("", f"an image of {_pixels()} gives {inspection.grid.cols} x {inspection.grid.rows}, {tiles} tiles in all"),
        ("fusion", f"{fuse.num_tokens:,} visual tokens per {fuse.unit}" + ", led by the question" * fuse.uses_text),
        ("decoder", f"{decoder.num_layers} layers, width {decoder.hidden_size:,}, vocabulary {decoder.vocab_size:,}"),
        ("", f"cache {decoder.cache}, {decoder.num_kv_heads} heads of {decoder.head_dim}" + ", MMoE" * decoder.routed),
        ("context", f"{decoder.context_len:,} tokens"),
        ("prompt", _budget(inspection)),
    )


def _budget(inspection: Inspection) -> str:
    """How much of the context the prompt of the workload takes."""
    workload, context_len = inspection.workload, inspection.bundle.manifest.decoder.context_len
    visual, total = inspection.visual_tokens, inspection.prompt_tokens
    stated = (
        f"{workload.num_cameras} cameras of {_pixels()} take {visual:,} visual tokens, {visual / context_len:.0%} of the "
        f"context; with {workload.text_tokens:,} of text, {total:,}"
    )
    if total >= context_len:
        stated += f": NO ROOM for an answer; use fewer cameras or tiles, or export with a --context-len above {total}"
    return stated


def _graph_table(bundle: Bundle) -> str:
    rows: list[Sequence[str]] = [("graph", "file", "parameters", "on disk")]
    notes = [""]
    for name, spec in bundle.manifest.graphs.items():
        rows.append((name, spec.file, _si(spec.num_parameters), _si(_size_bytes(bundle, spec), "B")))
        notes.append(f"{_ports(spec.inputs)} ->{_KEEP}{_ports(spec.outputs)}")
    lines = []
    for row, note in zip(columns(rows, "<<>>"), notes, strict=True):
        lines.append(row)
        lines += _wrap(note, "    ", "    ") if note else []
    return "\n".join(lines)


def _ports(ports: Iterable[TensorSpec]) -> str:
    """Lists ports, those that differ only in their number as one: past_key.0..31 float16 [P, 8, 128]."""
    groups: dict[tuple[str, str], list[str]] = {}
    for port in ports:
        stem, number = re.fullmatch(r"(.*?)(?:\.(\d+))?", port.name).groups()  # type: ignore[union-attr]
        shape = f",{_KEEP}".join(map(str, port.shape))
        groups.setdefault((stem, f"{port.dtype}{_KEEP}[{shape}]"), []).append(number or "")
    listed = []
    for (stem, kind), numbers in groups.items():
        span = numbers[0] if len(numbers) == 1 else f"{numbers[0]}..{numbers[-1]}"
        listed.append(f"{stem}{'.' * bool(span)}{span}{_KEEP}{kind}")
    return ", ".join(listed)


def _cost_table(inspection: Inspection) -> str:
    workload = inspection.workload
    title = (
        f'Cost for {workload.num_cameras} cameras of {_pixels()} and "{QUESTION}" ({workload.text_tokens:,} tokens of text), '
        "at 2 FLOP per multiply-add, products only:"
    )
    rows: list[Sequence[str]] = [("stage", "once per", "compute", "weights")]
    notes = ["sizes"]
    for stage in inspection.stages:
        rows.append((stage.stage, stage.per, _si(stage.cost.flops, "FLOP"), _si(stage.cost.weight_bytes, "B")))
        notes.append(" ".join(f"{name}={size}" for name, size in stage.dims.items()))
    lines = _wrap(title)
    for row, note in zip(columns(rows, "<<>>"), notes, strict=True):
        lines += _wrap(note, f"{row}  ", " " * (len(row) + 2))
    return "\n".join([*lines, *_wrap(_cost_summary(inspection))])


def _cost_summary(inspection: Inspection) -> str:
    decode = next(stage.cost for stage in inspection.stages if stage.stage == "decode")
    frames, question, token = (_si(inspection.flops_per(per), "FLOP") for per in ("frame set", "question", "token"))
    summary = (
        f"A frame set takes {frames}, a question {question} before its first token, every token after it {token}. "
        f"A decoded token reads {_si(decode.weight_bytes, 'B')} of weights and {_si(decode.input_bytes, 'B')} of inputs, "
        "the cache among them."
    )
    if inspection.bundle.manifest.decoder.cache == "scatter":
        summary += " Attention is counted over a cache of the whole context, C; over a shorter one it takes less."
    return summary


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = []
    for name, value in provenance.items():
        text = ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, dict) else str(value)
        rows.append((name, text))
    return "\n".join(["Provenance:", _labelled(*rows, width=max((len(name) for name, _ in rows), default=0) + 2)])


def _labelled(*rows: tuple[str, str], width: int = _LABEL) -> str:
    lines: list[str] = []
    for label, text in rows:
        lines += _wrap(text, f"{label:<{width}}", " " * width)
    return "\n".join(lines)


def _wrap(text: str, first: str = "", others: str = "") -> list[str]:
    """Breaks text into lines, the first and the others with their own beginnings. Long words, such as paths, stay whole."""
    wrapped = textwrap.wrap(
        text, _COLUMNS, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [first.rstrip()]


def _size_bytes(bundle: Bundle, spec: GraphSpec) -> int:
    """Bytes of a graph's file and of its weights' file."""
    return sum(bundle.manifest.files[name].size_bytes for name in (spec.file, spec.data) if name)


def _pixels() -> str:
    return f"{NUSCENES_PX[0]}x{NUSCENES_PX[1]}"


def _si(value: float, unit: str = "") -> str:
    """Returns a number to three digits with an SI prefix: 1.23 GFLOP, 45.6 kB."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value /= 1000
        power += 1
    digits = 0 if power == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f}{_KEEP}{_PREFIXES[power]}{unit}".rstrip()
