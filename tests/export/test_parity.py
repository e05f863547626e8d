"""The deployed path against the models composed by hand: checkpoint, export, onnxruntime, frames, question, answer.

The references are transformers' modules, put together as the models' papers and published code say, recomputing the whole
sequence for every token. Nothing of ours is in them but the tile rule's transcription and the equations of CoTR and MMoE,
which are other tests' references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from leo_edge.export import exporter
from leo_edge.export.exporter import ExportOptions, export_bundle
from leo_edge.export.stages import Stage
from leo_edge.export.trace import TracedGraph, trace
from leo_edge.runtime.answer import Answer
from leo_edge.runtime.backend import Array, Decoder, FloatArray, Logits
from leo_edge.runtime.frames import CameraFrame, FrameSet
from leo_edge.runtime.pipeline import AskOptions, Savings, open_pipeline
from leo_edge.runtime.tiles import TilingConfig
from leo_edge.runtime.tokens import VisualTokens
from tests.export.checkpoints import (
    DYNAMIC_ROPE,
    LLAMA3_ROPE,
    TILE_PX,
    Json,
    LeoMiniModel,
    LeoModel,
    build_leo,
    build_leo_mini,
    write_checkpoint,
)
from tests.export.modeling.test_cotr import literal_cotr
from tests.export.modeling.test_experts import IMAGENET, OPENAI_CLIP, Statistics
from tests.export.modeling.test_mmoe import Float64, LiteralMMoE
from tests.runtime.test_tiles import Uint8, published_tiles

TOLERANCE = 2e-4
NUM_STEPS = 32
CONTEXT_LEN = 1024
SYSTEM = (
    "You are LEO, a multimodal large language model developed by Waterloo WISE lab. You are a helpful and harmless AI assistant"
)
MINI_SYSTEM = "You drive."
# The opset-24 cache grows where it is full, at this length among others.
BUCKET = 512
QUESTION = "Is the pedestrian on the left about to cross, and if so, what should you do?"
# Two cameras with 2 x 1 tiles and a thumbnail, one with a single tile; the middle one differs, so that grouping shows.
SIZES = {"CAM_FRONT": (150, 80), "CAM_FRONT_LEFT": (60, 70), "CAM_BACK": (131, 70)}

LEO_CASES: dict[str, tuple[str, Json]] = {
    "llama": ("LlamaForCausalLM", {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": (
        "Qwen2ForCausalLM",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1},
    ),
    "phi3": (
        "Phi3ForCausalLM",
        {"sliding_window": 120, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
    ),
    "internlm2": ("InternLM2ForCausalLM", {"rope_parameters": DYNAMIC_ROPE}),
}
LEO_RUNS = [(name, opset) for name in ("llama", "qwen2", "phi3") for opset in (20, 24)] + [("internlm2", 20)]


@dataclass
class RecordingDecoder:
    """A decoder that keeps the logits that it gives."""

    decoder: Decoder
    logits: list[Logits]

    @property
    def context_len(self) -> int:
        return self.decoder.context_len

    @property
    def length(self) -> int:
        return self.decoder.length

    @property
    def label(self) -> object:
        return self.decoder.label

    def prefill(self, embeds: FloatArray, routing: Mapping[str, Array], *, keep: int = 0, label: object = None) -> Logits:
        self.logits.append(self.decoder.prefill(embeds, routing, keep=keep, label=label))
        return self.logits[-1]

    def step(self, token_id: int) -> Logits:
        self.logits.append(self.decoder.step(token_id))
        return self.logits[-1]

    def extend(self, token_ids: Sequence[int]) -> Logits:
        return np.stack([self.step(token_id) for token_id in token_ids])

    def rewind(self, length: int) -> None:
        self.decoder.rewind(length)


@dataclass(frozen=True)
class Deployed:
    """What a bundle made of the frames: encoded cameras, the answer, and the logits [32, V] that its tokens came from.

    `tokenizer` is the text of the checkpoint's tokenizer.json.
    """

    tokenizer: str
    tokens: VisualTokens
    answer: Answer
    logits: Logits


@dataclass(frozen=True)
class Reference:
    """What the composed modules make of the frames: 32 tokens, and the logits [32, V] that they came from."""

    token_ids: tuple[int, ...]
    logits: Logits


def images() -> dict[str, Uint8]:
    rng = np.random.default_rng(7)
    return {name: rng.integers(0, 256, (high, wide, 3), dtype=np.uint8) for name, (wide, high) in SIZES.items()}


def deploy(directory: Path, model: LeoModel | LeoMiniModel, *, opset: int, num_shards: int = 1) -> Deployed:
    """Writes the checkpoint, exports it and asks about the frames."""
    checkpoint = write_checkpoint(directory / "checkpoint", model.config, model.tensors(), num_shards=num_shards)
    bundle = directory / "bundle"
    export_bundle(checkpoint, bundle, ExportOptions(opset=opset, context_len=CONTEXT_LEN), lambda _: None)
    pipeline = open_pipeline(bundle)
    recorder = RecordingDecoder(pipeline.decoder, [])
    frames = [CameraFrame(channel, image) for channel, image in images().items()]
    tokens = pipeline.encode(FrameSet.of(frames))
    alone = Savings(prefix=False, speculation=False)  # every token's logits once
    answer = replace(pipeline, decoder=recorder, savings=alone).ask(tokens, QUESTION, AskOptions(max_new_tokens=NUM_STEPS))
    tokenizer = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    return Deployed(tokenizer, tokens, answer, np.stack(recorder.logits))


def tiles_by_camera() -> list[Uint8]:
    config = TilingConfig(TILE_PX)
    return [published_tiles(image, config, Image.Resampling.BICUBIC) for image in images().values()]


def normalised(tiles: Uint8, statistics: Statistics, side: int) -> Tensor:
    """Tiles [T, S, S, 3] resized by PIL where they must be, then normalised: [T, 3, R, R]."""
    pictures = [Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC) for tile in tiles]
    mean, std = (np.array(each) for each in statistics)
    pixels = (np.stack([np.asarray(picture) for picture in pictures]) / 255 - mean) / std
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


def leo_visual(model: LeoModel, tiles: Uint8, *, ps_version: str = "v2", vit_first: bool = True) -> Tensor:
    """LEO's visual embeddings of one camera's tiles [T, S, S, 3]: [32 T, D]."""
    vit = model.vit(normalised(tiles, IMAGENET, TILE_PX)).last_hidden_state[:, 1:]
    n, w, h, c = len(tiles), 8, 8, vit.shape[-1]
    x = vit.reshape(n, w, h, c)
    x = x.view(n, w, int(h * 0.5), int(c / 0.5)).permute(0, 2, 1, 3).contiguous()
    x = x.view(n, int(h * 0.5), int(w * 0.5), int(c / 0.25))
    x = x.permute(0, 2, 1, 3).contiguous() if ps_version == "v2" else x
    sam = model.sam(normalised(tiles, IMAGENET, 2 * TILE_PX)).last_hidden_state  # [T, C, 16, 16]
    y = functional.pixel_unshuffle(sam, 4).permute(0, 2, 3, 1)
    vit_tokens, sam_tokens = model.mlp1(x.reshape(n, 16, -1)), model.mlp2(y.reshape(n, 16, -1))
    embeds = torch.zeros(n, 32, vit_tokens.shape[-1])
    embeds[:, 0 if vit_first else 1 :: 2] = vit_tokens
    embeds[:, 1 if vit_first else 0 :: 2] = sam_tokens
    return embeds.reshape(32 * n, -1)


def mini_visual(model: LeoMiniModel, tiles: Uint8, text: Tensor, *, with_text: bool = True) -> Tensor:
    """LEO-MINI's visual embeddings of one camera's tiles [T, S, S, 3], given the question's embeddings: [Q, D]."""
    hidden = model.clip(normalised(tiles, OPENAI_CLIP, TILE_PX), output_hidden_states=True).hidden_states
    clip = hidden[-2][:, 1:].flatten(0, 1)
    sam = model.sam(normalised(tiles, IMAGENET, TILE_PX)).last_hidden_state.flatten(2).transpose(1, 2).flatten(0, 1)
    terms = frozenset({"self", "cross"} | ({"text"} if with_text else set()))
    reduced = literal_cotr(model.own, [clip.double().numpy(), sam.double().numpy()], text.double().numpy(), terms)
    weights = {name: tensor.double() for name, tensor in model.own.items() if name.startswith("projector.")}
    low = functional.linear(torch.from_numpy(reduced), weights["projector.0.weight"], weights["projector.0.bias"])
    return functional.linear(functional.gelu(low), weights["projector.2.weight"], weights["projector.2.bias"]).float()


def place(llm: PreTrainedModel, tokenizer: Tokenizer, text: str, visual: list[Tensor]) -> Tensor:
    """Embeds a prompt in which each camera is one <IMG_CONTEXT>, repeated for every visual embedding: [1, S, D]."""
    head, *tails = text.split("<IMG_CONTEXT>")
    for each, tail in zip(visual, tails, strict=True):
        head += "<IMG_CONTEXT>" * len(each) + tail
    token_ids = torch.tensor(tokenizer.encode(head).ids)
    embeds: Tensor = llm.get_input_embeddings()(token_ids)
    embeds[token_ids == tokenizer.token_to_id("<IMG_CONTEXT>")] = torch.cat(visual)
    return embeds[None]


def greedy(llm: PreTrainedModel, embeds: Tensor, *, num_steps: int = NUM_STEPS) -> Reference:
    """Appends the likeliest token, computing the whole sequence anew each time."""
    token_ids, logits = [], []
    for _ in range(num_steps):
        logits.append(llm(inputs_embeds=embeds, use_cache=False).logits[0, -1])
        token_ids.append(int(logits[-1].argmax()))
        embeds = torch.cat([embeds, llm.get_input_embeddings()(torch.tensor([[token_ids[-1]]]))], dim=1)
    return Reference(tuple(token_ids), torch.stack(logits).numpy())


def leo_embeds(model: LeoModel, tokenizer: str, **settings: Any) -> Tensor:
    """LEO's prompt [1, S, D]: the template without a newline between turns, a line per camera, the question."""
    visual = [leo_visual(model, tiles, **settings) for tiles in tiles_by_camera()]
    lines = "".join(f"{channel}: <img><IMG_CONTEXT></img>\n" for channel in SIZES)
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n{lines}{QUESTION}<|im_end|><|im_start|>assistant\n"
    return place(model.llm, Tokenizer.from_str(tokenizer), text, visual)


class LiteralDown(nn.Module):
    """A literal MMoE in the place of a down projection."""

    def __init__(self, mmoe: LiteralMMoE, visual_mean: Float64, text_mean: Float64) -> None:
        super().__init__()
        self.mmoe, self.means = mmoe, (visual_mean, text_mean)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.mmoe.output(x[0].double().numpy(), *self.means)).float()[None]


def mini_prepared(model: LeoMiniModel, tokenizer_json: str, **settings: Any) -> tuple[PreTrainedModel, Tensor]:
    """LEO-MINI's language model with its MMoE layers set for the question, and its prompt [1, S, D]."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    question_ids = tokenizer.encode(QUESTION, add_special_tokens=False).ids
    text = model.llm.get_input_embeddings()(torch.tensor(question_ids))
    visual = [mini_visual(model, tiles, text, **settings) for tiles in tiles_by_camera()]
    means = torch.cat(visual).double().mean(dim=0).numpy(), text.double().mean(dim=0).numpy()
    mmoe, tensors = model.config["mmoe_config"], model.tensors()
    for index, layer in enumerate(model.llm.model.layers):
        prefix = f"language_model.model.layers.{index}.mlp."
        layer.mlp.down_proj = LiteralDown(LiteralMMoE(tensors, prefix, mmoe, mmoe["top_k"]), *means)
    turn, lines = "<|start_header_id|>{}<|end_header_id|>\n\n", "".join(f"{name}: <IMG_CONTEXT>\n" for name in SIZES)
    prompt = f"{turn.format('system')}{MINI_SYSTEM}<|eot_id|>{turn.format('user')}{lines}{QUESTION}<|eot_id|>"
    return model.llm, place(model.llm, tokenizer, prompt + turn.format("assistant"), visual)


def leo_of(name: str, seed: int = 0) -> LeoModel:
    architecture, settings = LEO_CASES[name]
    return build_leo(architecture, seed=seed, **settings)


def mini_of(seed: int = 0, top_k: int = 2) -> LeoMiniModel:
    model = build_leo_mini(seed=seed, top_k=top_k)
    model.config["system_message"] = MINI_SYSTEM
    return model


@cache
def leo_reference(name: str, tokenizer: str) -> Reference:
    """LEO composed by hand; the same for every opset."""
    model = leo_of(name)
    return greedy(model.llm, leo_embeds(model, tokenizer))


@cache
def mini_reference(tokenizer: str) -> Reference:
    """LEO-MINI composed by hand; the same for every opset."""
    return greedy(*mini_prepared(mini_of(), tokenizer))


def max_error(got: npt.NDArray[np.floating[Any]], expected: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.abs(got - expected).max())


def first_logits(llm: PreTrainedModel, embeds: Tensor) -> Logits:
    logits: Logits = greedy(llm, embeds, num_steps=1).logits[0]
    return logits


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Traces a graph that several bundles share only once: LEO's vision does not depend on its language model."""
    graphs: dict[object, TracedGraph] = {}

    def trace_once(stage: Stage, opset: int) -> TracedGraph:
        if stage.name in ("llm", "router"):
            return trace(stage, opset)
        weights = tuple((name, recipe.shape, recipe.sources) for name, recipe in stage.recipes.items())
        key = (opset, stage.name, stage.inputs, stage.outputs, weights)
        if key not in graphs:
            graphs[key] = trace(stage, opset)
        return TracedGraph(graphs[key].model.clone(), graphs[key].recipes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", trace_once)
        yield


@pytest.fixture(scope="module", params=LEO_RUNS, ids=lambda run: f"{run[0]}-opset{run[1]}")
def leo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Deployed]:
    """LEO around one language model, deployed at one opset, and the name of its case."""
    name, opset = request.param
    model, num_shards = leo_of(name), 3 if name == "qwen2" else 1
    return name, deploy(tmp_path_factory.mktemp("leo"), model, opset=opset, num_shards=num_shards)


@pytest.fixture(scope="module", params=[20, 24], ids=lambda opset: f"opset{opset}")
def mini(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """LEO-MINI, deployed at one opset."""
    return deploy(tmp_path_factory.mktemp("leo_mini"), mini_of(), opset=request.param)


def test_leo_visual_embeddings_are_those_composed_by_hand(leo: tuple[str, Deployed]) -> None:
    name, deployed = leo
    for camera, tiles in zip(deployed.tokens.cameras, tiles_by_camera(), strict=True):
        assert camera.fused is not None
        assert max_error(camera.fused, leo_visual(leo_of(name), tiles).numpy()) < TOLERANCE


def test_leo_logits_and_greedy_tokens_are_those_composed_by_hand(leo: tuple[str, Deployed]) -> None:
    name, deployed = leo
    reference = leo_reference(name, deployed.tokenizer)
    assert len(deployed.answer.token_ids) == NUM_STEPS  # seed 0 is one with which no stop token comes sooner
    assert deployed.answer.token_ids == reference.token_ids
    assert max_error(deployed.logits, reference.logits) < TOLERANCE
    assert len(set(reference.token_ids)) > NUM_STEPS // 4


def test_leo_answer_outgrows_a_bucket_of_the_cache(leo: tuple[str, Deployed]) -> None:
    _, deployed = leo
    assert BUCKET - NUM_STEPS < deployed.answer.num_prompt_tokens < BUCKET


def test_another_leo_checkpoint_does_not_pass(leo: tuple[str, Deployed]) -> None:
    name, deployed = leo
    other = leo_of(name, seed=1)
    assert max_error(deployed.logits[0], first_logits(other.llm, leo_embeds(other, deployed.tokenizer))) > 0.1


@pytest.mark.parametrize("wrong", [{"ps_version": "v1"}, {"vit_first": False}], ids=str)
def test_another_composition_of_leo_does_not_pass(leo: tuple[str, Deployed], wrong: Json) -> None:
    name, deployed = leo
    model = leo_of(name)
    logits = first_logits(model.llm, leo_embeds(model, deployed.tokenizer, **wrong))
    assert max_error(deployed.logits[0], logits) > 0.1


def test_leo_mini_logits_and_greedy_tokens_are_those_composed_by_hand(mini: Deployed) -> None:
    reference = mini_reference(mini.tokenizer)
    assert len(mini.answer.token_ids) == NUM_STEPS
    assert mini.answer.token_ids == reference.token_ids
    assert max_error(mini.logits, reference.logits) < TOLERANCE
    assert len(set(reference.token_ids)) > NUM_STEPS // 4


@pytest.mark.parametrize("wrong", [{"seed": 1}, {"top_k": 1}], ids=str)
def test_another_leo_mini_checkpoint_does_not_pass(mini: Deployed, wrong: dict[str, int]) -> None:
    other = first_logits(*mini_prepared(mini_of(**wrong), mini.tokenizer))
    assert max_error(mini.logits[0], other) > 0.01


def test_leo_mini_reduction_without_the_question_does_not_pass(mini: Deployed) -> None:
    other = first_logits(*mini_prepared(mini_of(), mini.tokenizer, with_text=False))
    assert max_error(mini.logits[0], other) > 0.01
