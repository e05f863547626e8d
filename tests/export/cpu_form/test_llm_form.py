"""export/cpu_form: the language model in its CPU form gives the logits of transformers' own models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors import numpy as safetensors_numpy

from leo_edge.export.cpu_form.form import REWRITES, to_cpu_form
from leo_edge.export.cpu_form.write import write_cpu_forms
from leo_edge.export.exporter import graph_spec
from leo_edge.export.llm_config import LlmConfig
from leo_edge.export.stages import StageOptions, llm_stage
from leo_edge.export.trace import trace
from leo_edge.export.writer import file_spec, write_graph
from leo_edge.runtime.backend import Array, Decoder
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.manifest import DecoderManifest
from leo_edge.runtime.ort import open_decoder
from leo_edge.runtime.ort_decoder import SharedDecoder
from tests.conftest import MadeOnce
from tests.export.checkpoints import TensorDict
from tests.export.modeling.test_llm import CASES, CONTEXT_LEN, NUM_TOKENS, PARTIAL_ROPE, TOLERANCE, Case, make_case
from tests.runtime.test_manifest import small_manifest

QUICK = ("llama with biases", "internlm2")
MORE = tuple(name for name in CASES if "window" not in name and name not in QUICK)


def exported(case: Case, directory: Path, context_len: int = CONTEXT_LEN) -> Bundle:
    """A bundle of nothing but a language model, with its CPU form."""
    config = LlmConfig.parse(case.raw)
    stage = llm_stage(config, StageOptions(torch.float32, context_len, fused=False))
    graph = trace(stage, 20)
    files = write_graph(graph, TensorDict(case.tensors), directory, "llm", lambda _: None)
    safetensors_numpy.save_file({"embedding": np.zeros((config.vocab_size, config.hidden_size), np.float32)}, directory / "e")
    files["e"] = file_spec(directory / "e")
    sizes = (config.num_layers, config.num_kv_heads, config.head_dim, config.hidden_size, config.vocab_size)
    decoder = DecoderManifest("prefix", *sizes, context_len, routed=False)
    manifest = small_manifest()
    graphs, all_files = dict(manifest.graphs) | {"llm": graph_spec(stage, graph)}, dict(manifest.files) | files
    manifest = replace(manifest, graphs=graphs, cpu_forms={}, files=all_files, decoder=decoder, experts=(), embedding="e")
    return Bundle(directory, write_cpu_forms(directory, manifest), "id")


def opened(bundle: Bundle, *, standard: bool = False) -> Decoder:
    return open_decoder(bundle, EmbeddingTable(bundle.path("e")), threads=1, standard_graph=standard)


def check(case: Case, bundle: Bundle) -> None:
    """Compares the logits after a prompt, and after more of it behind what is cached."""
    decoder, embeds = opened(bundle), case.embeds.numpy()
    assert isinstance(decoder, SharedDecoder)
    for length, keep in ((7, 0), (1, 0), (NUM_TOKENS, 1), (NUM_TOKENS, NUM_TOKENS - 3)):
        logits = decoder.prefill(embeds[:length], {}, keep=keep)
        assert np.abs(logits - case.logits[length - 1]).max() < TOLERANCE
    assert case.logits.std() > 0.5
    # The control: with the order of two tokens changed they are others.
    turned = np.concatenate([embeds[1::-1], embeds[2:]])
    assert np.abs(decoder.prefill(turned, {}) - case.logits[-1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", QUICK)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    case = make_case(*CASES[name])
    check(case, exported(case, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MORE, "half of each head rotated"])
def test_so_are_those_of_all_other_kinds(name: str, tmp_path: Path) -> None:
    case = make_case(*CASES.get(name, ("Phi3ForCausalLM", {"rope_parameters": PARTIAL_ROPE})))
    check(case, exported(case, tmp_path))


def test_what_sees_a_window_only_keeps_its_attention(tmp_path: Path) -> None:
    case = make_case(*CASES["qwen2, window in layer 1"])
    bundle = exported(case, tmp_path)
    decoder = opened(bundle)
    assert not isinstance(decoder, SharedDecoder)
    assert "GroupQueryAttention" not in operators(bundle.path(bundle.manifest.cpu_forms["llm"].file))
    assert np.abs(decoder.prefill(case.embeds.numpy(), {}) - case.logits[-1]).max() < TOLERANCE


def test_so_does_what_turns_otherwise_in_long_sequences(tmp_path: Path) -> None:
    """Dynamic RoPE beyond the positions that the model knows: the table of a short sequence is not that of a long one."""
    case = make_case(*CASES["internlm2"])
    longer = exported(case, tmp_path, context_len=8 * case.model.config.max_position_embeddings)
    assert not isinstance(opened(longer), SharedDecoder)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in ir.load(path).graph}


@pytest.fixture(scope="module")
def mini(tiny_bundles: MadeOnce) -> Bundle:
    return open_bundle(tiny_bundles["leo-mini-tiny"])


def logits_of(bundle: Bundle, model: ir.Model | None, embeds: Array, routing: dict[str, Array]) -> Array:
    """Logits after a prompt and three tokens; `model` in place of the standard graph."""
    text = None if model is None else ir.to_proto(model).SerializeToString()
    table = EmbeddingTable(bundle.path(bundle.manifest.embedding))
    decoder = open_decoder(bundle, table, threads=1, model=text, standard_graph=True)
    return np.concatenate([decoder.prefill(embeds, routing)[None], decoder.extend((1, 2, 3))])


class TestEachRewrite:
    """On LEO-MINI, whose feed-forward layers are mixtures; attention alone changes the ports, so it is tested above."""

    @pytest.fixture
    def inputs(self, mini: Bundle) -> tuple[Array, dict[str, Array]]:
        random, decoder = np.random.default_rng(0), mini.manifest.decoder
        port = next(port for port in mini.manifest.graphs["llm"].inputs if port.name == "router_context")
        context = [dim for dim in port.shape if isinstance(dim, int)]
        routing = {"router_context": random.standard_normal(context).astype(np.float32), "use_special": np.ones(1, np.float32)}
        return random.standard_normal((40, decoder.hidden_size)).astype(np.float32), routing

    @pytest.mark.parametrize(("rewrite", "is_exact"), [("norms", False), ("mmoe", True), ("packing", True)])
    def test_is_equal(self, mini: Bundle, inputs: tuple[Array, dict[str, Array]], rewrite: str, is_exact: bool) -> None:
        model = ir.load(mini.path("llm.onnx"))
        assert to_cpu_form("llm", model, mini.manifest.decoder, (rewrite,)) == (rewrite,)
        embeds, routing = inputs
        for use_special in (1.0, 0.0):
            routing = routing | {"use_special": np.full(1, use_special, np.float32)}
            wanted, found = (logits_of(mini, one, embeds, routing) for one in (None, model))
            np.testing.assert_allclose(found, wanted, atol=0 if is_exact else 1e-5 * np.abs(wanted).max(), rtol=0)
        # The control: other routing is another answer, and a table that is a little off shows.
        assert not np.allclose(logits_of(mini, model, embeds, routing | {"use_special": np.ones(1, np.float32)}), wanted)

    def test_all_of_them_leave_a_third_of_the_nodes(self, mini: Bundle) -> None:
        model = ir.load(mini.path("llm.onnx"))
        before = len(model.graph)
        assert to_cpu_form("llm", model, mini.manifest.decoder) == REWRITES
        assert len(model.graph) < 0.4 * before

    def test_a_changed_table_is_another_function(self, mini: Bundle, inputs: tuple[Array, dict[str, Array]]) -> None:
        model = ir.load(mini.path("llm.onnx"))
        to_cpu_form("llm", model, mini.manifest.decoder, ("mmoe",))
        table = model.graph.initializers["cpu.mmoe.table.special"]
        assert table.const_value is not None
        table.const_value = ir.tensor(np.roll(table.const_value.numpy(), 1, axis=0), name=table.name)
        embeds, routing = inputs
        wanted, found = (logits_of(mini, one, embeds, routing) for one in (None, model))
        assert np.abs(found - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_forms_are_files_of_the_bundle_on_the_weights_of_their_graphs(mini: Bundle) -> None:
    manifest = mini.manifest
    assert set(manifest.cpu_forms) == {"llm", "vision.clip"}  # SAM's attention has a bias
    for name, form in manifest.cpu_forms.items():
        standard = manifest.graphs[name]
        assert form.data == standard.data
        assert manifest.files[form.file].size_bytes < 0.5 * manifest.files[str(form.data)].size_bytes
    standard_names = {port.name for port in manifest.graphs["llm"].inputs}
    assert {port.name for port in manifest.cpu_forms["llm"].inputs} - standard_names == {"seqlens_k", "total_len"}


def test_float16_has_none(micro_bundles: MadeOnce) -> None:
    assert not open_bundle(micro_bundles["fused"]).manifest.cpu_forms
