"""modeling/fusion.py: CoTR is equations (2) to (7) of LEO-MINI (arXiv 2504.04653, section 3.2), written out token by token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from leo_edge.export.config import CoTRConfig
from leo_edge.export.modeling.fusion import CoTR
from tests.export.checkpoints import Tensors, draw_all

Float64 = npt.NDArray[np.float64]
CONFIG = CoTRConfig(num_queries=5, query_dim=7, proj_dim=6)
WIDTHS, COUNTS, TEXT_DIM, NUM_TEXT, NUM_IMAGES = (8, 12, 10), (9, 4, 16), 11, 13, 3
ALL_TERMS = frozenset({"self", "cross", "text"})


def literal_cotr(
    tensors: Mapping[str, Tensor], tokens: list[Float64], text: Float64, terms: frozenset[str] = ALL_TERMS
) -> Float64:
    """Equations (2) to (7) for one image: tokens of each expert [N_i, d_i], text [L, D] -> [Q, d_1 + ... + d_m]."""
    projected = [project(tensors, f"cotr.token_proj.{i}", each) for i, each in enumerate(tokens)]
    text_tokens = project(tensors, "cotr.text_proj", text)
    outputs = []
    for i, own in enumerate(projected):
        queries = project(tensors, f"cotr.query_proj.{i}", tensors[f"cotr.queries.{i}"].double().numpy())
        others = [other for j, other in enumerate(projected) if j != i]
        scores = np.zeros((len(queries), len(own)))
        for n, token in enumerate(own):
            s_self = sum(each @ token for each in own)
            s_cross = sum(each @ token for other in others for each in other)
            s_text = sum(each @ token for each in text_tokens)
            added = {"self": s_self, "cross": s_cross, "text": s_text}
            for q, query in enumerate(queries):
                scores[q, n] = query @ token + sum(added[term] for term in terms)
        reduced = np.zeros((len(queries), tokens[i].shape[1]))
        for q in range(len(queries)):
            exponents = np.exp((scores[q] - scores[q].max()) / np.sqrt(tokens[i].shape[1]))
            for n, token in enumerate(tokens[i]):
                reduced[q] += exponents[n] / exponents.sum() * token
        outputs.append(reduced)
    return np.concatenate(outputs, axis=1)


def project(tensors: Mapping[str, Tensor], name: str, rows: Float64) -> Float64:
    """A linear layer with bias, row by row."""
    weight, bias = (tensors[f"{name}.{leaf}"].double().numpy() for leaf in ("weight", "bias"))
    return np.stack([weight @ row + bias for row in rows])


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {
        "cotr.text_proj.weight": (CONFIG.proj_dim, TEXT_DIM),
        "cotr.text_proj.bias": (CONFIG.proj_dim,),
    }
    for i, width in enumerate(WIDTHS):
        shapes[f"cotr.queries.{i}"] = (CONFIG.num_queries, CONFIG.query_dim)
        shapes[f"cotr.query_proj.{i}.weight"] = (CONFIG.proj_dim, CONFIG.query_dim)
        shapes[f"cotr.query_proj.{i}.bias"] = (CONFIG.proj_dim,)
        shapes[f"cotr.token_proj.{i}.weight"] = (CONFIG.proj_dim, width)
        shapes[f"cotr.token_proj.{i}.bias"] = (CONFIG.proj_dim,)
    drawn = draw_all(shapes, torch.Generator().manual_seed(0))
    return {name: tensor * (0.4 if "_proj" in name else 1.0) for name, tensor in drawn.items()}


@pytest.fixture(scope="module")
def inputs() -> tuple[list[Tensor], Tensor]:
    """Tokens of each expert [B, N_i, d_i] and text [L, D]."""
    generator = torch.Generator().manual_seed(1)
    sizes = zip(COUNTS, WIDTHS, strict=True)
    tokens = [torch.randn(NUM_IMAGES, count, width, generator=generator) for count, width in sizes]
    return tokens, torch.randn(NUM_TEXT, TEXT_DIM, generator=generator)


@pytest.fixture(scope="module")
def reduced(tensors: Tensors, inputs: tuple[list[Tensor], Tensor]) -> Float64:
    """What the module makes of the inputs: [B, Q, d_1 + d_2 + d_3]."""
    module = CoTR(CONFIG, WIDTHS, TEXT_DIM)
    module.load_state_dict({name.removeprefix("cotr."): tensor for name, tensor in tensors.items()})
    with torch.no_grad():
        output: Float64 = module(*inputs).double().numpy()
    return output


def image_of(inputs: tuple[list[Tensor], Tensor], image: int) -> tuple[list[Float64], Float64]:
    return [each[image].double().numpy() for each in inputs[0]], inputs[1].double().numpy()


@pytest.mark.parametrize("image", range(NUM_IMAGES))
def test_reduction_is_the_equations(
    image: int, tensors: Tensors, inputs: tuple[list[Tensor], Tensor], reduced: Float64
) -> None:
    expected = literal_cotr(tensors, *image_of(inputs, image))
    assert reduced.shape == (NUM_IMAGES, CONFIG.num_queries, sum(WIDTHS))
    np.testing.assert_allclose(reduced[image], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropped", sorted(ALL_TERMS))
def test_every_term_of_the_scores_counts(
    dropped: str, tensors: Tensors, inputs: tuple[list[Tensor], Tensor], reduced: Float64
) -> None:
    wrong = literal_cotr(tensors, *image_of(inputs, 0), terms=ALL_TERMS - {dropped})
    assert np.abs(reduced[0] - wrong).max() > 0.01


def test_queries_differ_in_what_they_pick(reduced: Float64) -> None:
    spread = reduced[0].max(axis=0) - reduced[0].min(axis=0)
    assert spread.max() > 0.1


def test_an_image_is_reduced_alone(tensors: Tensors, inputs: tuple[list[Tensor], Tensor], reduced: Float64) -> None:
    expected = literal_cotr(tensors, *image_of(inputs, 1))
    assert np.abs(reduced[0] - expected).max() > 0.01
