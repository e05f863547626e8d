"""Accuracy of quantized bundles by method: `python bench/peers/int8_accuracy.py FLOAT ... --out DIR`, see -h.

Each method's bundle is made with the product's own quantizer and asked all questions by the product's own replay; printed are
exact match beside float with McNemar's exact test, the share of equal answers, the bundle's bytes and seconds per answer.

`--outliers F` first gives the float model what large language models have and a tiny one lacks: a few channels of every
activation that can be smoothed become F times larger, and the weights that read them as much smaller. The float model is the
same function, as its exact match shows; its activations are those that per-tensor INT8 was found to fail on (T. Dettmers et
al., LLM.int8(), arXiv 2208.07339).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir

from leo_edge.calib.layers import layers_of, smooth_groups
from leo_edge.calib.smoothing import by_heads, of_producer
from leo_edge.export.quantize.plan import GraphPlan
from leo_edge.export.quantize.rewrite import rewrite
from leo_edge.export.writer import write_model
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.manifest import MANIFEST_NAME

METHODS = {
    "min-max": ["--method", "minmax"],
    "SmoothQuant, alpha 0.5": ["--method", "smoothquant", "--alpha", "0.5"],
    "SmoothQuant, searched": ["--method", "smoothquant"],
    "MBQ": ["--method", "mbq"],
    "MBQ, KV INT8": ["--method", "mbq", "--kv", "int8"],
    "min-max, W4 weight-only": ["--method", "minmax", "--weights", "int4", "--activations", "none"],
    "MBQ, W4 weight-only": ["--method", "mbq", "--weights", "int4", "--activations", "none"],
}


def inject_outliers(source: Path, target: Path, factor: float, seed: int = 0) -> None:
    """Writes the same float model with outliers: 2 % of each activation's channels, at least one, `factor` times larger."""
    bundle = open_bundle(source)
    random = np.random.default_rng(seed)
    shutil.copytree(source, target)
    files = dict(bundle.manifest.files)
    for name, spec in bundle.manifest.graphs.items():
        model = ir.load(bundle.path(spec.file))
        plan = GraphPlan(layers_of(name, model))
        for group in smooth_groups(name, model, bundle.manifest.decoder):
            width = int(next(layer.shape[0] for layer in plan.layers if layer.weight == group.consumers[0]))
            scales = np.ones(width, np.float32)
            scales[random.choice(width, max(1, width // 50), replace=False)] = 1 / factor
            if group.heads is not None:
                scales = by_heads(*group.heads, reduce=np.min)(scales)
            for consumer in group.consumers:
                plan.scale_rows(consumer, scales)
            for producer in group.producers:
                plan.scale_columns(producer, 1 / of_producer(scales, group.heads))
        if plan.rows:
            for file in (target / f"{name}.onnx", target / f"{name}.onnx.data"):
                file.unlink()
            files |= write_model(model, rewrite(model, plan), target, name, lambda _: None)
    (target / MANIFEST_NAME).write_text(replace(bundle.manifest, files=files).to_json())


def command(*arguments: object) -> str:
    """Runs the product and returns what it prints."""
    given = [sys.executable, "-m", "leo_edge", *map(str, arguments)]
    return subprocess.run(given, check=True, text=True, stdout=subprocess.PIPE).stdout


def replayed(bundle: Path, args: argparse.Namespace, out: Path) -> tuple[float, float]:
    """Returns exact match in percent and seconds per answer, encoding included."""
    start = perf_counter()
    text = command(
        "replay", bundle, "--nuscenes", args.nuscenes, "--questions", args.questions, "--out", out, "--json", "--threads", 2
    )
    seconds = perf_counter() - start
    summary = json.loads(text)
    overall = summary["scores"]["nuscenes_qa"]["overall"]
    return 100 * overall["accuracy"], seconds / summary["answers"]["answered"]


def diff(one: Path, other: Path) -> dict[str, Any]:
    """Compares two runs answer by answer."""
    given = [sys.executable, "-m", "leo_edge", "replay-diff", str(one), str(other), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(given, check=False, text=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="FLOAT")
    parser.add_argument("--calibrate", type=Path, required=True, metavar="ROOT", help="a dataset of training drives")
    parser.add_argument("--calibrate-questions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--nuscenes", type=Path, required=True, metavar="ROOT", help="the drives to score on")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--outliers", type=float, metavar="F")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to work; must not exist")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    bundle = args.bundle
    if args.outliers:
        bundle = args.out / "outliers"
        inject_outliers(args.bundle, bundle, args.outliers)
    table = args.out / "table"
    calibration = ["--nuscenes", args.calibrate, "--questions", args.calibrate_questions, "--frames", args.frames]
    command("calibrate", bundle, *calibration, "--out", table)
    accuracy, seconds = replayed(bundle, args, args.out / "run-float")
    size = open_bundle(bundle).size_bytes()
    print(f"{'':<26}{'exact match, %':>15}{'lost':>7}{'p':>8}{'equal, %':>10}{'MB':>8}{'s per answer':>14}")
    print(f"{'float':<26}{accuracy:>15.2f}{'':>25}{size / 1e6:>8.2f}{seconds:>14.4f}", flush=True)
    for number, (name, options) in enumerate(METHODS.items()):
        quantized, run = args.out / f"bundle-{number}", args.out / f"run-{number}"
        command("quantize", bundle, table, quantized, *options)
        mine, seconds = replayed(quantized, args, run)
        found = diff(args.out / "run-float", run)
        print(
            f"{name:<26}{mine:>15.2f}{accuracy - mine:>7.2f}{found['accuracy']['p']:>8.3f}"
            f"{100 * found['equal'] / found['common']:>10.2f}{open_bundle(quantized).size_bytes() / 1e6:>8.2f}{seconds:>14.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
