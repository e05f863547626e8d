"""INT8 of the language model by leo_edge, nvidia-modelopt and onnxruntime: the same weights, calibration frames, questions.

`pip install nvidia-modelopt`, then `python bench/peers/int8_peers.py CHECKPOINT FLOAT TABLE ... --out DIR`, see -h. Vision
experts stay float, so that only the quantizers differ. All keep the same layers float (router, LoRA, head) and quantize the
same ones, weights per channel, activations per tensor:

- modelopt: INT8_SMOOTHQUANT_CFG, fake-quantized in torch;
- onnxruntime: quantize_static, QDQ, min-max and entropy;
- leo_edge: min-max, SmoothQuant, MBQ.

Printed, over held-out questions: mean KL of the next token's distribution against float, greedy tokens and answers that are
equal, and points of exact match lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from leo_edge.calib.layers import layers_of, rule_for
from leo_edge.calib.observe import Forced, llm_inputs
from leo_edge.calib.probe import Probe, effect_on, make_probe
from leo_edge.calib.table import read_table
from leo_edge.commands.drives import choose
from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import parse_config
from leo_edge.export.quantize.plan import QuantizeOptions
from leo_edge.export.quantize.quantizer import quantize_bundle
from leo_edge.export.stages import FlatLlm, StageOptions, build_stages
from leo_edge.export.weights import load_module
from leo_edge.replay.nuscenes_source import NuScenesOptions
from leo_edge.replay.queries import open_queries
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.ort import open_decoder
from leo_edge.runtime.pipeline import Pipeline, open_pipeline

_KEPT = ("*router*", "*lora*", "*head*")


class TorchDecoder:
    """A torch language model behind the runtime's `Decoder`."""

    def __init__(self, module: FlatLlm, table: EmbeddingTable, bundle: Bundle) -> None:
        self._module, self._table, self._manifest = module, table, bundle.manifest.decoder
        self.context_len = self._manifest.context_len

    def prefill(self, embeds: Any, routing: Mapping[str, Any]) -> Any:
        """Forgets what came before."""
        count, heads, dim = self._manifest.num_layers, self._manifest.num_kv_heads, self._manifest.head_dim
        self._cache = [torch.empty(0, heads, dim) for _ in range(2 * count)]
        self._routing = [torch.from_numpy(np.ascontiguousarray(array)) for array in routing.values()]
        return self._run(embeds)

    def step(self, token_id: int) -> Any:
        """Appends a token."""
        return self._run(self._table.lookup(np.array([token_id])))

    def _run(self, embeds: Any) -> Any:
        start = len(self._cache[0])
        positions = torch.arange(start, start + len(embeds))
        with torch.inference_mode():
            new_embeds, rows = torch.from_numpy(np.ascontiguousarray(embeds)), torch.tensor([len(embeds) - 1])
            logits, *new = self._module(new_embeds, positions, rows, *self._cache, *self._routing)
            self._cache = [torch.cat(pair) for pair in zip(self._cache, new, strict=True)]
        return logits[0].numpy()


def torch_llm(checkpoint: Checkpoint, bundle: Bundle) -> FlatLlm:
    """Loads the language model from the checkpoint."""
    options = StageOptions(torch.float32, bundle.manifest.decoder.context_len, fused=False)
    stage = next(stage for stage in build_stages(parse_config(checkpoint.config), options) if stage.name == "llm")
    load_module(stage.module, stage.recipes, checkpoint, torch.float32)
    assert isinstance(stage.module, FlatLlm)
    return stage.module


def with_modelopt(module: FlatLlm, sequences: list[Forced], bundle: Bundle) -> FlatLlm:
    """Quantizes the module with nvidia-modelopt, in place."""
    import modelopt.torch.quantization as mtq

    # INT8_SMOOTHQUANT_CFG without its list of names to leave out, which would leave out our gate projections.
    quantizers = [
        one
        for one in mtq.INT8_SMOOTHQUANT_CFG["quant_cfg"]
        if one.get("cfg") or one == {"quantizer_name": "*", "enable": False}
    ]
    kept = [{"quantizer_name": name, "enable": False} for name in _KEPT]
    config = {"quant_cfg": [*quantizers, *kept], "algorithm": "smoothquant"}

    def calibrate(model: torch.nn.Module) -> None:
        for sequence in sequences:
            inputs = llm_inputs(bundle.manifest.decoder, sequence.embeds, sequence.routing)
            with torch.inference_mode():
                model(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()))

    return mtq.quantize(module, config, calibrate)  # type: ignore[no-any-return]


def with_onnxruntime(bundle: Bundle, sequences: list[Forced], out: Path, method: str) -> bytes:
    """Quantizes the language model's graph with onnxruntime's own quantizer."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Forced] = iter(sequences)

        def get_next(self) -> dict[str, Any] | None:
            one = next(self._left, None)
            return None if one is None else llm_inputs(bundle.manifest.decoder, one.embeds, one.routing)

    path = bundle.path("llm.onnx")
    kept = {layer.weight for layer in layers_of("llm", ir.load(path)) if rule_for(layer) is None}
    model = ir.load(path)
    excluded = [node.name for node in model.graph if node.inputs and (len(node.inputs) < 2 or node.inputs[1].name not in kept)]
    quantize_static(
        str(path),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=[name for name in excluded if name],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "MatMulConstBOnly": True},
    )
    return out.read_bytes()


def row(name: str, pipeline: Pipeline, probes: list[Probe]) -> None:
    """Prints a quantizer's effect."""
    effect = effect_on(pipeline, probes, encode=False)
    lost = "-" if effect.drop is None else f"{effect.drop:.2f}"
    print(f"{name:<34}{effect.kl:>12.3e}{effect.tokens_equal:>14.2%}{effect.answers_equal:>15.2%}{lost:>13}", flush=True)


def attempt(name: str, make: Callable[[], Pipeline], probes: list[Probe]) -> None:
    """Prints a peer's effect, or why there is none."""
    try:
        row(name, make(), probes)
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and the others still count
        print(f"{name:<34}failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}", file=sys.stdout, flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of which the bundle was made; `none` leaves modelopt out")
    parser.add_argument("bundle", type=Path, metavar="FLOAT")
    parser.add_argument("table", type=Path, help="made with the same --frames and questions")
    parser.add_argument("--calibrate", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--calibrate-questions", required=True, metavar="FILE")
    parser.add_argument("--nuscenes", type=Path, required=True, metavar="ROOT", help="held-out drives")
    parser.add_argument("--questions", required=True, metavar="FILE")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=150, metavar="N", help="frame sets with five questions each")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    bundle = open_bundle(args.bundle)
    pipeline = open_pipeline(bundle, threads=2)
    table = read_table(args.table)
    sequences = [
        asked.sequence
        for probe in _probes(pipeline, args.calibrate, args.calibrate_questions, args.frames, seed=0)
        for asked in probe.asked
    ]
    probes = _probes(pipeline, args.nuscenes, args.questions, args.held_out, seed=2)
    count = sum(len(probe.asked) for probe in probes)
    print(f"{len(sequences)} calibration prompts, {count} held-out questions")
    print(f"{'':<34}{'KL, nats':>12}{'tokens equal':>14}{'answers equal':>15}{'points lost':>13}")
    if str(args.checkpoint) != "none":
        module = torch_llm(Checkpoint.open(args.checkpoint), bundle)
        row("torch, float (control)", replace(pipeline, decoder=TorchDecoder(module, pipeline.table, bundle)), probes)
        attempt(
            "modelopt INT8 SmoothQuant",
            lambda: replace(pipeline, decoder=TorchDecoder(with_modelopt(module, sequences, bundle), pipeline.table, bundle)),
            probes,
        )
    for method in ("MinMax", "Entropy"):
        attempt(
            f"onnxruntime quantize_static {method}",
            lambda method=method: replace(  # type: ignore[misc]
                pipeline,
                decoder=open_decoder(
                    bundle,
                    pipeline.table,
                    threads=2,
                    model=with_onnxruntime(bundle, sequences, args.out / f"{method}.onnx", method),
                ),
            ),
            probes,
        )
    for name, options in (
        ("leo_edge min-max", QuantizeOptions(method="minmax")),
        ("leo_edge SmoothQuant, alpha 0.5", QuantizeOptions(alpha=0.5)),
        ("leo_edge SmoothQuant", QuantizeOptions()),
        ("leo_edge MBQ", QuantizeOptions(method="mbq")),
    ):
        target = args.out / name.replace(" ", "-")
        quantize_bundle(bundle, table, target, options)
        quantized = open_bundle(target)
        row(name, replace(pipeline, decoder=open_decoder(quantized, pipeline.table, threads=2)), probes)


def _probes(pipeline: Pipeline, root: Path, questions: str, frames: int, seed: int) -> list[Probe]:
    chosen = choose(NuScenesOptions(root).open(), open_queries(questions), frames, 5, seed)
    return [make_probe(pipeline, one.planned.load(), [(q.question, q.truth) for q in one.queries]) for one in chosen]


if __name__ == "__main__":
    main()
