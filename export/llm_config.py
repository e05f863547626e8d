"""One config for the decoder-only language models that LEO and LEO-MINI use: InternLM2, Llama, Qwen2 and Phi-3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leo_edge.runtime.errors import CheckpointError

ARCHITECTURES = ("InternLM2ForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM")
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "longrope", "yarn")
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class MMoEConfig:
    """The mixture of LoRA experts in place of each down projection (LEO-MINI, section 3.3, equations 8 and 9).

    `num_experts` is E, without the general expert. `lora_alpha` scales every LoRA expert by alpha / rank, as usual for LoRA.
    """

    num_experts: int = 3
    top_k: int = 1
    rank: int = 16
    lora_alpha: float = 16.0
    router_hidden_size: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise CheckpointError(f"mmoe_config.top_k must be in 1..num_experts = {self.num_experts}, got {self.top_k}")
        if self.rank < 1 or self.router_hidden_size < 1:
            raise CheckpointError("mmoe_config.rank and router_hidden_size must be at least 1")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: `parameters` are transformers' `rope_parameters` without theta and type."""

    theta: float = 10000.0
    kind: str = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LlmConfig:
    """Sizes and options of a decoder. `windows[i]` is layer i's attention span in tokens, None for all of the past."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    windows: tuple[int | None, ...]
    activation: str = "silu"
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    mmoe: MMoEConfig | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(f"{self.num_heads} attention heads do not divide into {self.num_kv_heads} KV heads")
        if self.mlp_bias and self.architecture == "Phi3ForCausalLM":
            raise CheckpointError("llm_config has mlp_bias, which Phi-3 does not have: correct the config")
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(f"unknown hidden_act {self.activation!r}: expected one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def parse(cls, raw: Mapping[str, Any], mmoe: MMoEConfig | None = None) -> LlmConfig:
        """Reads an `llm_config` with transformers' field names.

        Raises:
            CheckpointError: a field is missing, or the architecture or rope type is not known.
        """
        named = raw.get("architectures")
        architecture = named[0] if isinstance(named, list) and named else None
        if architecture not in ARCHITECTURES:
            raise CheckpointError(f"unknown llm_config.architectures {named!r}: expected one of {', '.join(ARCHITECTURES)}")
        try:
            return cls._from_fields(architecture, raw, mmoe)
        except KeyError as error:
            raise CheckpointError(f"llm_config in config.json has no {error.args[0]}") from None
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"llm_config in config.json has a field of the wrong type: {error}") from None

    @classmethod
    def _from_fields(cls, architecture: str, raw: Mapping[str, Any], mmoe: MMoEConfig | None) -> LlmConfig:
        num_heads, num_layers = _size(raw, "num_attention_heads"), _size(raw, "num_hidden_layers")
        bias = bool(raw.get("attention_bias", raw.get("bias", False)))
        return cls(
            architecture=architecture,
            vocab_size=_size(raw, "vocab_size"),
            hidden_size=_size(raw, "hidden_size"),
            intermediate_size=_size(raw, "intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_size(raw, "num_key_value_heads", num_heads),
            head_dim=_size(raw, "head_dim", raw["hidden_size"] // num_heads),
            rms_norm_eps=_number(raw, "rms_norm_eps"),
            max_position_embeddings=_size(raw, "max_position_embeddings"),
            rope=_parse_rope(raw),
            windows=_parse_windows(architecture, raw, num_layers),
            activation=str(raw.get("hidden_act", "silu")),
            qkv_bias=architecture == "Qwen2ForCausalLM" or bias,
            out_bias=architecture != "Qwen2ForCausalLM" and bias,
            mlp_bias=bool(raw.get("mlp_bias", False)),
            tied=bool(raw.get("tie_word_embeddings", False)),
            mmoe=mmoe,
        )


def _size(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Returns a size; null and, with a default, absent fields take the default.

    Raises:
        CheckpointError: it is no whole number of at least 1.
    """
    value = default if raw.get(name) is None and default is not None else raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"llm_config.{name} in config.json must be a whole number of at least 1, got {value!r}")
    return value


def _number(raw: Mapping[str, Any], name: str) -> float:
    """Returns a number above 0.

    Raises:
        CheckpointError: it is none.
    """
    value = raw[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise CheckpointError(f"llm_config.{name} in config.json must be a number above 0, got {value!r}")
    return float(value)


def _parse_rope(raw: Mapping[str, Any]) -> RopeConfig:
    """Reads transformers 5's `rope_parameters`, or `rope_theta` and `rope_scaling` as before it."""
    parameters = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = str(parameters.pop("rope_type", parameters.pop("type", "default")))
    parameters.pop("type", None)
    kind = {"su": "longrope"}.get(kind, kind)
    theta = float(parameters.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    for name in ("partial_rotary_factor", "original_max_position_embeddings"):
        if raw.get(name) is not None:
            parameters.setdefault(name, raw[name])
    if kind == "longrope" and "original_max_position_embeddings" not in parameters:
        raise CheckpointError("llm_config has longrope, but no original_max_position_embeddings: add the pretraining length")
    if kind not in ROPE_TYPES:
        raise CheckpointError(f"unknown rope_type {kind!r} in llm_config: expected one of {', '.join(ROPE_TYPES)}")
    return RopeConfig(theta, kind, parameters)


def _parse_windows(architecture: str, raw: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """Returns each layer's window: Phi-3 has one for all layers, Qwen2 from `max_window_layers` on if it is switched on."""
    window = raw.get("sliding_window")
    if window is None or architecture not in ("Phi3ForCausalLM", "Qwen2ForCausalLM"):
        return (None,) * num_layers
    if architecture == "Phi3ForCausalLM":
        return (int(window),) * num_layers
    if not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    first = int(raw.get("max_window_layers", 28))
    kinds = raw.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    if len(kinds) != num_layers:
        raise CheckpointError(f"llm_config.layer_types in config.json has {len(kinds)} entries for {num_layers} layers")
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
