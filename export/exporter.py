"""A checkpoint becomes a bundle: graphs from the config alone, weights streamed into them, a manifest over all of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import torch
from tqdm import tqdm

from leo_edge.export.checkpoint import Checkpoint, read_json
from leo_edge.export.config import LeoMiniConfig, ModelConfig, parse_config
from leo_edge.export.cpu_form.write import write_cpu_forms
from leo_edge.export.stages import (
    OPSET_FUSED,
    OPSET_PLAIN,
    Port,
    Stage,
    StageOptions,
    build_stages,
    embedding_of,
    expected_tensors,
    tiles_stage,
)
from leo_edge.export.trace import TracedGraph, trace
from leo_edge.export.writer import file_spec, num_bytes, num_parameters, write_embedding, write_graph
from leo_edge.runtime.errors import BundleError, CheckpointError, LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from leo_edge.runtime.manifest import (
    MANIFEST_NAME,
    BundleManifest,
    DecoderManifest,
    ExpertManifest,
    FileSpec,
    FuseManifest,
    GraphSpec,
    PromptManifest,
    TensorSpec,
)
from leo_edge.runtime.new_directory import new_directory
from leo_edge.runtime.prompt import TEMPLATES
from leo_edge.runtime.tokenizer import Tokenizer

FLOAT_TYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Room for system text, camera names, question and answer beside the visual tokens.
_TEXT_TOKENS = 1024
_EMBEDDING, _TOKENIZER = "embedding.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class ExportOptions:
    """Choices of `leo-edge export`. `context_len` None makes room for six cameras; `max_tiles` None keeps the config's."""

    opset: int = OPSET_PLAIN
    float_type: str = "fp32"
    context_len: int | None = None
    max_tiles: int | None = None

    def __post_init__(self) -> None:
        if self.opset not in (OPSET_PLAIN, OPSET_FUSED):
            raise LeoEdgeError(f"opset must be {OPSET_PLAIN} or {OPSET_FUSED}, got {self.opset}")
        if self.float_type not in FLOAT_TYPES:
            raise LeoEdgeError(f"float type must be one of {', '.join(FLOAT_TYPES)}, got {self.float_type!r}")
        for name in ("context_len", "max_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LeoEdgeError(f"{name} must be at least 1, got {value}")


def export_bundle(checkpoint_dir: Path, bundle_dir: Path, options: ExportOptions, say: Callable[[str], None]) -> BundleManifest:
    """Exports a checkpoint. The bundle is written under a temporary name and renamed: it is whole or absent.

    Raises:
        CheckpointError: the checkpoint is incomplete, of an unknown kind, or does not fit its config.
        BundleError: something is already at `bundle_dir`.
    """
    checkpoint = Checkpoint.open(checkpoint_dir)
    config = with_max_tiles(parse_config(checkpoint.config), options.max_tiles)
    checkpoint.require(expected_tensors(config), ignored=ignored_tensors(config))
    tokenizer = Tokenizer(checkpoint.tokenizer_path)
    prompt = resolve_prompt(config, checkpoint, tokenizer)
    context_len = _context_len(config, options.context_len)
    dtype = FLOAT_TYPES[options.float_type]
    stage_options = StageOptions(dtype, context_len, fused=options.opset == OPSET_FUSED)
    with new_directory(bundle_dir, BundleError) as directory:
        graphs, files = _write_graphs(config, stage_options, options.opset, checkpoint, directory, say)
        shutil.copyfile(checkpoint.tokenizer_path, directory / _TOKENIZER)
        files[_TOKENIZER] = file_spec(directory / _TOKENIZER)
        manifest = BundleManifest(
            family="leo_mini" if isinstance(config, LeoMiniConfig) else "leo",
            float_type=str(dtype).removeprefix("torch."),
            opset=options.opset,
            experts=_expert_manifests(config, graphs),
            tiling=config.tiling,
            fuse=fuse_manifest(config),
            prompt=prompt,
            decoder=_decoder_manifest(config, context_len, fused=stage_options.fused),
            embedding=_EMBEDDING,
            tokenizer=_TOKENIZER,
            graphs=graphs,
            cpu_forms={},
            files=files,
            model=dict(checkpoint.config),
            provenance=_provenance(checkpoint),
        )
        manifest = write_cpu_forms(directory, manifest)
        (directory / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def with_max_tiles(config: ModelConfig, max_tiles: int | None) -> ModelConfig:
    """Returns the config with another upper bound on the tiles per image."""
    if max_tiles is None:
        return config
    tiling = replace(config.tiling, max_tiles=max_tiles, min_tiles=min(config.tiling.min_tiles, max_tiles))
    return replace(config, tiling=tiling)


def ignored_tensors(config: ModelConfig) -> frozenset[str]:
    """A tied language model may store its head twice."""
    return frozenset({"language_model.lm_head.weight", "language_model.output.weight"}) if config.llm.tied else frozenset()


def default_context_len(config: ModelConfig) -> int:
    """Room for six cameras at their most tiles, and text; never more than the language model knows positions."""
    per_camera = fuse_manifest(config).most_tokens(config.tiling)
    return min(len(NUSCENES_CAMERAS) * per_camera + _TEXT_TOKENS, config.llm.max_position_embeddings)


def _context_len(config: ModelConfig, wanted: int | None) -> int:
    """Returns the context to export for. Only dynamic RoPE stretches beyond the positions that the model was made for."""
    most = config.llm.max_position_embeddings
    if wanted is not None and wanted > most and config.llm.rope.kind != "dynamic":
        raise CheckpointError(
            f"--context-len {wanted} is beyond the {most} positions that the language model knows: take fewer"
        )
    return wanted or default_context_len(config)


def resolve_prompt(config: ModelConfig, checkpoint: Checkpoint, tokenizer: Tokenizer) -> PromptManifest:
    """Looks up the template and the special tokens.

    Raises:
        CheckpointError: the template is unknown, or the tokenizer lacks a token that the prompt needs.
    """
    if config.template not in TEMPLATES:
        raise CheckpointError(f"unknown template {config.template!r} in config.json: expected one of {', '.join(TEMPLATES)}")
    absent = [token for token in config.image_tokens if token and tokenizer.id_of(token) is None]
    if absent:
        raise CheckpointError(f"the tokenizer has no {', '.join(absent)}: use the tokenizer that the model was trained with")
    template = TEMPLATES[config.template]
    found = [tokenizer.id_of(token) for token in template.stop_tokens]
    stop_ids = dict.fromkeys([*(found_id for found_id in found if found_id is not None), *_eos_ids(checkpoint)])
    if tokenizer.largest_id >= config.llm.vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {tokenizer.largest_id}, the embedding table {config.llm.vocab_size} rows: "
            "use the tokenizer that the model was trained with"
        )
    if not stop_ids:
        raise CheckpointError(f"the tokenizer has none of the stop tokens of {config.template}: {template.stop_tokens}")
    prefix, suffix = template.split(config.system_message)
    start, context, end = config.image_tokens
    return PromptManifest(prefix, suffix, start, context, end, config.camera_line, tuple(stop_ids))


def _eos_ids(checkpoint: Checkpoint) -> list[int]:
    """Returns the end-of-sequence ids that the checkpoint's generation or model config states."""
    sources: list[Any] = [checkpoint.config.get("llm_config", {}).get("eos_token_id")]
    if (checkpoint.directory / "generation_config.json").is_file():
        sources.append(read_json(checkpoint.directory / "generation_config.json").get("eos_token_id"))
    flat = [value for source in sources for value in (source if isinstance(source, list) else [source])]
    return [value for value in flat if isinstance(value, int)]


def _write_graphs(
    config: ModelConfig,
    stage_options: StageOptions,
    opset: int,
    checkpoint: Checkpoint,
    directory: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, GraphSpec], dict[str, FileSpec]]:
    """Traces every stage, then streams all weights behind one progress bar."""
    traced: list[tuple[Stage, TracedGraph]] = []
    for stage in (tiles_stage(config.tiling.tile_px), *build_stages(config, stage_options)):
        say(f"tracing {stage.name}")
        traced.append((stage, trace(stage, opset)))
    embedding = embedding_of(config)
    total = (
        sum(num_bytes(graph) for _, graph in traced) + embedding.shape[0] * embedding.shape[1] * stage_options.dtype.itemsize
    )
    graphs, files = {}, {}
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=None) as bar:
        files[_EMBEDDING] = write_embedding(embedding, checkpoint, directory / _EMBEDDING, stage_options.dtype, bar.update)
        for stage, graph in traced:
            files |= write_graph(graph, checkpoint, directory, stage.name, bar.update)
            graphs[stage.name] = graph_spec(stage, graph)
    for name in graphs:
        onnx.checker.check_model(str(directory / f"{name}.onnx"), full_check=False)
    return graphs, files


def graph_spec(stage: Stage, graph: TracedGraph) -> GraphSpec:
    """Returns what the manifest says of a graph that is written under its stage's name."""
    return GraphSpec(
        file=f"{stage.name}.onnx",
        data=f"{stage.name}.onnx.data" if graph.recipes else None,
        inputs=tuple(_tensor_spec(port) for port in stage.inputs),
        outputs=tuple(_tensor_spec(port) for port in stage.outputs),
        num_parameters=num_parameters(graph.recipes),
    )


def _tensor_spec(port: Port) -> TensorSpec:
    return TensorSpec(port.name, str(port.dtype).removeprefix("torch."), port.dims)


def _expert_manifests(config: ModelConfig, graphs: dict[str, GraphSpec]) -> tuple[ExpertManifest, ...]:
    made = []
    for expert in config.experts:
        _, num_tokens, width = graphs[f"vision.{expert.name}"].outputs[0].shape
        assert isinstance(num_tokens, int)
        assert isinstance(width, int)
        made.append(ExpertManifest(expert.name, num_tokens, width))
    return tuple(made)


def fuse_manifest(config: ModelConfig) -> FuseManifest:
    """Describes what one fusion of this model gives, without tracing it."""
    options = StageOptions(torch.float32, context_len=1, fused=False)
    stage = next(stage for stage in build_stages(config, options) if stage.name == "fuse")
    num_tokens = stage.outputs[0].dims[1]
    assert isinstance(num_tokens, int)
    mini = isinstance(config, LeoMiniConfig)
    return FuseManifest("image" if mini else "tile", num_tokens, uses_text=mini)


def _decoder_manifest(config: ModelConfig, context_len: int, *, fused: bool) -> DecoderManifest:
    llm = config.llm
    return DecoderManifest(
        cache="scatter" if fused else "prefix",
        num_layers=llm.num_layers,
        num_kv_heads=llm.num_kv_heads,
        head_dim=llm.head_dim,
        hidden_size=llm.hidden_size,
        vocab_size=llm.vocab_size,
        context_len=context_len,
        routed=llm.mmoe is not None,
    )


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    config = (checkpoint.directory / "config.json").read_bytes()
    packages = ("leo_edge", "torch", "transformers", "onnx", "onnxscript", "onnx-ir")
    note = checkpoint.config.get("note")  # what its makers want everybody to know who reads its answers
    return ({"note": note} if isinstance(note, str) else {}) | {
        "checkpoint": checkpoint.directory.resolve().name,
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "num_tensors": len(checkpoint.shapes),
        "versions": {name: metadata.version(name) for name in packages},
    }
