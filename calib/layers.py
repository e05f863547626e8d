"""The products with constant weights in a graph, the rules that keep some of them float, and which of them can be smoothed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from leo_edge.runtime.errors import CalibrationError
from leo_edge.runtime.manifest import DecoderManifest


@dataclass(frozen=True)
class Layer:
    """A product y = x W with a constant W: a MatMul, W [K, N], or a Conv, W [N, C / groups, ...].

    `name` is the graph's and the module's, such as "llm.layers.0.attention.q"; `input` the tensor x, `weight` the initializer.
    """

    name: str
    graph: str
    kind: str
    input: str
    weight: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """A named choice: which layers stay float, and why."""

    name: str
    patterns: tuple[str, ...]
    reason: str

    def keeps(self, layer: Layer) -> bool:
        """Whether a layer stays float by this rule."""
        return any(fnmatchcase(layer.name, pattern) for pattern in self.patterns)


RULES = (
    Rule("router", ("*.router_in", "*.router_out", "router.*"), "it chooses, and a choice that flips is a large error"),
    Rule("lora", ("*.lora_a", "*.lora_b"), "rank-r products cost next to nothing and correct the layer that is quantized"),
    Rule("head", ("llm.head",), "its errors go straight into the choice of the token"),
    Rule("fusion", ("fuse.*",), "sums over all tokens of all experts, 1 % of the work"),
    Rule("patch", ("*.patch_embed*", "*.patch_embedding*"), "its input are bytes, normalised inside of its weights"),
)
"""What stays float beside norms, softmax and attention's own products, which have no constant weight."""


def layers_of(name: str, model: ir.Model) -> tuple[Layer, ...]:
    """Returns the layers of a graph, in the order of its nodes."""
    initializers = model.graph.initializers
    found = []
    for node in model.graph:
        if node.op_type not in ("MatMul", "Conv"):
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or weight.name not in initializers or x.name in initializers:
            continue
        assert weight.shape is not None
        shape = tuple(int(dim) for dim in weight.shape)  # type: ignore[arg-type]
        found.append(Layer(_layer_name(name, weight.name), name, node.op_type, str(x.name), str(weight.name), shape))
    return tuple(found)


def rule_for(layer: Layer, extra: Sequence[str] = ()) -> str | None:
    """Returns the name of the rule, or the extra pattern, that keeps a layer float; None if it is quantized."""
    for rule in RULES:
        if rule.keeps(layer):
            return rule.name
    return next((pattern for pattern in extra if fnmatchcase(layer.name, pattern)), None)


def check_patterns(patterns: Sequence[str], layers: Iterable[Layer]) -> None:
    """Checks that every pattern names a layer.

    Raises:
        CalibrationError: one does not.
    """
    names = [layer.name for layer in layers]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:3])
            raise CalibrationError(f"no layer matches {pattern!r}: expected names or patterns of layers such as {some}")


@dataclass(frozen=True)
class SmoothGroup:
    """An activation whose channels can be divided by s without another node.

    `producers`, constants that make it, are divided along their last axis; `consumers`, all weights that read it, are
    multiplied along their first.
    `heads` is (query heads, key-value heads) where the activation is an attention's output and the producer its values.
    """

    graph: str
    input: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    heads: tuple[int, int] | None = None


def smooth_groups(name: str, model: ir.Model, decoder: DecoderManifest) -> tuple[SmoothGroup, ...]:
    """Returns the groups of a graph: behind norms, behind gated products, and behind the language model's attention.

    Those that no quantized layer reads are left out.
    """
    groups = list(_norm_and_gate_groups(name, model))
    if name == "llm":
        groups += _attention_groups(model, decoder)
    quantized = {layer.weight for layer in layers_of(name, model) if rule_for(layer) is None}
    return tuple(group for group in groups if not quantized.isdisjoint(group.consumers))


def _norm_and_gate_groups(name: str, model: ir.Model) -> Iterator[SmoothGroup]:
    initializers = model.graph.initializers
    for node in model.graph:
        x = node.outputs[0] if node.outputs else None
        if x is None or not (consumers := _reading_weights(x, model)):
            continue
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            constants = [value for value in node.inputs[1:] if value is not None]
        elif node.op_type == "Mul":
            constants = [value for value in node.inputs if value is not None and value.name in initializers]
            constants = constants or _gated_product(node, model)
        else:
            continue
        if constants and all(value.name in initializers and len(list(value.uses())) == 1 for value in constants):
            yield SmoothGroup(name, str(x.name), tuple(str(value.name) for value in constants), consumers)


def _gated_product(node: ir.Node, model: ir.Model) -> list[ir.Value]:
    """Returns the constants of the linear side of act(gate) * up: the weight of up, and its bias."""
    for value in node.inputs:
        before = None if value is None else value.producer()
        bias: list[ir.Value] = []
        if before is not None and before.op_type == "Add" and len(list(before.outputs[0].uses())) == 1:
            bias = [one for one in before.inputs if one is not None and one.name in model.graph.initializers]
            rest = [one for one in before.inputs if one is not None and one.name not in model.graph.initializers]
            before = rest[0].producer() if bias and rest else None
        if before is None or before.op_type != "MatMul" or len(list(before.outputs[0].uses())) != 1:
            continue
        weight = before.inputs[1]
        if weight is not None and weight.name in model.graph.initializers:
            return [weight, *bias]
    return []


def _attention_groups(model: ir.Model, decoder: DecoderManifest) -> Iterator[SmoothGroup]:
    """Values are linear in what attention gives: its output's channels are those of the values, head by head."""
    by_name = {layer.name: layer for layer in layers_of("llm", model)}
    for i in range(decoder.num_layers):
        out, values = by_name[f"llm.layers.{i}.attention.out"], by_name[f"llm.layers.{i}.attention.v"]
        bias = f"llm.layers.{i}.attention.v.bias"
        producers = (values.weight, bias) if bias in model.graph.initializers else (values.weight,)
        heads = (out.shape[0] // decoder.head_dim, decoder.num_kv_heads)
        yield SmoothGroup("llm", out.input, producers, (out.weight,), heads)


def _reading_weights(x: ir.Value, model: ir.Model) -> tuple[str, ...]:
    """Returns the weights of the products that read x; nothing if anything else reads it."""
    weights = []
    for reader in x.consumers():
        weight = reader.inputs[1] if len(reader.inputs) > 1 else None
        if reader.op_type != "MatMul" or reader.inputs[0] is not x or weight is None:
            return ()
        if weight.name not in model.graph.initializers or len(list(weight.uses())) != 1:
            return ()
        weights.append(str(weight.name))
    return () if x in set(model.graph.outputs) else tuple(weights)


def _layer_name(graph: str, weight: str | None) -> str:
    base = str(weight).split(".weight")[0]
    return base if base.startswith(f"{graph}.") else f"{graph}.{base.removeprefix('expert.')}"
