"""Counts for `leo-edge plan`: of a bundle's graphs, or of those that a preset would have, traced without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leo_edge.bench.plan_work import GraphWork, ModelFacts, WorkCounter
from leo_edge.commands.progress import say
from leo_edge.runtime.bundle import Bundle

if TYPE_CHECKING:
    import onnx_ir as ir

    from leo_edge.export.config import ModelConfig
    from leo_edge.export.stages import Stage

_TILES = "tiles"  # the graph that cuts tiles depends on the size of the images: what it moves is reckoned apart


def bundle_counter(bundle: Bundle) -> WorkCounter:
    """Returns the counter of a bundle, in the precision that it has."""
    import onnx_ir as ir

    manifest = bundle.manifest
    models = {name: ir.load(bundle.path(spec.file)) for name, spec in manifest.graphs.items() if name != _TILES}
    float_bytes = 2 if manifest.float_type == "float16" else 4
    quantized = bool(manifest.quantized)
    facts = ModelFacts(
        family=manifest.family,
        experts=manifest.experts,
        tiling=manifest.tiling,
        fuse=manifest.fuse,
        decoder=manifest.decoder,
        graphs={name: _symbols([port.shape for port in manifest.graphs[name].inputs]) for name in models},
        precisions={name: _precision(model, manifest.float_type) for name, model in models.items()},
        linear_parameters={} if quantized else {name: _linear_parameters(name, model) for name, model in models.items()},
        embedding_bytes=manifest.files[manifest.embedding].size_bytes,
        float_bytes=float_bytes,
    )
    return _counter(facts, models)


def preset_counter(name: str) -> WorkCounter:
    """Returns the counter of a preset's graphs in float16, in the opset that JetPack 6.2 reads."""
    import torch

    from leo_edge.export.config import parse_config
    from leo_edge.export.exporter import default_context_len
    from leo_edge.export.presets import PRESETS
    from leo_edge.export.stages import OPSET_PLAIN, StageOptions, build_stages
    from leo_edge.export.trace import trace

    config = parse_config(PRESETS[name])
    options = StageOptions(torch.float16, default_context_len(config), fused=False)
    stages = {stage.name: stage for stage in build_stages(config, options)}
    models = {}
    for stage in stages.values():
        say(f"tracing {stage.name} of {name}")
        models[stage.name] = trace(stage, OPSET_PLAIN).model
    return _counter(_preset_facts(config, stages, models), models)


def _preset_facts(config: ModelConfig, stages: Mapping[str, Stage], models: Mapping[str, ir.Model]) -> ModelFacts:
    from leo_edge.export.config import LeoMiniConfig
    from leo_edge.export.exporter import default_context_len, fuse_manifest
    from leo_edge.runtime.manifest import DecoderManifest, ExpertManifest

    llm = config.llm
    experts = []
    for expert in config.experts:
        _, num_tokens, width = stages[f"vision.{expert.name}"].outputs[0].dims
        experts.append(ExpertManifest(expert.name, int(num_tokens), int(width)))
    decoder = DecoderManifest(
        cache="prefix",
        num_layers=llm.num_layers,
        num_kv_heads=llm.num_kv_heads,
        head_dim=llm.head_dim,
        hidden_size=llm.hidden_size,
        vocab_size=llm.vocab_size,
        context_len=default_context_len(config),
        routed=llm.mmoe is not None,
    )
    return ModelFacts(
        family="leo_mini" if isinstance(config, LeoMiniConfig) else "leo",
        experts=tuple(experts),
        tiling=config.tiling,
        fuse=fuse_manifest(config),
        decoder=decoder,
        graphs={name: _symbols([port.dims for port in stage.inputs]) for name, stage in stages.items()},
        precisions=dict.fromkeys(models, "float16"),
        linear_parameters={name: _linear_parameters(name, model) for name, model in models.items()},
        embedding_bytes=2 * llm.vocab_size * llm.hidden_size,
        float_bytes=2,
    )


def _counter(facts: ModelFacts, models: Mapping[str, ir.Model]) -> WorkCounter:
    from leo_edge.export.cost import count_model

    def count(graph: str, dims: Mapping[str, int]) -> GraphWork:
        cost = count_model(models[graph], {name: dims[name] for name in facts.graphs[graph]})
        return GraphWork(cost.flops, cost.weight_bytes, cost.input_bytes + cost.output_bytes)

    return WorkCounter(facts, count)


def _symbols(shapes: Sequence[tuple[int | str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(dim for shape in shapes for dim in shape if isinstance(dim, str)))


def _precision(model: ir.Model, float_type: str) -> str:
    """Returns what a graph's products are computed in: int8 where activations are quantized, else the float type."""
    return "int8" if any(node.op_type == "QuantizeLinear" for node in model.graph) else float_type


def _linear_parameters(name: str, model: ir.Model) -> int:
    """Returns how many weights `quantize` would quantize by its rules."""
    from leo_edge.calib.layers import layers_of, rule_for

    weights = {layer.weight: math.prod(layer.shape) for layer in layers_of(name, model) if rule_for(layer) is None}
    return sum(weights.values())
