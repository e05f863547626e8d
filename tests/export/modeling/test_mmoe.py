"""modeling/mmoe.py and its layout: equations (8) and (9) of LEO-MINI (arXiv 2504.04653, section 3.3), token by token.

Weights are read from checkpoint keys by the recipes, so the order in which they are stacked is part of what is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from leo_edge.export.llm_config import LlmConfig, MMoEConfig
from leo_edge.export.llm_layout import llm_recipes, router_recipes
from leo_edge.export.modeling.llm import Llm
from leo_edge.export.modeling.mmoe import MMoE, RouterContext
from leo_edge.export.weights import load_module
from leo_edge.runtime.errors import CheckpointError
from tests.export.checkpoints import Json, TensorDict, Tensors, draw_all, mmoe_shapes

Float64 = npt.NDArray[np.float64]
TOLERANCE = 2e-5
LAYER = 1
LLM: Json = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32,
}
MMOE: Json = {"num_experts": 4, "rank": 3, "lora_alpha": 4.5, "router_hidden_size": 10}


@dataclass(frozen=True)
class LiteralMMoE:
    """One layer's tensors, by their checkpoint keys below `prefix`, and the equations over them."""

    tensors: Mapping[str, Tensor]
    prefix: str
    mmoe: Json
    top_k: int

    def output(self, x: Float64, visual_mean: Float64, text_mean: Float64, *, use_special: bool = True) -> Float64:
        """Equation (9) for every token of x [S, F] -> [S, D]."""
        return np.stack([self._token(row, visual_mean, text_mean, use_special=use_special) for row in x])

    def route(self, row: Float64, visual_mean: Float64, text_mean: Float64) -> Float64:
        """Equation (8) for one token: the probability of every special expert."""
        seen = np.concatenate([visual_mean, text_mean, row])
        hidden = self._tensor("mmoe.router.0.weight") @ seen + self._tensor("mmoe.router.0.bias")
        hidden = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
        scores = self._tensor("mmoe.router.2.weight") @ hidden + self._tensor("mmoe.router.2.bias")
        exponents = np.exp(scores - scores.max())
        probabilities: Float64 = exponents / exponents.sum()
        return probabilities

    def _token(self, row: Float64, visual_mean: Float64, text_mean: Float64, *, use_special: bool) -> Float64:
        probabilities = self.route(row, visual_mean, text_mean)
        chosen = sorted(range(len(probabilities)), key=lambda expert: -probabilities[expert])[: self.top_k]
        output = self._tensor("down_proj.weight") @ row + self._lora("general", row)
        if use_special:
            for expert in chosen:
                output += self._lora(f"experts.{expert}", row) / self.top_k
        return output

    def _lora(self, name: str, row: Float64) -> Float64:
        low = self._tensor(f"mmoe.{name}.lora_A.weight") @ row
        scale: float = self.mmoe["lora_alpha"] / self.mmoe["rank"]
        return scale * (self._tensor(f"mmoe.{name}.lora_B.weight") @ low)

    def _tensor(self, name: str) -> Float64:
        tensor: Float64 = self.tensors[self.prefix + name].double().numpy()
        return tensor


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    generator = torch.Generator().manual_seed(0)
    shapes = mmoe_shapes(LLM, MMOE)
    for layer in range(LLM["num_hidden_layers"]):
        shapes[f"language_model.model.layers.{layer}.mlp.down_proj.weight"] = (8, 12)
    return draw_all(shapes, generator)


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """x [S, F], visual embeddings [M, D], text embeddings [L, D], of which the means decide."""
    generator = torch.Generator().manual_seed(1)
    visual, text = torch.randn(7, 8, generator=generator) + 1.0, torch.randn(5, 8, generator=generator) - 1.0
    return 2.0 * torch.randn(40, 12, generator=generator), visual, text


def module_output(tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor], *, top_k: int, use_special: float = 1.0) -> Float64:
    """What layer 1's MMoE and the router context make of the inputs: [S, D]."""
    config = LlmConfig.parse(LLM, mmoe=MMoEConfig(**MMOE, top_k=top_k))
    with torch.device("meta"):
        llm, context = Llm(config, context_len=32, fused=False), RouterContext(config)
    down, prefix = llm.layers[LAYER].get_submodule("mlp.down"), f"layers.{LAYER}.mlp.down."
    assert isinstance(down, MMoE)
    recipes = llm_recipes(llm, "language_model.")
    own = {name.removeprefix(prefix): recipe for name, recipe in recipes.items() if name.startswith(prefix)}
    load_module(down, own, TensorDict(tensors), torch.float32)
    load_module(context, router_recipes(config, "language_model."), TensorDict(tensors), torch.float32)
    x, visual, text = inputs
    output: Float64 = down(x, context(visual, text)[LAYER], torch.tensor([use_special])).double().numpy()
    return output


def literal(tensors: Tensors, *, top_k: int, layer: int = LAYER) -> LiteralMMoE:
    return LiteralMMoE(tensors, f"language_model.model.layers.{layer}.mlp.", MMOE, top_k)


def arrays(inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Float64, Float64, Float64]:
    """x [S, F] and the means of visual and text embeddings [D]."""
    x, visual, text = (each.double().numpy() for each in inputs)
    return x, visual.mean(axis=0), text.mean(axis=0)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_output_is_the_equations(top_k: int, tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    expected = literal(tensors, top_k=top_k).output(*arrays(inputs))
    np.testing.assert_allclose(module_output(tensors, inputs, top_k=top_k), expected, rtol=0, atol=TOLERANCE)


def test_text_only_prompt_uses_the_original_and_the_general_expert(
    tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    output = module_output(tensors, inputs, top_k=1, use_special=0.0)
    expected = literal(tensors, top_k=1).output(*arrays(inputs), use_special=False)
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(output - module_output(tensors, inputs, top_k=1)).max() > 0.1


def test_tokens_are_routed_to_different_experts(tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, visual_mean, text_mean = arrays(inputs)
    reference = literal(tensors, top_k=1)
    chosen = {int(reference.route(row, visual_mean, text_mean).argmax()) for row in x}
    assert len(chosen) >= 3


@pytest.mark.parametrize("top_k", [1, 2])
def test_exchanged_experts_give_another_output(top_k: int, tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    prefix = f"language_model.model.layers.{LAYER}.mlp.mmoe."
    exchanged = dict(tensors)
    for leaf in ("lora_A.weight", "lora_B.weight"):
        one, other = f"{prefix}experts.0.{leaf}", f"{prefix}experts.2.{leaf}"
        exchanged[one], exchanged[other] = tensors[other], tensors[one]
    wrong = literal(exchanged, top_k=top_k).output(*arrays(inputs))
    assert np.abs(module_output(tensors, inputs, top_k=top_k) - wrong).max() > 0.1


def test_router_sees_the_visual_mean_before_the_text_mean(tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, visual_mean, text_mean = arrays(inputs)
    wrong = literal(tensors, top_k=1).output(x, text_mean, visual_mean)
    assert np.abs(module_output(tensors, inputs, top_k=1) - wrong).max() > 0.1


def test_every_layer_has_its_own_weights(tensors: Tensors, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    wrong = literal(tensors, top_k=1, layer=1 - LAYER).output(*arrays(inputs))
    assert np.abs(module_output(tensors, inputs, top_k=1) - wrong).max() > 0.1


@pytest.mark.parametrize("top_k", [0, 5])
def test_impossible_top_k_is_refused(top_k: int) -> None:
    with pytest.raises(CheckpointError, match=rf"^mmoe_config.top_k must be in 1..num_experts = 4, got {top_k}$"):
        MMoEConfig(**MMOE, top_k=top_k)
