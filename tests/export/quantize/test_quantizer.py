"""export/quantize: what is moved changes nothing in float, integers are where the rules want them, and answers stay near."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from leo_edge.calib.layers import RULES, layers_of, rule_for, smooth_groups
from leo_edge.calib.modality import divergence
from leo_edge.calib.observe import Forced, Observer, llm_inputs, teacher_forced
from leo_edge.calib.table import CalibrationTable
from leo_edge.export.lint.lint import lint_bundle, targets_of
from leo_edge.export.quantize.plan import GraphPlan, QuantizeOptions, plan_graph
from leo_edge.export.quantize.quantizer import quantize_bundle
from leo_edge.export.quantize.rewrite import rewrite
from leo_edge.export.writer import write_model
from leo_edge.runtime.backend import Array
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.errors import BundleError, CalibrationError, LeoEdgeError
from leo_edge.runtime.ort import OrtSession
from leo_edge.runtime.pipeline import AskOptions, open_pipeline
from tests.conftest import MadeOnce
from tests.export.quantize.conftest import QUESTIONS, random_frames


def quantized(bundle: Bundle, table: CalibrationTable | None, out: Path, **options: Any) -> Bundle:
    quantize_bundle(bundle, table, out, QuantizeOptions(**options))
    return open_bundle(out)


def model_of(bundle: Bundle, name: str) -> ir.Model:
    return ir.load(bundle.path(bundle.manifest.graphs[name].file))


def cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@pytest.fixture(scope="module")
def sequence(float_bundle: Bundle) -> Forced:
    pipeline = open_pipeline(float_bundle)
    return teacher_forced(pipeline, pipeline.encode(random_frames(50)), QUESTIONS[0], AskOptions(4))


def logits(bundle: Bundle, sequence: Forced) -> Array:
    return open_pipeline(bundle).decoder.prefill(sequence.embeds, sequence.routing)


def float_only(plan: GraphPlan) -> GraphPlan:
    """The plan's factors without its integers."""
    return replace(plan, weights={}, activations={}, cache=False)


@pytest.mark.parametrize(
    "options", [{"alpha": 0.7}, {"method": "mbq"}, {"kv": "int8", "method": "minmax"}, {"kv": "int8", "alpha": 0.5}]
)
def test_what_is_moved_changes_nothing_in_float(
    float_bundle: Bundle, table: CalibrationTable, sequence: Forced, tmp_path: Path, options: dict[str, Any]
) -> None:
    inputs = llm_inputs(float_bundle.manifest.decoder, sequence.embeds, sequence.routing)
    spec = float_bundle.manifest.graphs["llm"]
    exact = OrtSession(float_bundle.path("llm.onnx"), spec).run(inputs)["logits"]
    model = model_of(float_bundle, "llm")
    plan = float_only(plan_graph("llm", model, QuantizeOptions(**options), table, float_bundle.manifest.decoder))
    assert plan.columns
    assert any(not np.allclose(factors, 1, atol=0.1) for factors in plan.columns.values())
    write_model(model, rewrite(model, plan), tmp_path, "llm", lambda _: None)
    moved = OrtSession(tmp_path / "llm.onnx", spec).run(inputs)
    np.testing.assert_allclose(moved["logits"], exact, atol=2e-4 * np.abs(exact).max())
    if "kv" in options:
        for i in range(float_bundle.manifest.decoder.num_layers):
            heads = np.abs(moved[f"new_key.{i}"]).max(axis=(0, 2))
            assert (heads < 1.3).all()
            assert heads.max() > 0.5
    # The control: half of the factors left out is another model.
    half = model_of(float_bundle, "llm")
    wrong = replace(plan, columns={})
    write_model(half, rewrite(half, wrong), tmp_path, "wrong", lambda _: None)
    assert np.abs(OrtSession(tmp_path / "wrong.onnx", spec).run(inputs)["logits"] - exact).max() > 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("options", [{"method": "minmax"}, {"method": "smoothquant"}, {"method": "mbq"}, {"kv": "int8"}])
def test_int8_stays_near_and_passes_the_linter_for_every_target(
    float_bundle: Bundle, table: CalibrationTable, sequence: Forced, out: Path, options: dict[str, Any]
) -> None:
    bundle = quantized(float_bundle, table, out, **options)
    assert lint_bundle(out, bundle.manifest, targets_of(bundle.manifest)) == []
    frames = random_frames(51)
    tokens, exact = (open_pipeline(one).encode(frames) for one in (bundle, float_bundle))
    for mine, theirs in zip(tokens.cameras, exact.cameras, strict=True):
        for name, values in theirs.by_expert.items():
            assert 0.99 < cosine(mine.by_expert[name], values) < 1
    assert 0.98 < cosine(logits(bundle, sequence), logits(float_bundle, sequence)) < 1


def test_integers_are_where_the_rules_want_them(float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
    bundle = quantized(float_bundle, table, out)
    for name in bundle.manifest.graphs:
        before = layers_of(name, model_of(float_bundle, name))
        floats = {layer.name for layer in layers_of(name, model_of(bundle, name))}
        assert floats == {layer.name for layer in before if rule_for(layer) is not None}
    record = bundle.manifest.provenance["quantized"]
    assert set(record["kept_float"]) == {rule.name for rule in RULES}
    assert record["from_bundle"] == float_bundle.id
    calibration = json.loads((out / "calibration.json").read_text())
    assert set(calibration["activations"]["llm"]) == {
        layer.input for layer in layers_of("llm", model_of(float_bundle, "llm")) if rule_for(layer) is None
    }


def test_weight_only_rules_get_integers_and_keep_float_inputs(
    float_bundle: Bundle, table: CalibrationTable, out: Path, sequence: Forced
) -> None:
    both = [
        quantized(float_bundle, table, out / str(len(rules)), weight_only=rules) for rules in ((), ("head", "lora", "router"))
    ]
    findings = lint_bundle(out / "3", both[1].manifest, targets_of(both[1].manifest))
    assert {(finding.rule, finding.refused) for finding in findings} == {("both-inputs", False)}
    kept = [set(one.manifest.provenance["quantized"]["kept_float"]) for one in both]
    assert kept[0] - kept[1] == {"head", "lora", "router"}
    head = next(
        node for node in model_of(both[1], "llm").graph if node.op_type == "MatMul" and "llm.head" in str(node.inputs[1])
    )
    assert head.inputs[1].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    assert head.inputs[0].producer().op_type != "DequantizeLinear"  # type: ignore[union-attr]
    without, exact = (logits(one, sequence) for one in (both[0], float_bundle))
    assert 0.98 < cosine(logits(both[1], sequence), exact) < 1
    assert not np.array_equal(logits(both[1], sequence), without)
    assert both[1].size_bytes() < both[0].size_bytes()
    with pytest.raises(LeoEdgeError, match="weight-only takes head, lora, router, got patch"):
        QuantizeOptions(weight_only=("patch",))


def test_the_bundle_is_as_much_smaller_as_its_weights(float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
    """A quarter of what was quantized, and 4 bytes a column for scales; all else as it was."""
    bundle = quantized(float_bundle, table, out, method="minmax")
    for name in ("llm", "vision.clip", "vision.sam"):
        model = model_of(float_bundle, name)
        saved = sum(
            3 * int(np.prod(layer.shape)) - 4 * layer.shape[1 if layer.kind == "MatMul" else 0]
            for layer in layers_of(name, model)
            if rule_for(layer) is None
        )
        before, after = (one.manifest.files[f"{name}.onnx.data"].size_bytes for one in (float_bundle, bundle))
        assert before - after == pytest.approx(saved, rel=0.1)


def test_keep_float_keeps_more(float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
    bundle = quantized(float_bundle, table, out, keep_float=("llm.layers.0.*", "vision.sam*"))
    floats = {layer.name for name in ("llm", "vision.sam") for layer in layers_of(name, model_of(bundle, name))}
    assert {"llm.layers.0.attention.q", "llm.layers.0.mlp.up"} <= floats
    assert "llm.layers.1.attention.q" not in floats
    assert bundle.manifest.provenance["quantized"]["kept_float"]["llm.layers.0.*"] == 7
    assert lint_bundle(out, bundle.manifest, targets_of(bundle.manifest)) == []


def test_a_cache_in_int8_is_an_eighth_bit_cache(float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
    bundle = quantized(float_bundle, table, out, kv="int8")
    ports = {port.name: port.dtype for port in (*bundle.manifest.graphs["llm"].inputs, *bundle.manifest.graphs["llm"].outputs)}
    assert {dtype for name, dtype in ports.items() if name.startswith(("past_", "new_"))} == {"int8"}
    answers = [
        open_pipeline(one).ask(open_pipeline(one).encode(random_frames(52)), QUESTIONS[1], AskOptions(6)).token_ids
        for one in (bundle, quantized(float_bundle, table, out.with_name("float-kv")))
    ]
    assert answers[0][0] == answers[1][0]  # the first token sees no cache that was read back


def test_int4_is_for_the_language_model_and_newer_parsers(
    float_bundle: Bundle, table: CalibrationTable, sequence: Forced, out: Path
) -> None:
    bundle = quantized(float_bundle, table, out, weights="int4")
    kinds = {value.dtype for value in model_of(bundle, "llm").graph.initializers.values()}
    assert ir.DataType.INT4 in kinds
    assert ir.DataType.INT4 not in {value.dtype for value in model_of(bundle, "vision.sam").graph.initializers.values()}
    assert [target.name for target in targets_of(bundle.manifest)] == ["jetpack7.2", "trt11"]
    assert lint_bundle(out, bundle.manifest, targets_of(bundle.manifest)) == []
    assert cosine(logits(bundle, sequence), logits(float_bundle, sequence)) > 0.9


def test_weights_alone_need_no_table(float_bundle: Bundle, sequence: Forced, out: Path) -> None:
    bundle = quantized(float_bundle, None, out, method="minmax", activations="none")
    assert not any(node.op_type == "QuantizeLinear" for node in model_of(bundle, "llm").graph)
    assert cosine(logits(bundle, sequence), logits(float_bundle, sequence)) > 0.999
    with pytest.raises(CalibrationError, match="a calibration table is needed for this: only --method minmax"):
        quantized(float_bundle, None, out.with_name("b"), method="minmax")


def test_float16_and_opset_24(micro_bundles: MadeOnce, out: Path) -> None:
    """Scales take the graph's type, which a strongly typed network wants, and integers those scales."""
    bundle = open_bundle(micro_bundles["fused"])
    observer = Observer(bundle, max_new_tokens=2)
    observer.observe(random_frames(1, 1), QUESTIONS[:1], 0)
    table = CalibrationTable(observer.statistics, {"bundle": bundle.id, "range": "minmax"})
    int8 = quantized(bundle, table, out)
    assert lint_bundle(out, int8.manifest, targets_of(int8.manifest)) == []
    scales = [value for value in model_of(int8, "llm").graph.initializers.values() if str(value.name).endswith("scale")]
    assert {value.dtype for value in scales} == {ir.DataType.FLOAT16}
    mine, exact = (open_pipeline(one).encode(random_frames(2, 1)).cameras[0].by_expert["vit"] for one in (int8, bundle))
    assert 0.99 < cosine(mine, exact) < 1


def test_groups_are_those_of_the_paper(float_bundle: Bundle) -> None:
    groups = smooth_groups("llm", model_of(float_bundle, "llm"), float_bundle.manifest.decoder)
    by_consumer = {group.consumers[0].split(".weight")[0]: group for group in groups}
    num_layers = float_bundle.manifest.decoder.num_layers
    assert len(groups) == 4 * num_layers
    assert by_consumer["llm.layers.0.attention.q"].producers == ("llm.layers.0.attention_norm.weight",)
    assert by_consumer["llm.layers.0.attention.out"].heads == (8, 2)
    down = next(group for group in groups if any("mlp.down.down" in name for name in group.consumers))
    assert down.producers == ("llm.layers.0.mlp.up.weight.transpose",)
    assert {name.split(".")[-3] for name in down.consumers} == {"router_in", "lora_a", "down"}


def test_modalities_weigh_what_reaches_the_answer(float_bundle: Bundle, table: CalibrationTable) -> None:
    """Behind the last attention only the last token goes on to the logits, which is text: visual errors there do nothing."""
    groups = smooth_groups("llm", model_of(float_bundle, "llm"), float_bundle.manifest.decoder)
    found = {group.consumers[0].split(".weight")[0]: table.of("llm", group.input).sensitivity for group in groups}
    last = float_bundle.manifest.decoder.num_layers - 1
    for layer, sensitivity in found.items():
        assert sensitivity is not None
        visual, text = sensitivity
        assert text > 0
        after_attention = layer.startswith(f"llm.layers.{last}.") and not layer.endswith("attention.q")
        assert visual == pytest.approx(0, abs=1e-9 * text) if after_attention else visual > 0


def test_divergence_is_that_of_scipy() -> None:
    wanted, got = np.random.default_rng(4).standard_normal((2, 50)) * 3
    assert divergence(wanted, got) == pytest.approx(float(entropy(softmax(wanted), softmax(got))), rel=1e-9)
    assert divergence(wanted, wanted + 5) == pytest.approx(0, abs=1e-12)


def test_onnxruntime_fuses_every_quantized_product(float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
    """Beside their Q/DQ, products must not be made Gemm first, as `OrtSession` sees to it."""
    import onnx
    import onnxruntime as ort

    quantized(float_bundle, table, out)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(out / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(out / "llm.onnx"), options, disabled_optimizers=["MatMulAddFusion"])
    operators = [node.op_type for node in onnx.load(out / "optimized.onnx").graph.node]
    wanted = sum(rule_for(layer) is None for layer in layers_of("llm", model_of(float_bundle, "llm")))
    assert operators.count("MatMulIntegerToFloat") == wanted
    assert "DequantizeLinear" not in operators


class TestRefused:
    def test_a_table_of_another_bundle(self, float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
        other = CalibrationTable(table.statistics, table.provenance | {"bundle": "another"})
        with pytest.raises(CalibrationError, match="the table is of bundle another, got bundle"):
            quantized(float_bundle, other, out)
        assert not out.exists()

    def test_a_table_with_a_missing_tensor(self, float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
        statistics = dict(table.statistics)
        missing = next(key for key in statistics if key[0] == "llm")
        del statistics[missing]
        with pytest.raises(CalibrationError, match=rf"the table lacks {missing[1]} of graph llm: calibrate again"):
            quantized(float_bundle, CalibrationTable(statistics, table.provenance), out)
        assert not out.exists()

    def test_what_is_quantized_already(self, float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
        bundle = quantized(float_bundle, None, out, method="minmax", activations="none")
        with pytest.raises(CalibrationError, match="is quantized already: quantize the float bundle that it was made from"):
            quantized(bundle, None, out.with_name("b"), method="minmax", activations="none")
        with pytest.raises(BundleError, match="exists"):
            quantized(float_bundle, table, out)

    def test_an_int8_cache_of_opset_24(self, micro_bundles: MadeOnce, out: Path) -> None:
        with pytest.raises(CalibrationError, match="--kv int8 needs an opset-20 bundle"):
            quantized(open_bundle(micro_bundles["fused"]), None, out, method="minmax", activations="none", kv="int8")

    def test_mbq_without_sensitivities(self, float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
        statistics = {key: replace(one, sensitivity=None) for key, one in table.statistics.items()}
        with pytest.raises(CalibrationError, match="the table has no sensitivities of modalities, which MBQ needs"):
            quantized(float_bundle, CalibrationTable(statistics, table.provenance), out, method="mbq")

    def test_a_pattern_that_names_no_layer(self, float_bundle: Bundle, table: CalibrationTable, out: Path) -> None:
        with pytest.raises(CalibrationError, match=r"no layer matches 'llm\.layer\.0': expected names or patterns"):
            quantized(float_bundle, table, out, keep_float=("llm.layer.0",))

    @pytest.mark.parametrize("options", [{"weights": "int2"}, {"kv": "fp8"}, {"method": "awq"}, {"alpha": 1.5}])
    def test_options_that_there_are_not(self, options: dict[str, Any]) -> None:
        with pytest.raises(LeoEdgeError, match=r"must be"):
            QuantizeOptions(**options)
