"""export/quantize/sensitivity.py: a layer alone is quantized, and as few layers as needed are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest

from leo_edge.calib.layers import layers_of, rule_for
from leo_edge.calib.observe import Observer
from leo_edge.calib.probe import Probe, effect_on, make_probe
from leo_edge.calib.table import CalibrationTable
from leo_edge.export.quantize.plan import QuantizeOptions
from leo_edge.export.quantize.sensitivity import LayerEffect, layer_effects, layers_to_keep, resolve_auto
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.errors import CalibrationError
from leo_edge.runtime.pipeline import Pipeline, open_pipeline
from tests.conftest import MadeOnce
from tests.export.quantize.conftest import QUESTIONS, random_frames


@pytest.fixture(scope="module")
def micro(micro_bundles: MadeOnce) -> Bundle:
    return open_bundle(micro_bundles["plain"])


@pytest.fixture(scope="module")
def micro_table(micro: Bundle) -> CalibrationTable:
    observer = Observer(micro, max_new_tokens=2)
    observer.observe(random_frames(1, 1), QUESTIONS, 0)
    return CalibrationTable(observer.statistics, {"bundle": micro.id, "range": "minmax"})


@pytest.fixture(scope="module")
def pipeline(micro: Bundle) -> Pipeline:
    return open_pipeline(micro)


@pytest.fixture(scope="module")
def probes(pipeline: Pipeline) -> list[Probe]:
    return [make_probe(pipeline, random_frames(2, 1), [(QUESTIONS[0], None)])]


@pytest.fixture(scope="module")
def effects(pipeline: Pipeline, micro_table: CalibrationTable, probes: list[Probe]) -> list[LayerEffect]:
    return [one for _, one in layer_effects(pipeline, micro_table, probes, QuantizeOptions())]


def test_the_float_model_has_no_effect(pipeline: Pipeline, probes: list[Probe]) -> None:
    effect = effect_on(pipeline, probes)
    assert effect.kl < 1e-9
    assert (effect.tokens_equal, effect.answers_equal, effect.drop) == (1.0, 1.0, None)


def test_every_quantized_layer_has_one(micro: Bundle, effects: list[LayerEffect]) -> None:
    layers = [
        layer
        for name, spec in micro.manifest.graphs.items()
        for layer in layers_of(name, ir.load(micro.path(spec.file)))
        if rule_for(layer) is None
    ]
    assert [one.layer for one in effects] == [layer.name for layer in layers]
    assert sum(one.share for one in effects) == pytest.approx(1)
    assert all(0 <= one.effect.kl < 0.5 for one in effects)
    assert sum(one.effect.kl > 1e-12 for one in effects) > 0.8 * len(effects)


def test_a_layer_whose_scale_is_wrong_stands_out(
    pipeline: Pipeline, micro_table: CalibrationTable, probes: list[Probe]
) -> None:
    """What the language model's output projection reads is given a hundredth of its range."""
    layer = next(one for one in layers_of("llm", _llm(pipeline)) if one.name == "llm.layers.0.attention.out")
    statistics = dict(micro_table.statistics)
    one = statistics["llm", layer.input]
    histogram = type(one.histogram)(one.histogram.counts, one.histogram.width / 100, one.histogram.largest / 100)
    statistics["llm", layer.input] = replace(one, histogram=histogram)
    broken = CalibrationTable(statistics, micro_table.provenance)
    minmax = QuantizeOptions(method="minmax")
    wrong = {e.layer: e.effect.kl for _, e in layer_effects(pipeline, broken, probes, minmax) if e.layer.startswith("llm.")}
    right = {
        e.layer: e.effect.kl for _, e in layer_effects(pipeline, micro_table, probes, minmax) if e.layer.startswith("llm.")
    }
    assert wrong.pop(layer.name) > 20 * right.pop(layer.name)
    assert wrong == pytest.approx(right, rel=1e-6)


def _llm(pipeline: Pipeline) -> ir.Model:
    return ir.load(pipeline.bundle.path("llm.onnx"))


def effect(layer: str, drop: float | None, kl: float = 1e-3, equal: float = 1.0) -> dict[str, Any]:
    return {"layer": layer, "share": 0.1, "kl": kl, "tokens_equal": 1.0, "answers_equal": equal, "drop": drop}


class TestAuto:
    EFFECTS = (effect("a", 1.25), effect("b", 0.25), effect("c", -1.0), effect("d", 0.5))

    @pytest.mark.parametrize(("max_drop", "kept"), [(2.0, ()), (0.75, ("a",)), (0.5, ("a", "d")), (0.0, ("a", "d", "b"))])
    def test_as_few_as_needed_are_kept(self, max_drop: float, kept: tuple[str, ...]) -> None:
        assert layers_to_keep(self.EFFECTS, max_drop) == kept

    def test_without_truths_changed_answers_count(self) -> None:
        effects = [effect("a", None, equal=0.9), effect("b", None, equal=1.0)]
        assert layers_to_keep(effects, 0.5) == ("a",)

    def test_it_stands_beside_other_patterns(self) -> None:
        table = CalibrationTable({}, {"bundle": "x", "layers": list(self.EFFECTS)})
        options = resolve_auto(QuantizeOptions(keep_float=("llm.x", "auto")), table, 0.75)
        assert options.keep_float == ("llm.x", "a")
        assert resolve_auto(QuantizeOptions(keep_float=("llm.x",)), None, 0.5).keep_float == ("llm.x",)

    def test_refused(self) -> None:
        with pytest.raises(CalibrationError, match=r"--keep-float auto needs what every layer does: run `leo-edge sensitivity"):
            resolve_auto(QuantizeOptions(keep_float=("auto",)), CalibrationTable({}, {"bundle": "x"}), 0.5)
        with pytest.raises(CalibrationError, match="--max-drop must be 0 or more points, got -1"):
            layers_to_keep(self.EFFECTS, -1)
