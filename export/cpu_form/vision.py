"""A vision expert's attention as one node a layer.

Shape letters: T tiles, N tokens, H heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from leo_edge.export.cpu_form.editor import MICROSOFT, Editor, array_of, only_reader


@dataclass(frozen=True)
class _Attention:
    """What goes into softmax(q k^T * scale) v, [T, N, H * E] each, and what comes out of it, [T, N, H * E]."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    output: ir.Value
    scale: float
    num_heads: int


def fuse_attention(editor: Editor) -> int:
    """Puts MultiHeadAttention in place of attention without a mask or a bias; returns how many there were."""
    found = [attention for attention in map(_find, list(editor.graph)) if attention is not None]
    for one in found:
        attributes = {"num_heads": one.num_heads, "scale": one.scale}
        made = editor.add("MultiHeadAttention", [one.query, one.key, one.value], attributes, domain=MICROSOFT)
        editor.replace(one.output, made[0])
    return len(found)


def _find(softmax: ir.Node) -> _Attention | None:
    """Returns the attention around a softmax."""
    if softmax.op_type != "Softmax":
        return None
    scaled, weighted = _producer(softmax.inputs[0], "Mul"), only_reader(softmax.outputs[0])
    if scaled is None or weighted is None or weighted.op_type != "MatMul":
        return None
    scale = next((array for array in map(array_of, scaled.inputs) if array is not None and array.size == 1), None)
    scores = next((node for node in (_producer(value, "MatMul") for value in scaled.inputs) if node is not None), None)
    back = only_reader(weighted.outputs[0])
    merged = None if back is None or not _permutes(back, [0, 2, 1, 3]) else only_reader(back.outputs[0])
    if scale is None or scores is None or merged is None or merged.op_type != "Reshape":
        return None
    sides = [
        _heads(scores.inputs[0], [0, 2, 1, 3]),
        _heads(scores.inputs[1], [0, 2, 3, 1]),
        _heads(weighted.inputs[1], [0, 2, 1, 3]),
    ]
    if any(side is None for side in sides) or len({side[1] for side in sides if side}) != 1:
        return None
    (query, num_heads), (key, _), (value, _) = (side for side in sides if side is not None)
    return _Attention(query, key, value, merged.outputs[0], float(scale.reshape(-1)[0]), num_heads)


def _heads(value: ir.Value | None, permutation: list[int]) -> tuple[ir.Value, int] | None:
    """Returns what was split into heads and transposed, and the number of heads."""
    transpose = _producer(value, "Transpose")
    reshape = None if transpose is None or not _permutes(transpose, permutation) else _producer(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None:
        return None
    shape = array_of(reshape.inputs[1])
    return None if shape is None or shape.size != 4 else (reshape.inputs[0], int(shape[2]))


def _permutes(node: ir.Node, permutation: list[int]) -> bool:
    return node.op_type == "Transpose" and list(node.attributes.get_ints("perm") or ()) == permutation


def _producer(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator else None
