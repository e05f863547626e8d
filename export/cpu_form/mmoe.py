"""MMoE as products: what every layer's routing chooses becomes a row of a small table."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from leo_edge.export.cpu_form.editor import Editor, Product, array_of, only_reader
from leo_edge.export.cpu_form.evaluate import evaluate, nodes_above


def fuse_mmoe(editor: Editor, layer: str, *, pack: bool) -> bool:
    """Rewrites a layer's mixture (LEO-MINI, arXiv 2504.04653, equations 8 and 9) of one chosen expert; says whether it did.

    `layer` is the down projection, such as `llm.layers.0.mlp.down`. The gates of all ranks [S, r (E + 1)] are looked up by the
    chosen expert in a table of E rows, made once an answer from the input `use_special`. The two products of one input, the
    router's first and the LoRA experts' first, become one; with the down projection where that is alike.
    """
    parts = {part: editor.products.get(f"{layer}.{part}") for part in ("router_in", "router_out", "lora_a", "lora_b", "down")}
    if any(product is None for product in parts.values()):
        return False
    router, low, back = parts["router_out"], parts["lora_a"], parts["lora_b"]
    assert router is not None
    assert low is not None
    assert back is not None
    gates = _gates(low)
    if gates is None or _num_chosen(gates) != 1:
        return False
    table = _table(editor, router.output, gates, low.width)
    (chosen,) = editor.add("ArgMax", [router.output], {"axis": -1, "keepdims": 0})
    (gate,) = editor.add("Gather", [table, chosen], {"axis": 0})
    (mixed,) = editor.add("Mul", [low.output, gate])
    editor.replace(back.source, mixed)
    groups = (("down", "router_in", "lora_a"), ("router_in", "lora_a")) if pack else ()
    any(editor.pack([f"{layer}.{part}" for part in group]) for group in groups)
    return True


def _gates(low: Product) -> ir.Value | None:
    """Returns the gates [S, E + 1] that multiply lora_a's output: it goes Reshape - Mul - Reshape."""
    reshape = only_reader(low.output)
    product = None if reshape is None else only_reader(reshape.outputs[0])
    if product is None or product.op_type != "Mul":
        return None
    others = [value for value in product.inputs if value is not None and value is not reshape.outputs[0]]  # type: ignore[union-attr]
    unsqueeze = others[0].producer() if len(others) == 1 else None
    return None if unsqueeze is None or unsqueeze.op_type != "Unsqueeze" else unsqueeze.inputs[0]


def _num_chosen(gates: ir.Value) -> int | None:
    """Returns how many experts are chosen."""
    topk = next((node for node in nodes_above(gates) if node.op_type == "TopK"), None)
    count = None if topk is None else array_of(topk.inputs[1])
    return None if count is None else int(count.reshape(-1)[0])


def _table(editor: Editor, scores: ir.Value, gates: ir.Value, width: int) -> ir.Value:
    """Returns the gates of every rank for each chosen expert, [E, r (E + 1)]: base + use_special * rest, once for all."""
    name = "cpu.mmoe.table"
    made = next((value for node in editor.graph for value in node.outputs if value.name == name), None)
    if made is not None:
        return made
    use_special = next(value for value in editor.graph.inputs if value.name == "use_special")
    assert scores.shape is not None
    each = np.eye(int(scores.shape[-1]), dtype=np.float32)  # type: ignore[arg-type]
    base, with_special = (
        evaluate(editor.model, gates, {scores: each, use_special: np.full(1, use, np.float32)}) for use in (0, 1)
    )
    ranks = width // base.shape[1]
    base, special = np.repeat(base, ranks, axis=1), np.repeat(with_special - base, ranks, axis=1)
    (scaled,) = editor.add("Mul", [editor.constant(f"{name}.special", special), use_special])
    (made,) = editor.add("Add", [scaled, editor.constant(f"{name}.base", base)])
    made.name = name
    return made
