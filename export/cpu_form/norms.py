"""Root-mean-square norms as one node each, with the residual sum before them where there is one."""

from __future__ import annotations

import onnx_ir as ir

from leo_edge.export.cpu_form.editor import MICROSOFT, Editor, array_of, only_reader


def fuse_norms(editor: Editor) -> int:
    """Replaces x / sqrt(mean(x^2) + eps) * w, in plain operators, by onnxruntime's norm; returns how many there were."""
    found = [norm for norm in map(_norm, list(editor.graph)) if norm is not None]
    for x, weight, epsilon, output in found:
        residual = x.producer()
        if residual is not None and residual.op_type == "Add" and all(array_of(value) is None for value in residual.inputs):
            # Outputs: the norm, two that training wants, the sum.
            made = editor.add(
                "SkipSimplifiedLayerNormalization",
                [*residual.inputs, weight],
                {"epsilon": epsilon},
                domain=MICROSOFT,
                outputs=4,
            )
            editor.replace(x, made[3])
        else:
            attributes = {"epsilon": epsilon, "axis": -1, "stash_type": 1}
            made = editor.add("SimplifiedLayerNormalization", [x, weight], attributes)
        editor.replace(output, made[0])
    return len(found)


def _norm(node: ir.Node) -> tuple[ir.Value, ir.Value, float, ir.Value] | None:
    """Returns x, the weight, epsilon and the output of the norm whose reciprocal root this node is."""
    if node.op_type != "Reciprocal":
        return None
    chain = [node]
    for operator in ("Sqrt", "Add", "ReduceMean", "Mul"):
        value = chain[-1].inputs[0]
        before = None if value is None else value.producer()
        if before is None or before.op_type != operator:
            return None
        chain.append(before)
    x, epsilon = chain[-1].inputs[0], array_of(chain[2].inputs[1])
    scaled = only_reader(node.outputs[0])
    weighted = None if scaled is None else only_reader(scaled.outputs[0])
    if x is None or epsilon is None or x is not chain[-1].inputs[1] or weighted is None or weighted.op_type != "Mul":
        return None
    weights = [value for value in weighted.inputs if value is not None and value.const_value is not None]
    if len(weights) != 1:
        return None
    return x, weights[0], float(epsilon), weighted.outputs[0]
