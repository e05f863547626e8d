"""`leo-edge device-check [BUNDLE]`: build, run and compare on this device, as a table to paste into an issue."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leo_edge import __version__
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.errors import BackendError, LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.export.device_check import DeviceReport
    from leo_edge.runtime.bundle import Bundle
    from leo_edge.runtime.pipeline import Pipeline

_TINY = "leo-mini-tiny"
_BACKENDS = ("trt", "ort-cuda", "ort-trt")
# Says which JetPack this is; there on every Jetson.
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "bundle", nargs="?", metavar="BUNDLE", type=Path, help=f"default: {_TINY} with random weights, where torch is installed"
    )
    parser.add_argument("--backend", default="trt", choices=_BACKENDS, help="what is held against onnxruntime on the CPU")
    parser.add_argument("--max-new-tokens", type=int, default=16, metavar="N", help="length of the answers (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up frames (default 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if the device computes something else."""
    from leo_edge.export.device_check import check_device
    from leo_edge.runtime.engine_choice import check_backend
    from leo_edge.runtime.pipeline import open_pipeline

    if args.max_new_tokens < 1 or args.seed < 0:
        raise LeoEdgeError(f"--max-new-tokens must be at least 1 and --seed 0, got {args.max_new_tokens} and {args.seed}")
    check_backend(args.backend)
    with _bundle(args.bundle) as directory:
        bundle = open_with_progress(directory)
        if args.backend == "trt":
            _build_missing(bundle)
        reference = open_pipeline(bundle, "ort", standard_graphs=True)
        device = open_pipeline(bundle, args.backend)
        facts = _facts(device, reference)
        report = check_device(device, reference, max_new_tokens=args.max_new_tokens, seed=args.seed, say=say)
    if args.json:
        print(json.dumps(facts | dataclasses.asdict(report) | {"passed": report.passed}, indent=1, ensure_ascii=False))
    else:
        print(_table(facts, report))
    return 0 if report.passed else 1


@contextmanager
def _bundle(directory: Path | None) -> Iterator[Path]:
    """Gives the bundle that was named, or a tiny one that is gone afterwards."""
    if directory is not None:
        yield directory
        return
    try:
        from leo_edge.export.exporter import ExportOptions, export_bundle
        from leo_edge.export.random_checkpoint import write_random_checkpoint
    except ModuleNotFoundError as error:
        raise LeoEdgeError(
            f"without {error.name} no tiny bundle can be made here: make one on the workstation with `leo-edge checkpoint "
            f"{_TINY} tiny-checkpoint` and `leo-edge export tiny-checkpoint tiny`, copy it, and give its path"
        ) from None
    with tempfile.TemporaryDirectory(prefix="leo-edge-") as home:
        say(f"making a bundle of {_TINY}")
        write_random_checkpoint(_TINY, Path(home) / "checkpoint")
        export_bundle(Path(home) / "checkpoint", Path(home) / "bundle", ExportOptions(), lambda _: None)
        yield Path(home) / "bundle"


def _build_missing(bundle: Bundle) -> None:
    """Builds engines unless there are some, with whatever options they were built."""
    from leo_edge.export.build import BuildOptions, build_engines
    from leo_edge.runtime.trt import find

    try:
        find(bundle)
    except BackendError:
        build_engines(bundle, BuildOptions(), say)


def _facts(device: Pipeline, reference: Pipeline) -> dict[str, Any]:
    """What an issue must say about the machine."""
    manifest = device.bundle.manifest
    return {
        "leo_edge": __version__,
        "device": device.backend,
        "reference": reference.backend,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        "jetson": _first_line(_TEGRA_RELEASE),
        "bundle": f"{device.bundle.id}: {manifest.family}, opset {manifest.opset}, {manifest.float_type}"
        + (", INT8" if manifest.quantized else ""),
    }


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].lstrip("# ")
    except OSError:
        return None


def _table(facts: dict[str, Any], report: DeviceReport) -> str:
    """Returns Markdown."""
    lines = [f"- {name}: {value}" for name, value in facts.items() if value is not None]
    lines += ["", "| stage | runs | max abs error | relative | cosine | device ms | onnxruntime CPU ms | |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---|"]
    lines += [
        f"| {stage.name} | {stage.runs} | {stage.max_abs_error:.2e} | {stage.relative_error:.1e} | {stage.cosine:.6f} "
        f"| {stage.device_ms:.2f} | {stage.reference_ms:.2f} | {'ok' if stage.passed else 'MISS'} |"
        for stage in report.stages
    ]
    same = sum(wanted == got for wanted, got in report.answers)
    lines += [
        "",
        f"tokens: {report.tokens_equal} of {report.num_tokens} equal, {report.tokens_tied} tied within the error; "
        f"answers: {same} of {len(report.answers)} equal",
        "passed" if report.passed else "FAILED",
    ]
    return "\n".join(lines)
