"""Who takes part in which section: each contender with the command that starts it and the work that it cannot avoid."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvino_models import make_onnxruntime_expert, make_openvino_expert, make_openvino_llm
from weights import PROMPT, make_bundles, make_checkpoint, make_genai, make_gguf, make_hf

# Each section with its number of rounds, by those of the language model.
SECTIONS: dict[str, Callable[[int], int]] = {
    "llm": lambda rounds: rounds,
    "context": lambda rounds: max(2, rounds // 2),
    "expert": lambda rounds: rounds,
    "tiles": lambda rounds: 3 * rounds,
    "answer": lambda rounds: max(2, rounds // 3),
}
CONTEXTS = (256, 1024, 4096)
ANSWER = 16


@dataclass(frozen=True)
class Work:
    """What a stage must at least compute and read."""

    flops: int = 0
    moved_bytes: int = 0


@dataclass(frozen=True)
class Contender:
    """An engine with a model. `make` writes what it needs, if that is not there, and returns the script with its arguments."""

    name: str
    precision: str
    make: Callable[[], list[str]]
    work: dict[str, Work] = field(default_factory=dict)
    ours: bool = False
    check_only: bool = False
    is_reference: bool = False
    is_same_model: bool = True
    context: int = PROMPT
    kv_bytes: int = 0

    def is_chosen(self, words: str) -> bool:
        """Whether it takes part: ours and the reference always do."""
        return self.ours or self.is_reference or any(word in self.name for word in words.split(","))


@dataclass(frozen=True)
class LlmSizes:
    """Counts of the language model."""

    linear: int
    kv_values: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> LlmSizes:
        """Counts from a config.json of transformers' Llama; `linear` are the weights that a token is multiplied with."""
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
        layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * config["intermediate_size"]
        return cls(layers * layer + hidden * config["vocab_size"], 2 * layers * kv)

    def work(self, bits: float, kv_bits: int, prompt: int) -> dict[str, Work]:
        """Returns the least work of the stages: the head is needed for one token of the prompt, which is left out here."""
        weights, cache = int(self.linear * bits / 8), int(self.kv_values * kv_bits / 8 * (prompt + ANSWER / 2))
        return {"prefill": Work(2 * self.linear * prompt, weights), "decode": Work(2 * self.linear, weights + cache)}


def contenders(section: str, args: argparse.Namespace) -> list[Contender]:
    """Returns a section's contenders: the reference first."""
    makers: dict[str, Callable[[argparse.Namespace], Iterator[Contender]]] = {
        "llm": llm_contenders,
        "context": context_contenders,
        "expert": expert_contenders,
        "tiles": tile_contenders,
        "answer": answer_contenders,
    }
    return list(makers[section](args))


def llm_contenders(args: argparse.Namespace) -> Iterator[Contender]:
    """The language model without MMoE in every engine, and leo_edge's with MMoE."""
    work, threads = args.work, ("--threads", str(args.threads))
    sizes = LlmSizes.read(json.loads((make_hf(work) / "config.json").read_text()))

    def one(name: str, precision: str, bits: float, kv_bits: int, make: Callable[[], list[str]], **kinds: bool) -> Contender:
        return Contender(name, precision, lambda: [*make(), *threads], sizes.work(bits, kv_bits, PROMPT), **kinds)

    def transformers(form: str) -> Callable[[], list[str]]:
        return lambda: ["engine_transformers.py", str(make_hf(work)), "--form", form]

    def genai(precision: str) -> Callable[[], list[str]]:
        return lambda: ["engine_genai.py", str(make_genai(work, precision))]

    def openvino(precision: str, *more: str) -> Callable[[], list[str]]:
        return lambda: ["engine_openvino.py", str(make_openvino_llm(work, precision)), *more]

    def llama(kind: str) -> Callable[[], list[str]]:
        return lambda: ["engine_llamacpp.py", str(make_gguf(work, kind))]

    def leo(name: str, index: int) -> Callable[[], list[str]]:
        return lambda: ["engine_leo.py", str(make_bundles(work, name)[index])]

    yield one("transformers eager fp32", "fp32", 32, 32, transformers("eager"), is_reference=True)
    yield one("leo_edge int8", "int8", 8, 32, leo("plain", 1), ours=True)
    yield one("leo_edge int8, with MMoE", "int8", 8, 32, leo("mini", 1), is_same_model=False)
    yield one("leo_edge fp32", "fp32", 32, 32, leo("plain", 0))
    yield one("transformers compiled, static", "fp32", 32, 32, transformers("compile"))
    yield one("torch dynamic int8", "int8", 8, 32, transformers("int8"))
    yield one("onnxruntime-genai fp32", "fp32", 32, 32, genai("fp32"))
    yield one("onnxruntime-genai int8", "int8", 9, 32, genai("int8"))
    yield one("onnxruntime-genai int4", "int4", 5, 32, genai("int4"))
    yield one("OpenVINO fp32", "fp32", 32, 32, openvino("fp32", "--precision", "f32"))
    yield one("OpenVINO int8", "int8", 8, 8, openvino("int8"))
    yield one("llama.cpp F16", "half", 16, 16, llama("F16"))
    yield one("llama.cpp Q8_0", "int8", 8.5, 16, llama("Q8_0"))


def context_contenders(args: argparse.Namespace) -> Iterator[Contender]:
    """leo_edge's INT8 at several lengths of context."""
    sizes = LlmSizes.read(json.loads((make_hf(args.work) / "config.json").read_text()))
    for length in CONTEXTS:
        arguments = ["--prompt", str(length), "--threads", str(args.threads)]
        yield Contender(
            f"leo_edge int8, {length} tokens",
            "int8",
            lambda arguments=arguments: ["engine_leo.py", str(make_bundles(args.work, "plain")[1]), *arguments],  # type: ignore[misc]
            sizes.work(8, 32, length),
            ours=True,
            is_same_model=False,  # nor the same prompt
            context=length,
            kv_bytes=4 * sizes.kv_values,
        )


def expert_contenders(args: argparse.Namespace) -> Iterator[Contender]:
    """The expert InternViT-300M, one tile of 448 pixels."""
    work, threads = args.work, ("--threads", str(args.threads))
    flops = {"expert": Work(flops=expert_flops())}

    def one(name: str, precision: str, kind: str, model: Callable[[], Path], **kinds: bool) -> Contender:
        return Contender(name, precision, lambda: ["engine_vision.py", kind, str(model()), *threads], flops, **kinds)

    def graph(index: int) -> Callable[[], Path]:
        return lambda: make_bundles(work, "mini")[index] / "vision.internvit.onnx"

    def checkpoint() -> Path:
        return make_checkpoint(work, "mini")

    yield one("torch eager fp32", "fp32", "torch", checkpoint, is_reference=True)
    yield one("leo_edge int8", "int8", "leo", lambda: make_bundles(work, "mini")[1], ours=True)
    yield one("leo_edge fp32", "fp32", "leo", lambda: make_bundles(work, "mini")[0])
    yield one("torch compiled fp32", "fp32", "torch-compile", checkpoint)
    yield one("OpenVINO fp32", "half", "openvino", graph(0))
    yield one("OpenVINO int8 (nncf)", "int8", "openvino", lambda: make_openvino_expert(work) / "openvino_model.xml")
    yield one("OpenVINO on leo_edge's int8 graph", "int8", "openvino", graph(1))
    yield one("onnxruntime dynamic int8", "int8", "onnxruntime", lambda: make_onnxruntime_expert(work))


def expert_flops(hidden: int = 1024, layers: int = 24, ffn: int = 4096, patch_px: int = 14, tile_px: int = 448) -> int:
    """Counts InternViT-300M's operations for a tile, two for each multiply-add."""
    tokens = (tile_px // patch_px) ** 2 + 1
    layer = 2 * tokens * (4 * hidden * hidden + 2 * hidden * ffn) + 4 * tokens * tokens * hidden
    return layers * layer + 2 * (tokens - 1) * hidden * 3 * patch_px**2


def tile_contenders(args: argparse.Namespace) -> Iterator[Contender]:
    """Six JPEGs to 18 tiles."""
    images = () if args.nuscenes is None else ("--nuscenes", str(args.nuscenes.resolve()))
    yield Contender(
        "transformers' image processor", "half", lambda: ["engine_tiles.py", "transformers", *images], is_reference=True
    )
    yield Contender("leo_edge", "half", lambda: ["engine_tiles.py", "leo", *images], ours=True)


def answer_contenders(args: argparse.Namespace) -> Iterator[Contender]:
    """Six cameras, a tile each, 16 answer tokens."""
    images = () if args.nuscenes is None else ("--nuscenes", str(args.nuscenes.resolve()))
    more = ("--threads", str(args.threads), *images)

    def bundle(index: int) -> str:
        return str(make_bundles(args.work, "mini")[index])

    def torch() -> list[str]:
        return ["engine_answer.py", "torch", bundle(0), "--checkpoint", str(make_checkpoint(args.work, "mini")), *more]

    yield Contender("torch eager fp32", "fp32", torch, is_reference=True)
    yield Contender("leo_edge fp32", "fp32", lambda: ["engine_answer.py", "leo", bundle(0), *more], check_only=True)
    yield Contender("leo_edge int8", "int8", lambda: ["engine_answer.py", "leo", bundle(1), *more], ours=True)
