"""modeling/llm.py: the logits of transformers' own models, in one go and token by token, in both forms of the graph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.llm_layout import embedding_recipe, llm_recipes
from leo_edge.export.modeling.llm import Cache, Llm
from leo_edge.export.weights import load_module
from tests.export.checkpoints import DYNAMIC_ROPE, LLAMA3_ROPE, Json, TensorDict, Tensors, build_llm, llm_config, llm_tensors

Float32 = npt.NDArray[np.float32]
TOLERANCE = 2e-4
NUM_TOKENS, CONTEXT_LEN = 24, 32
FORMS = {"plain": False, "fused": True}
PARTIAL_ROPE: Json = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

CASES: dict[str, tuple[str, Json]] = {
    "llama": ("LlamaForCausalLM", {"rope_parameters": LLAMA3_ROPE}),
    "llama with biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama with wide heads": ("LlamaForCausalLM", {"head_dim": 24, "num_key_value_heads": 1, "hidden_act": "gelu"}),
    "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {"num_key_value_heads": 4}),
    "qwen2, tied": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen2, window in layer 1": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "phi3": ("Phi3ForCausalLM", {}),
    "internlm2": ("InternLM2ForCausalLM", {"rope_parameters": DYNAMIC_ROPE}),
    "internlm2 with biases": ("InternLM2ForCausalLM", {"attention_bias": True}),
    "phi3 with a window and partly rotated heads": (
        "Phi3ForCausalLM",
        {"sliding_window": 6, "rope_parameters": PARTIAL_ROPE},
    ),
}


@dataclass(frozen=True)
class Case:
    """A model of transformers and what it makes of a prompt: embeddings [S, D] and logits [S, V]."""

    architecture: str
    model: PreTrainedModel
    embeds: Tensor
    logits: Float32

    @property
    def raw(self) -> Json:
        """Its `llm_config` as it stands in a checkpoint."""
        return llm_config(self.model, self.architecture)

    @property
    def tensors(self) -> Tensors:
        """Its weights as they stand in a checkpoint."""
        return llm_tensors(self.model, self.architecture)


def make_case(architecture: str, settings: Json) -> Case:
    generator = torch.Generator().manual_seed(0)
    model = build_llm(architecture, generator, **settings)
    embeds = torch.randn(NUM_TOKENS, model.config.hidden_size, generator=generator)
    return Case(architecture, model, embeds, model(inputs_embeds=embeds[None]).logits[0].numpy())


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(*CASES[request.param])


def load(raw: Json, tensors: Tensors, *, fused: bool) -> Llm:
    """Builds our model from a checkpoint's `llm_config` and tensors."""
    with torch.device("meta"):
        llm = Llm(LlmConfig.parse(raw), context_len=CONTEXT_LEN, fused=fused)
    load_module(llm, llm_recipes(llm, "language_model."), TensorDict(tensors), torch.float32)
    return llm.eval()


def empty_cache(llm: Llm) -> list[Cache]:
    heads, width = llm.config.num_kv_heads, llm.config.head_dim
    shape = (1, heads, CONTEXT_LEN, width) if llm.fused else (0, heads, width)
    return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(llm.config.num_layers)]


def logits_in_pieces(llm: Llm, embeds: Tensor, lengths: list[int], *, padding: int = 0) -> Iterator[Float32]:
    """Feeds embeddings [S, D] in pieces through the cache and yields the logits [V] after each.

    `padding` rows that are no tokens follow the past.
    """
    cache, start = empty_cache(llm), 0
    rest = 10 * torch.randn(padding, llm.config.num_kv_heads, llm.config.head_dim, generator=torch.Generator().manual_seed(1))
    for length in lengths:
        positions = torch.arange(start, start + length)
        given = [(torch.cat([keys, rest]), torch.cat([values, rest])) for keys, values in cache] if padding else cache
        logits, out = llm(embeds[start : start + length], positions, torch.tensor([length - 1]), given)
        pairs = zip(cache, out, strict=True)
        joined = [(torch.cat([old[0], new[0]]), torch.cat([old[1], new[1]])) for old, new in pairs if not llm.fused]
        cache, start = (out if llm.fused else joined), start + length
        yield logits[0].numpy()


def max_error(got: Float32, expected: Float32) -> float:
    return float(np.abs(got - expected).max())


@pytest.mark.parametrize("form", FORMS)
def test_prefill_gives_the_logits_of_transformers(case: Case, form: str) -> None:
    llm = load(case.raw, case.tensors, fused=FORMS[form])
    for length in (1, 7, NUM_TOKENS):
        [logits] = logits_in_pieces(llm, case.embeds, [length])
        assert max_error(logits, case.logits[length - 1]) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_token_by_token_gives_the_logits_of_transformers(case: Case, form: str) -> None:
    llm = load(case.raw, case.tensors, fused=FORMS[form])
    logits = np.stack(list(logits_in_pieces(llm, case.embeds, [1] * NUM_TOKENS)))
    assert max_error(logits, case.logits) < TOLERANCE
    assert logits.std() > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_prompt_in_pieces_gives_the_logits_of_transformers(case: Case, form: str) -> None:
    llm, lengths = load(case.raw, case.tensors, fused=FORMS[form]), [10, 1, 8, 5]
    logits = np.stack(list(logits_in_pieces(llm, case.embeds, lengths)))
    assert max_error(logits, case.logits[np.cumsum(lengths) - 1]) < TOLERANCE


def test_past_in_a_length_bucket_gives_the_logits_of_transformers(case: Case) -> None:
    llm, lengths = load(case.raw, case.tensors, fused=False), [10, 1, 8, 5]
    logits = np.stack(list(logits_in_pieces(llm, case.embeds, lengths, padding=9)))
    assert max_error(logits, case.logits[np.cumsum(lengths) - 1]) < TOLERANCE


def test_exchanged_query_heads_give_other_logits(case: Case) -> None:
    tensors, width = case.tensors, LlmConfig.parse(case.raw).head_dim
    [key] = [key for key in tensors if re.search(r"layers\.0\..*(qkv_proj|q_proj|wqkv)\.weight", key)]
    tensors[key] = torch.cat([tensors[key][width : 2 * width], tensors[key][:width], tensors[key][2 * width :]])
    [logits] = logits_in_pieces(load(case.raw, tensors, fused=False), case.embeds, [NUM_TOKENS])
    assert max_error(logits, case.logits[-1]) > 0.01


@pytest.mark.parametrize("name", [name for name in CASES if "window" in name])
def test_window_hides_what_lies_further_back(name: str) -> None:
    architecture, settings = CASES[name]
    case = make_case(architecture, settings)
    unlimited = load({**case.raw, "sliding_window": None}, case.tensors, fused=False)
    [logits] = logits_in_pieces(unlimited, case.embeds, [NUM_TOKENS])
    assert max_error(logits, case.logits[-1]) > 0.01


def test_tied_head_is_the_embedding_table() -> None:
    case = make_case(*CASES["llama, tied"])
    tensors = case.tensors
    assert "language_model.lm_head.weight" not in tensors
    table = embedding_recipe(LlmConfig.parse(case.raw), "language_model.").build(TensorDict(tensors))
    assert torch.equal(table, load(case.raw, tensors, fused=False).head.weight)


def ungrouped(wqkv: Tensor, num_heads: int, num_kv_heads: int, head_dim: int) -> dict[str, Tensor]:
    """Takes wqkv apart row by row: for each KV head its query heads, then its key head, then its value head."""
    rows: dict[str, list[Tensor]] = {"q": [], "k": [], "v": []}
    at = 0
    for _ in range(num_kv_heads):
        for part in ["q"] * (num_heads // num_kv_heads) + ["k", "v"]:
            for _ in range(head_dim):
                rows[part].append(wqkv[at])
                at += 1
    assert at == len(wqkv)
    return {part: torch.stack(found) for part, found in rows.items()}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_internlm2_takes_its_grouped_wqkv_apart(leaf: str, layer: int) -> None:
    case = make_case(*CASES["internlm2 with biases"])
    tensors, config = case.tensors, LlmConfig.parse(case.raw)
    wqkv = tensors[f"language_model.model.layers.{layer}.attention.wqkv.{leaf}"]
    llm = load(case.raw, tensors, fused=False)
    expected = ungrouped(wqkv, config.num_heads, config.num_kv_heads, config.head_dim)
    for part, rows in expected.items():
        assert torch.equal(llm.get_parameter(f"layers.{layer}.attention.{part}.{leaf}"), rows)
        assert torch.equal(case.model.get_parameter(f"model.layers.{layer}.self_attn.{part}_proj.{leaf}"), rows)
    assert not torch.equal(wqkv[: len(expected["q"])], expected["q"])
