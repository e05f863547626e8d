"""The expert InternViT-300M on one tile of 448 pixels, by one engine of `KINDS`; see `protocol.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from protocol import rounded, serve
from weights import textured_image

GRAPH = "vision.internvit"
Run = Callable[[Any], Any]


def leo(directory: Path, threads: int) -> Run:
    """The bundle's graph in leo_edge."""
    from leo_edge.runtime.bundle import open_bundle
    from leo_edge.runtime.ort import OrtSession

    bundle = open_bundle(directory)
    spec = bundle.manifest.cpu_forms.get(GRAPH, bundle.manifest.graphs[GRAPH])
    session = OrtSession(bundle.path(spec.file), spec, threads=threads, int8=bundle.manifest.quantized)
    return lambda tiles: session.run({"tiles": tiles})["tokens"]


def onnxruntime(directory: Path, threads: int) -> Run:
    """A graph in onnxruntime as it is by itself."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda tiles: session.run(["tokens"], {"tiles": tiles})[0]


def openvino(path: Path, threads: int) -> Run:
    """A graph or model file in OpenVINO."""
    import openvino as ov

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(str(path), "CPU", options).create_infer_request()
    return lambda tiles: np.array(request.infer({"tiles": tiles})[0])


def torch_module(checkpoint: Path, threads: int, *, compiled: bool = False) -> Run:
    """The module that the graph was traced from, in torch."""
    import torch
    from torch_modules import load_stage

    torch.set_num_threads(threads)
    module = load_stage(checkpoint, GRAPH)
    forward = torch.compile(module, dynamic=False) if compiled else module

    def run(tiles: Any) -> Any:
        with torch.inference_mode():
            return forward(torch.from_numpy(tiles)).numpy()

    return run


KINDS: dict[str, Callable[[Path, int], Run]] = {
    "leo": leo,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": torch_module,
    "torch-compile": lambda path, threads: torch_module(path, threads, compiled=True),
}


def main() -> None:
    """Serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("model", type=Path, help="a bundle, a folder with model.onnx, a model file, or a checkpoint for torch")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    args = parser.parse_args()
    engine = KINDS[args.kind](args.model, args.threads)
    tile, other = (textured_image(seed, 448, 448)[None] for seed in (10, 11))

    def run() -> dict[str, Any]:
        start_ns = perf_counter_ns()
        engine(tile)
        return {"ms": {"expert": (perf_counter_ns() - start_ns) / 1e6}}

    serve({"run": run, "check": lambda: {"values": rounded(engine(tile)), "control": rounded(engine(other))}})


if __name__ == "__main__":
    main()
