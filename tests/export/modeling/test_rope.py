"""modeling/rope.py: the angles of transformers' own rotary modules, for every kind of scaling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.modeling.rope import Rope, rotate
from leo_edge.runtime.errors import CheckpointError
from tests.export.checkpoints import LLAMA3_ROPE, LLM, Json

# Angles reach hundreds of radians, of which float32 keeps about five decimals.
TOLERANCE = 1e-4
HALF = LLM["hidden_size"] // LLM["num_attention_heads"] // 2
LONGROPE: Json = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * n for n in range(HALF)],
    "long_factor": [1.0 + 1.5 * n for n in range(HALF)],
    "original_max_position_embeddings": 64,
}
YARN: Json = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

LLAMA_CASES: dict[str, Json] = {
    "default": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "llama3": LLAMA3_ROPE,
    "yarn": YARN,
    "yarn with its own attention factor": YARN | {"attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0},
}
# As configs were written before transformers 5.
LEGACY_CASES: dict[str, Json] = {
    "default": {"rope_theta": 1000000},
    "linear": {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "llama3": {"rope_theta": 10000.0, "rope_scaling": {n: v for n, v in LLAMA3_ROPE.items() if n != "rope_theta"}},
}


def reference(module: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    """transformers' cos and sin [S, rotary_dim]."""
    cos, sin = module(torch.zeros(1), positions[None])
    return cos[0], sin[0]


def ours(raw: Mapping[str, object], architecture: str, positions: Tensor, *, context_len: int) -> tuple[Tensor, Tensor]:
    """Our cos and sin [S, rotary_dim] for a config as it stands in a checkpoint."""
    rope = Rope(LlmConfig.parse({**raw, "architectures": [architecture]}), context_len)
    for name, recipe in rope.recipes().items():
        rope.register_buffer(name, recipe.make(), persistent=False)
    cos, sin = rope(positions)
    return cos, sin


def assert_same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=TOLERANCE)


def llama(**settings: object) -> LlamaConfig:
    return LlamaConfig(**{**LLM, "max_position_embeddings": 256, **settings})


def phi3(**settings: object) -> Phi3Config:
    return Phi3Config(**{**LLM, "max_position_embeddings": 256, **settings})


@pytest.mark.parametrize("kind", LLAMA_CASES)
def test_angles_are_those_of_transformers(kind: str) -> None:
    config, positions = llama(rope_parameters=LLAMA_CASES[kind]), torch.arange(256)
    expected = reference(modeling_llama.LlamaRotaryEmbedding(config), positions)
    assert_same(ours(config.to_dict(), "LlamaForCausalLM", positions, context_len=256), expected)


@pytest.mark.parametrize("kind", [kind for kind in LLAMA_CASES if kind not in ("default", "dynamic")])
def test_scaled_angles_differ_from_unscaled_ones(kind: str) -> None:
    parameters = {"rope_type": "default", "rope_theta": LLAMA_CASES[kind]["rope_theta"]}
    plain = reference(modeling_llama.LlamaRotaryEmbedding(llama(rope_parameters=parameters)), torch.arange(256))
    scaled = ours(llama(rope_parameters=LLAMA_CASES[kind]).to_dict(), "LlamaForCausalLM", torch.arange(256), context_len=256)
    assert float((scaled[0] - plain[0]).abs().max()) > 0.1


@pytest.mark.parametrize("kind", LEGACY_CASES)
def test_configs_from_before_transformers_5_mean_the_same(kind: str) -> None:
    raw, positions = {**LLM, "max_position_embeddings": 256, **LEGACY_CASES[kind]}, torch.arange(300)
    expected = reference(modeling_llama.LlamaRotaryEmbedding(LlamaConfig.from_dict(raw)), positions)
    assert_same(ours(raw, "LlamaForCausalLM", positions, context_len=300), expected)


def test_dynamic_stretches_as_the_sequence_grows_beyond_its_positions() -> None:
    config = llama(rope_parameters=LLAMA_CASES["dynamic"])
    module = modeling_llama.LlamaRotaryEmbedding(config)
    for length in (200, 256, 257, 300, 511, 1024):
        positions = torch.arange(length)
        assert_same(ours(config.to_dict(), "LlamaForCausalLM", positions, context_len=1024), reference(module, positions))


def test_dynamic_takes_a_single_new_token_for_the_length_that_it_ends() -> None:
    config, new = llama(rope_parameters=LLAMA_CASES["dynamic"]), torch.tensor([400])
    expected = reference(modeling_llama.LlamaRotaryEmbedding(config), new)
    unstretched = reference(modeling_llama.LlamaRotaryEmbedding(llama()), new)
    got = ours(config.to_dict(), "LlamaForCausalLM", new, context_len=1024)
    assert_same(got, expected)
    assert float((got[0] - unstretched[0]).abs().max()) > 0.1


@pytest.mark.parametrize("factor", [0.5, 0.75])
def test_a_part_of_each_head_is_rotated(factor: float) -> None:
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}
    config, positions = phi3(rope_parameters=parameters), torch.arange(256)
    cos, sin = ours(config.to_dict(), "Phi3ForCausalLM", positions, context_len=256)
    assert cos.shape == (256, 2 * HALF * factor)
    assert_same((cos, sin), reference(modeling_phi3.Phi3RotaryEmbedding(config), positions))


@pytest.mark.parametrize("context_len", [64, 256])
def test_longrope_takes_short_or_long_factors_by_the_context(context_len: int) -> None:
    config, positions = phi3(rope_parameters=LONGROPE, original_max_position_embeddings=64), torch.arange(context_len)
    got = ours(config.to_dict(), "Phi3ForCausalLM", positions, context_len=context_len)
    assert_same(got, reference(modeling_phi3.Phi3RotaryEmbedding(config), positions))
    other = ours(config.to_dict(), "Phi3ForCausalLM", positions, context_len=320 - context_len)
    assert float((got[0] - other[0]).abs().max()) > 0.1


def test_longrope_as_phi_3_published_it() -> None:
    scaling = {"type": "su"} | {name: LONGROPE[name] for name in ("short_factor", "long_factor")}
    raw = {**LLM, "max_position_embeddings": 256, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    config, positions = phi3(rope_parameters=LONGROPE, original_max_position_embeddings=64), torch.arange(256)
    got = ours(raw | {"rope_scaling": scaling}, "Phi3ForCausalLM", positions, context_len=256)
    assert_same(got, reference(modeling_phi3.Phi3RotaryEmbedding(config), positions))


def test_unknown_kind_is_refused() -> None:
    raw = {**LLM, "architectures": ["LlamaForCausalLM"], "rope_scaling": {"type": "spiral"}}
    with pytest.raises(CheckpointError, match=r"^unknown rope_type 'spiral' in llm_config: expected one of default, "):
        LlmConfig.parse(raw)


@pytest.mark.parametrize("rotary_dim", [16, 12, 8])
def test_heads_are_rotated_as_transformers_rotates_them(rotary_dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(9, heads, 16, generator=generator) for heads in (4, 2))  # [S, heads, E]
    angles = torch.rand(9, rotary_dim // 2, generator=generator).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    apply: Callable[..., tuple[Tensor, Tensor]] = modeling_phi3.apply_rotary_pos_emb
    expected = apply(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos[None], sin[None])
    for x, other in zip((query, key), expected, strict=True):
        turned = rotate(x, cos, sin)
        np.testing.assert_allclose(turned.numpy(), other[0].transpose(0, 1).numpy(), rtol=0, atol=1e-6)
        assert float((rotate(x, cos, -sin) - turned).abs().max()) > 0.1
