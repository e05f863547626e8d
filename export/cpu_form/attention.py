"""The language model's attention as one node a layer, on a cache that is input and output at one address.

Shape letters: S new tokens, H query heads, K key-value heads, E head width, C cache capacity.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from leo_edge.export.cpu_form.editor import MICROSOFT, Editor, Product, only_reader
from leo_edge.export.cpu_form.evaluate import evaluate, nodes_above
from leo_edge.runtime.manifest import DecoderManifest


def fuse_attention(editor: Editor, decoder: DecoderManifest, *, pack: bool) -> bool:
    """Puts GroupQueryAttention in place of each layer's attention, rotation included; says whether it could.

    The cache becomes [1, K, C, E] per layer and part. New inputs: `seqlens_k` int32 [1], the last position, and `total_len`
    int32 [1], that plus one. `pack` makes one product of query, key and value. Not where a layer sees a window only, where
    frequencies depend on the length of the sequence, or where the cache is INT8.
    """
    if any(value.dtype != ir.DataType.FLOAT for value in editor.graph.inputs if str(value.name).startswith("past_")):
        return False
    tables = _rotation(editor, decoder.context_len)
    layers = [_Layer.find(editor, index) for index in range(decoder.num_layers)]
    if tables is None or any(layer is None or layer.windowed for layer in layers):
        return False
    lengths = [_int32_input(editor, name) for name in ("seqlens_k", "total_len")]
    axis = editor.constant("cpu.axis", np.array([0], np.int64))
    for layer in layers:
        assert layer is not None
        layer.fuse(editor, decoder, [*lengths, *tables], axis, pack=pack)
    return True


class _Layer:
    """One layer's attention: its products, and the ports of its cache."""

    def __init__(self, index: int, parts: dict[str, Product]) -> None:
        self.index, self.parts = index, parts

    @classmethod
    def find(cls, editor: Editor, index: int) -> _Layer | None:
        names = {part: f"llm.layers.{index}.attention.{part}" for part in ("q", "k", "v", "out")}
        if any(name not in editor.products for name in names.values()):
            return None
        return cls(index, {part: editor.products[name] for part, name in names.items()})

    @property
    def windowed(self) -> bool:
        """Whether the mask is a conjunction: causal, and within the window."""
        below = {self.parts[part].output for part in ("q", "k", "v")}
        return any(node.op_type == "And" for node in nodes_above(self.parts["out"].source, below))

    def fuse(self, editor: Editor, decoder: DecoderManifest, rest: list[ir.Value], axis: ir.Value, *, pack: bool) -> None:
        names = [f"llm.layers.{self.index}.attention.{part}" for part in ("q", "k", "v")]
        packed = editor.packed(names) if pack else None
        values = [packed] if packed is not None else [editor.products[name].output for name in names]
        batched = [editor.add("Unsqueeze", [value, axis])[0] for value in values]
        past = [_port(editor.graph.inputs, f"past_{part}.{self.index}") for part in ("key", "value")]
        inputs = [*batched, *[None] * (3 - len(batched)), *past, *rest]
        attributes = {
            "num_heads": self.parts["out"].weight_rows // decoder.head_dim,
            "kv_num_heads": decoder.num_kv_heads,
            "do_rotary": 1,
            "rotary_interleaved": 0,
            "scale": decoder.head_dim**-0.5,
        }
        made = editor.add("GroupQueryAttention", inputs, attributes, domain=MICROSOFT, outputs=3)
        shape = ir.Shape((1, decoder.num_kv_heads, "C", decoder.head_dim))
        for part, port, new in zip(("key", "value"), past, made[1:], strict=True):
            _take_over(editor.graph, f"new_{part}.{self.index}", new, port, shape)
        (attended,) = editor.add("Squeeze", [made[0], axis])
        editor.replace(self.parts["out"].source, attended)


def _take_over(graph: ir.Graph, name: str, new: ir.Value, past: ir.Value, shape: ir.Shape) -> None:
    """Makes `new` the graph's output of this name; the cache is as long on both sides."""
    old = _port(graph.outputs, name)
    new.type, new.shape, past.shape = past.type, shape, shape
    graph.outputs[list(graph.outputs).index(old)] = new
    old.name, new.name = f"standard.{name}", name


def _rotation(editor: Editor, context_len: int) -> tuple[ir.Value, ir.Value] | None:
    """Returns cos and sin of every position [context, rotary / 2], computed by the graph's own formula."""
    positions = _port(editor.graph.inputs, "positions")
    tables = []
    for operator in ("Cos", "Sin"):
        node = next((node for node in editor.graph if node.op_type == operator), None)
        if node is None:
            return None
        value = node.outputs[0]
        scaled = only_reader(value)
        if scaled is not None and scaled.op_type == "Mul" and any(one.const_value is not None for one in scaled.inputs if one):
            value = scaled.outputs[0]
        everywhere = np.arange(context_len, dtype=np.int64)
        table = evaluate(editor.model, value, {positions: everywhere})
        if not np.array_equal(table[:2], evaluate(editor.model, value, {positions: everywhere[:2]})):
            return None  # the second position turns otherwise at the end of a long sequence
        half = np.ascontiguousarray(table[:, : table.shape[1] // 2], np.float32)
        tables.append(editor.constant(f"cpu.{operator.lower()}", half))
    return tables[0], tables[1]


def _int32_input(editor: Editor, name: str) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape((1,)), type=ir.TensorType(ir.DataType.INT32))
    editor.graph.inputs.append(value)
    return value


def _port(ports: Iterable[ir.Value], name: str) -> ir.Value:
    return next(value for value in ports if value.name == name)
