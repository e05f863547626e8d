"""The model of `plan` beside figures that others published for a Jetson AGX Orin 64GB, batch 1.

The models are described by their published sizes (Qwen3 and Qwen3-VL technical reports, config.json of each) and counted by
hand: there is no graph of them here. Two of the figures chose numbers of `devices.json`; the others were not used, but the 70 %
of the bandwidth, which is published too, may come from the decode rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leo_edge.bench.devices import Device
from leo_edge.bench.plan import Predictor
from leo_edge.bench.plan_work import QUESTION, TOKEN, StageWork

_FLOAT_BYTES = 2
_INT8_BYTES = 1.0
_INT4_BYTES = 0.5 + _FLOAT_BYTES / 128  # a scale for each 128 weights
_CONTEXT_LEN = 4096


@dataclass(frozen=True)
class LanguageModel:
    """Sizes of a decoder with grouped-query attention and a gated MLP."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def layer_parameters(self) -> int:
        """Weights of all layers' products."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def head_parameters(self) -> int:
        """Weights of the head, and of the embedding table."""
        return self.vocab * self.hidden

    def cache_bytes(self, tokens: int) -> float:
        """Bytes of the keys and values of so many tokens."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * _FLOAT_BYTES

    def prefill(self, tokens: int, weight_bytes: float) -> StageWork:
        """The work of a prompt; attention over all keys, masked or not, as graphs compute it; logits of the last token."""
        attention = 4 * self.layers * self.heads * self.head_dim * tokens**2
        flops = 2 * (self.layer_parameters * tokens + self.head_parameters) + attention
        moved = self._stored(weight_bytes, _FLOAT_BYTES) + self.cache_bytes(tokens)
        return StageWork("prefill", QUESTION, "float16", flops, moved)

    def decode(self, past: int, weight_bytes: float, head_bytes: float) -> StageWork:
        """The work of one token."""
        flops = 2 * (self.layer_parameters + self.head_parameters) + 4 * self.layers * self.heads * self.head_dim * past
        moved = self._stored(weight_bytes, head_bytes) + self.cache_bytes(past)
        return StageWork("decode", TOKEN, "float16", flops, moved)

    def _stored(self, weight_bytes: float, head_bytes: float) -> float:
        return self.layer_parameters * weight_bytes + self.head_parameters * head_bytes


@dataclass(frozen=True)
class VisionTower:
    """Sizes of a plain vision transformer whose 2 x 2 patches become one token of the language model, by an MLP."""

    layers: int
    hidden: int
    ffn: int
    mergers: int
    out: int

    @property
    def parameters(self) -> int:
        """Weights of the layers and of the mergers, two products each of 2 x 2 patches."""
        wide = 4 * self.hidden
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.ffn) + self.mergers * wide * (wide + self.out)

    def run(self, tokens: int) -> StageWork:
        """The work of an image that becomes so many tokens of the language model, four patches each."""
        patches, wide = 4 * tokens, 4 * self.hidden
        layer = 2 * (4 * self.hidden**2 + 2 * self.hidden * self.ffn) * patches + 4 * self.hidden * patches**2
        flops = self.layers * layer + self.mergers * 2 * wide * (wide + self.out) * tokens
        return StageWork("vision", QUESTION, "float16", flops, self.parameters * _FLOAT_BYTES)


QWEN3_8B = LanguageModel(36, 4096, 12288, 32, 8, 128, 151936, tied=False)
QWEN3_4B = LanguageModel(36, 2560, 9728, 32, 8, 128, 151936, tied=True)
QWEN3_VL_TOWER = VisionTower(27, 1152, 4304, 4, 4096)


@dataclass(frozen=True)
class Figure:
    """One published figure. `predict` gives ours in the same unit; `used_for` names the efficiency that it chose, if it did."""

    name: str
    unit: str
    published: float
    predict: Callable[[Predictor], float]
    used_for: str = ""
    note: str = ""


@dataclass(frozen=True)
class Beside:
    """A figure and what is predicted for it."""

    figure: Figure
    predicted: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a fraction of what was published."""
        return self.predicted / self.figure.published - 1


def _prefill(tokens: int) -> Callable[[Predictor], float]:
    return lambda predictor: predictor.stage_ms(QWEN3_8B.prefill(tokens, _INT4_BYTES))


def _rate(model: LanguageModel, weight_bytes: float, head_bytes: float) -> Callable[[Predictor], float]:
    return lambda predictor: 1e3 / predictor.stage_ms(model.decode(292, weight_bytes, head_bytes))


def _memory_gb(predictor: Predictor) -> float:
    model, tower = QWEN3_8B, QWEN3_VL_TOWER
    weights = model.layer_parameters * _INT4_BYTES + (2 * model.head_parameters + tower.parameters) * _FLOAT_BYTES
    return (weights + model.cache_bytes(_CONTEXT_LEN)) / 1e9 + predictor.device.efficiencies.runtime_gb.value


FIGURES = (
    Figure("Qwen3-VL-8B INT4, prefill of 2,048 tokens", "ms", 1388, _prefill(2048), used_for="gemm_fp16"),
    Figure("Qwen3-VL-8B INT4, prefill of 292 tokens", "ms", 178, _prefill(292)),
    Figure(
        "Qwen3-VL-8B INT4, decode",
        "tokens/s",
        30.6,
        _rate(QWEN3_8B, _INT4_BYTES, _FLOAT_BYTES),
        note="head taken as FP16: which it was is not published",
    ),
    Figure(
        "Qwen3-VL-8B, vision tower, 265 tokens, FP16",
        "ms",
        53,
        lambda predictor: predictor.stage_ms(QWEN3_VL_TOWER.run(265)),
        note="read as 265 tokens after merging 2 x 2 patches, of the prompt of 292",
    ),
    Figure(
        "Qwen3-VL-8B INT4, memory", "GB", 9.0, _memory_gb, used_for="runtime_gb", note=f"context of {_CONTEXT_LEN:,} assumed"
    ),
    Figure("4B, W8A16, decode", "tokens/s", 35.5, _rate(QWEN3_4B, _INT8_BYTES, _INT8_BYTES), note="head taken as INT8"),
    Figure("4B, W16, decode", "tokens/s", 20.2, _rate(QWEN3_4B, _FLOAT_BYTES, _FLOAT_BYTES)),
)


def beside_published(device: Device) -> tuple[Beside, ...]:
    """Returns every figure with what is predicted for it on a device of the table, which should be the AGX Orin 64GB."""
    predictor = Predictor(device)
    return tuple(Beside(figure, figure.predict(predictor)) for figure in FIGURES)
