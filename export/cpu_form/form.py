"""Which rewrites a graph gets."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from leo_edge.export.cpu_form import attention, vision
from leo_edge.export.cpu_form.editor import Editor
from leo_edge.export.cpu_form.mmoe import fuse_mmoe
from leo_edge.export.cpu_form.norms import fuse_norms
from leo_edge.runtime.manifest import DecoderManifest

REWRITES = ("attention", "norms", "mmoe", "packing")
"""All of them, in the order in which they are done; each can be left out, to measure what it gains."""


def to_cpu_form(name: str, model: ir.Model, decoder: DecoderManifest, rewrites: Collection[str] = REWRITES) -> tuple[str, ...]:
    """Changes the graph `name` of a bundle in place; returns the rewrites that found something to do."""
    editor = Editor(model)
    done = _llm(editor, decoder, rewrites) if name == "llm" else _vision(editor, rewrites)
    editor.finish()
    return tuple(done)


def _llm(editor: Editor, decoder: DecoderManifest, rewrites: Collection[str]) -> list[str]:
    layers = range(decoder.num_layers)
    done = []
    if "attention" in rewrites and attention.fuse_attention(editor, decoder, pack="packing" in rewrites):
        done.append("attention")
    if "norms" in rewrites and fuse_norms(editor):
        done.append("norms")
    if "mmoe" in rewrites and sum(fuse_mmoe(editor, f"llm.layers.{i}.mlp.down", pack="packing" in rewrites) for i in layers):
        done.append("mmoe")
    if "packing" in rewrites and sum(editor.pack([f"llm.layers.{i}.mlp.{part}" for part in ("gate", "up")]) for i in layers):
        done.append("packing")
    return done


def _vision(editor: Editor, rewrites: Collection[str]) -> list[str]:
    """Packing gains nothing here: with a thousand rows, one product of three is no faster than three."""
    return ["attention"] if "attention" in rewrites and vision.fuse_attention(editor) else []
