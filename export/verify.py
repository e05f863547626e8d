"""Is the bundle the checkpoint? Every stage of it is run in onnxruntime and in torch on the same inputs.

The reference has the weights as the checkpoint has them, in float32: the normalisation is a step of its own, the language
model attends over the whole sequence at once without any cache, layer by layer, so that no more than one layer is in memory.
The negative control runs each stage's reference with weights of another seed: it must not pass. The graph that cuts tiles
has no weight of the checkpoint: its reference is PIL, its control the tiles that bilinear weights give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from leo_edge.calib.similarity import cosine
from leo_edge.export.checkpoint import Checkpoint
from leo_edge.export.config import parse_config
from leo_edge.export.exporter import ignored_tensors, with_max_tiles
from leo_edge.export.modeling.llm import Llm
from leo_edge.export.random_checkpoint import random_tensor
from leo_edge.export.stages import FlatLlm, Stage, StageOptions, build_stages, embedding_of, expected_tensors
from leo_edge.export.weights import TensorReader, load_module
from leo_edge.runtime.backend import Array
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import CheckpointError, LeoEdgeError
from leo_edge.runtime.frames import CameraFrame, FrameSet
from leo_edge.runtime.graph_tiler import GraphTiler
from leo_edge.runtime.ort import OrtSession
from leo_edge.runtime.pipeline import Pipeline, open_pipeline
from leo_edge.runtime.resampling import grid_matrices
from leo_edge.runtime.tiles import TileBatch, TileGrid, choose_grid

NUM_STEPS = 32
# The largest error, as a part of the reference's largest value (or of 1 if that is smaller), and the smallest cosine.
LIMITS = {"float32": (2e-4, 0.99999), "float16": (3e-2, 0.999)}
_NUM_TILES, _NUM_TEXT = 2, 12


class RandomReader:
    """Tensors of the checkpoint's shapes with other values, also if the checkpoint is a random one of the same seed."""

    def __init__(self, checkpoint: Checkpoint, seed: int) -> None:
        self._shapes, self._seed = checkpoint.shapes, seed

    def read(self, key: str) -> Tensor:
        """Draws the tensor of a key."""
        return random_tensor(f"control.{key}", self._shapes[key], self._seed)


@dataclass(frozen=True)
class Comparison:
    """One stage in onnxruntime against torch. `control_cosine` is that of the reference with other weights."""

    name: str
    max_abs_error: float
    relative_error: float
    cosine: float
    control_cosine: float
    max_relative_error: float
    min_cosine: float

    @property
    def passed(self) -> bool:
        """Whether the stage is within the limits and the control outside."""
        return self.close and self.control_cosine < self.min_cosine  # false too where the control is not a number

    @property
    def close(self) -> bool:
        """Whether the stage is within the limits."""
        return self.relative_error <= self.max_relative_error and self.cosine >= self.min_cosine


@dataclass(frozen=True)
class Report:
    """All stages, and the greedy tokens: `tokens_equal` of `num_steps` steps, the rest ties within the error or not."""

    embedding_equal: bool
    stages: tuple[Comparison, ...]
    num_steps: int
    tokens_equal: int
    tokens_tied: int

    @property
    def passed(self) -> bool:
        """Whether every stage passed and every greedy token is the reference's, or as likely within the error."""
        tokens_agree = self.tokens_equal + self.tokens_tied == self.num_steps
        return self.embedding_equal and tokens_agree and all(stage.passed for stage in self.stages)


def verify(bundle: Bundle, checkpoint: Checkpoint, *, seed: int, say: Callable[[str], None], cpu_forms: bool = False) -> Report:
    """Compares a bundle with the checkpoint that it was exported from: its graphs, or their CPU forms where it has these.

    Raises:
        CheckpointError: the bundle was exported from another config, or the checkpoint is incomplete.
        BundleError, BackendError: the bundle does not load.
    """
    if seed < 0:
        raise LeoEdgeError(f"seed must be 0 or more, got {seed}")
    manifest = bundle.manifest
    if dict(checkpoint.config) != dict(manifest.model):
        raise CheckpointError(
            f"{bundle.directory} was exported from another config.json than that of "
            f"{checkpoint.directory}: give the checkpoint {manifest.provenance.get('checkpoint', '')!r} that it was made from"
        )
    config = with_max_tiles(parse_config(checkpoint.config), manifest.tiling.max_tiles)
    checkpoint.require(expected_tensors(config), ignored=ignored_tensors(config))
    options = StageOptions(torch.float32, manifest.decoder.context_len, fused=False, fold=False)
    pipeline = open_pipeline(bundle, "ort", standard_graphs=not cpu_forms)
    judge = _Judge(manifest.float_type, checkpoint, RandomReader(checkpoint, seed))
    samples = _Samples(pipeline, np.random.default_rng(seed))
    comparisons: list[Comparison] = []
    embedding_equal = _same_embedding(pipeline, embedding_of(config).build(checkpoint))
    for stage in build_stages(config, options):
        say(f"comparing {stage.name}")
        if stage.name != "llm":
            inputs = samples.inputs_of(stage)
            outputs = pipeline.sessions[stage.name].run(inputs)
            samples.keep(stage, outputs)
            comparisons.append(judge.compare_stage(stage, inputs, outputs[stage.outputs[0].name]))
        else:
            llm, tokens = judge.compare_llm(stage, samples)
            comparisons += llm
    say("comparing tiles")
    comparisons.append(_compare_tiles(bundle, np.random.default_rng(seed)))
    return Report(embedding_equal, tuple(comparisons), *tokens)


class _Samples:
    """Inputs for the stages: random tiles and tokens, and what the stages before made of them in onnxruntime."""

    def __init__(self, pipeline: Pipeline, random: np.random.Generator) -> None:
        self.pipeline, self._random = pipeline, random
        self.arrays: dict[str, Array] = {}
        vocab_size = pipeline.bundle.manifest.decoder.vocab_size
        self.text_ids = random.integers(0, vocab_size, _NUM_TEXT)
        self.arrays["text_embeds"] = pipeline.table.lookup(self.text_ids)

    def inputs_of(self, stage: Stage) -> dict[str, Array]:
        """Returns the stage's inputs, drawing the tiles when they are first asked for."""
        for port in stage.inputs:
            if port.name == "tiles" and "tiles" not in self.arrays:
                shape = (_NUM_TILES, *(dim for dim in port.dims[1:] if isinstance(dim, int)))
                self.arrays["tiles"] = self._random.integers(0, 256, shape, dtype=np.uint8)
        return {port.name: self.arrays[port.name] for port in stage.inputs}

    def keep(self, stage: Stage, outputs: Mapping[str, Array]) -> None:
        """Keeps a stage's output as the input of later ones."""
        output = outputs[stage.outputs[0].name]
        if stage.name.startswith("vision."):
            # CoTR sums over all tokens: at their full size its softmax is all but a maximum, which hides small errors. So
            # the second image's tokens are small.
            small = np.ones((_NUM_TILES, 1, 1), output.dtype)
            small[1:] = 2 / output.shape[1] ** 0.5
            self.arrays["tokens." + stage.name.removeprefix("vision.")] = output * small
        elif stage.name == "fuse":
            self.arrays["visual_embeds"] = output.reshape(-1, output.shape[-1])
        else:
            self.arrays[stage.outputs[0].name] = output

    def prompt(self) -> Array:
        """Returns a prompt's embeddings [S, D]: text, visual tokens, text; cut where the context ends."""
        text, visual = self.arrays["text_embeds"], self.arrays["visual_embeds"]
        context_len = self.pipeline.decoder.context_len
        room = context_len - NUM_STEPS - len(text)
        if room < 1:
            least = NUM_STEPS + len(text) + 1
            raise LeoEdgeError(f"a context of {context_len} tokens is too short to verify: export with {least} or more")
        half = len(text) // 2
        return np.concatenate([text[:half], visual[:room], text[half:]])

    def routing(self) -> dict[str, Array]:
        """Returns the inputs of MMoE."""
        if "router_context" not in self.arrays:
            return {}
        context = self.arrays["router_context"]
        return {"router_context": context, "use_special": np.ones(1, context.dtype)}


class _Judge:
    """Runs references and holds the outputs of the bundle against them."""

    def __init__(self, float_type: str, checkpoint: Checkpoint, control: RandomReader) -> None:
        self._limits = LIMITS[float_type]
        self._checkpoint, self._control = checkpoint, control

    def compare_stage(self, stage: Stage, inputs: Mapping[str, Array], got: Array) -> Comparison:
        wanted = _run_reference(stage, self._checkpoint, inputs)
        control = _run_reference(stage, self._control, inputs)
        return self._comparison(stage.name, got, wanted, control)

    def compare_llm(self, stage: Stage, samples: _Samples) -> tuple[list[Comparison], tuple[int, int, int]]:
        """Decodes greedily in onnxruntime, then asks the reference about the whole sequence at once.

        Returns the comparisons, and how many tokens there are, equal and tied.
        """
        decoder, table = samples.pipeline.decoder, samples.pipeline.table
        prompt, routing = samples.prompt(), samples.routing()
        logits = [decoder.prefill(prompt, routing)]
        token_ids = [int(logits[0].argmax())]
        while len(logits) <= NUM_STEPS:
            logits.append(decoder.step(token_ids[-1]))
            token_ids.append(int(logits[-1].argmax()))
        sequence = np.concatenate([prompt, table.lookup(np.array(token_ids[:NUM_STEPS]))])
        got = np.stack(logits)
        wanted = _llm_logits(stage, self._checkpoint, sequence, routing, len(logits))
        control = _llm_logits(stage, self._control, sequence, routing, len(logits))
        prefill = self._comparison("llm prefill", got[:1], wanted[:1], control[:1])
        steps = self._comparison(f"llm {NUM_STEPS} steps", got[1:], wanted[1:], control[1:])
        chosen = np.array(token_ids)
        rows = np.arange(len(chosen))
        equal = wanted.argmax(axis=1) == chosen
        # Another token is no error where the reference finds both as likely as the arithmetic can tell.
        margin = wanted.max(axis=1) - wanted[rows, chosen]
        tied = ~equal & (margin <= 2 * np.abs(got - wanted).max(axis=1))
        return [prefill, steps], (len(chosen), int(equal.sum()), int(tied.sum()))

    def _comparison(self, name: str, got: Array, wanted: Array, control: Array) -> Comparison:
        return _compare(name, got, wanted, control, self._limits)


def _compare(name: str, got: Array, wanted: Array, control: Array, limits: tuple[float, float]) -> Comparison:
    error = float(np.abs(got.astype(np.float64) - wanted).max())
    relative = error / max(1.0, float(np.abs(wanted).max()))
    relative = relative if np.isfinite(got).all() else float("inf")
    return Comparison(name, error, relative, cosine(got, wanted), cosine(got, control), *limits)


def _compare_tiles(bundle: Bundle, random: np.random.Generator) -> Comparison:
    """Cuts an image of noise into two tiles and a thumbnail. This graph is float32 in every bundle, and its tiles PIL's."""
    spec, tiling = bundle.manifest.graphs["tiles"], bundle.manifest.tiling.at_most(2)
    width, height = 3 * tiling.tile_px + 5, 2 * tiling.tile_px - 3
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    frames = FrameSet.of([CameraFrame("CAM", image)], expected_channels=["CAM"])
    wanted = TileBatch.from_frames(frames, tiling).tiles
    session = OrtSession(bundle.path(spec.file), spec)
    parts = GraphTiler(session).cut(frames, tiling)[0].parts
    grids = [choose_grid(width, height, tiling), TileGrid(1, 1)][: len(parts)]
    bilinear = [grid_matrices(width, height, grid.cols, grid.rows, tiling.tile_px, "bilinear") for grid in grids]
    control = np.concatenate([session.run({"image": image, **matrices})["tiles"] for matrices in bilinear])
    # Centred: the mean of an image is the same whatever the weights.
    arrays = [array.astype(np.float32) - 127.5 for array in (np.concatenate(parts), wanted, control)]
    return _compare("tiles", arrays[0], arrays[1], arrays[2], LIMITS["float32"])


def _same_embedding(pipeline: Pipeline, table: Tensor) -> bool:
    """Compares the embedding table row by row; rounding to the bundle's type is all that may differ."""
    mine = pipeline.table.lookup(np.arange(pipeline.table.shape[0]))
    return np.array_equal(mine, table.float().numpy().astype(mine.dtype))


def _run_reference(stage: Stage, reader: TensorReader, inputs: Mapping[str, Array]) -> Array:
    """Runs a stage in torch with weights from `reader`, and gives its memory back."""
    load_module(stage.module, stage.recipes, reader, torch.float32)
    with torch.inference_mode():
        return np.asarray(stage.module(*(_tensor(inputs[port.name]) for port in stage.inputs)).numpy())


def _llm_logits(
    stage: Stage, reader: TensorReader, sequence: Array, routing: Mapping[str, Array], count: int
) -> npt.NDArray[np.float32]:
    """Returns the logits [count, V] after each of the last `count` tokens of a sequence [S, D], one layer at a time."""
    assert isinstance(stage.module, FlatLlm)
    llm: Llm = stage.module.llm
    recipes = {name.removeprefix("llm."): recipe for name, recipe in stage.recipes.items()}

    def load(part: str) -> torch.nn.Module:
        module = llm.get_submodule(part)
        own = {name[len(part) + 1 :]: recipe for name, recipe in recipes.items() if name.startswith(part + ".")}
        load_module(module, own, reader, torch.float32)
        return module

    hidden, positions = _tensor(sequence), torch.arange(len(sequence))
    special = {name: _tensor(array) for name, array in routing.items()}
    nothing = torch.empty(0, llm.config.num_kv_heads, llm.config.head_dim)
    load("rope")
    with torch.inference_mode():
        cos, sin = llm.rope(positions)
        masks = llm.masks(positions, nothing, torch.float32)
        for i, window in enumerate(llm.config.windows):
            layer = load(f"layers.{i}")
            routed = (special["router_context"][i], special["use_special"]) if special else None
            hidden, _ = layer(hidden, cos, sin, positions[:1], masks[window], (nothing, nothing), routed)
            layer.to("meta")
        load("norm")
        load("head")
        return np.asarray(llm.head(llm.norm(hidden[-count:])).numpy())


def _tensor(array: Array) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.float() if tensor.is_floating_point() else tensor
