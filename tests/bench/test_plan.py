"""bench/plan*.py and published.py: predictions, the search, calibration; on a model whose cost is a formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from leo_edge.bench.devices import find_device
from leo_edge.bench.plan import Asked, Choice, Fit, Predictor, encoded_cameras, pareto_front, predict, search, tile_choices
from leo_edge.bench.plan_fit import calibrate, check, fit, setting_of
from leo_edge.bench.plan_report import check_text, parameters_text, plan_text, published_text
from leo_edge.bench.plan_work import GraphWork, ModelFacts, Setting, WorkCounter
from leo_edge.bench.published import beside_published
from leo_edge.bench.result import BenchResult, Load, StageSamples
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.manifest import DecoderManifest, ExpertManifest, FuseManifest
from leo_edge.runtime.tiles import TilingConfig
from tests.bench.made_results import LOAD, made_result

G = 1e9
ORIN = find_device("jetson-agx-orin-64")
WIDTH, VOCAB, KV_BYTES = 1024, 32000, 4096


def cost(graph: str, dims: Mapping[str, int]) -> GraphWork:
    """What a graph costs: a language model of 2 G parameters with attention, an expert of 100 GFLOP a tile."""
    if graph == "vision.vit":
        return GraphWork(100 * G * dims["T"], 0.6 * G, dims["T"] * 1e6)
    if graph == "fuse":
        return GraphWork(1e6 * dims["I"] * dims["M_vit"], 1e7, 1e3 * dims["I"])
    new, past = dims["S"], dims["P"]
    flops = 2 * VOCAB * WIDTH + 4 * G * new + 1e5 * new * (new + past)
    return GraphWork(flops, 4 * G, 2 * VOCAB + new * (2 * WIDTH + KV_BYTES) + past * KV_BYTES)


FACTS = ModelFacts(
    family="leo_mini",
    experts=(ExpertManifest("vit", 256, WIDTH),),
    tiling=TilingConfig(448, 1, 6, use_thumbnail=True),
    fuse=FuseManifest("image", 64, uses_text=True),
    decoder=DecoderManifest("prefix", 24, 8, 64, WIDTH, VOCAB, 2048, routed=False),
    graphs={"vision.vit": ("T",), "fuse": ("I", "M_vit"), "llm": ("S", "P")},
    precisions=dict.fromkeys(("vision.vit", "fuse", "llm"), "float16"),
    linear_parameters={"vision.vit": 300_000_000, "llm": 1_900_000_000},
    embedding_bytes=2 * VOCAB * WIDTH,
    float_bytes=2,
)
COUNTER = WorkCounter(FACTS, cost)
SETTING = Setting(6, 6, 7, 384, 150, 12, 32)
ASKED = Asked(6, 150, 12, 32, 500.0, precisions=("float16", "int8", "int4"))


def test_a_few_counts_tell_every_size_exactly() -> None:
    for setting in (SETTING, replace(SETTING, encoded_cameras=2, tiles=3, visual_tokens=96, answer_tokens=4)):
        work = {stage.stage: stage for stage in COUNTER.stages(setting)}
        tiles, prompt = setting.encoded_cameras * setting.tiles, setting.prompt_tokens
        past = prompt + setting.answer_tokens // 2
        direct = {
            "vision.vit": cost("vision.vit", {"T": tiles}),
            "fuse": cost("fuse", {"I": setting.cameras, "M_vit": 256 * setting.tiles}),
            "prefill": cost("llm", {"S": prompt, "P": 0}),
            "decode": cost("llm", {"S": 1, "P": past}),
        }
        for stage, wanted in direct.items():
            assert work[stage].flops == pytest.approx(wanted.flops, rel=1e-12)
            assert work[stage].moved_bytes == pytest.approx(wanted.weight_bytes + wanted.port_bytes, rel=1e-12)
    assert list(work) == ["tiles", "vision.vit", "prompt", "fuse", "prefill", "decode"]


def test_a_cache_in_place_is_counted_at_its_whole_length() -> None:
    def scatter(graph: str, dims: Mapping[str, int]) -> GraphWork:
        if graph != "llm":
            return cost(graph, dims)
        return GraphWork(5 + 7 * dims["S"] + 3 * dims["S"] * dims["C"], 100, 10 * dims["S"] + 20 * dims["C"])

    facts = replace(FACTS, decoder=replace(FACTS.decoder, cache="scatter"), graphs={**FACTS.graphs, "llm": ("S", "C")})
    for cache_len, room in ((None, 2048), (512, 512)):
        work = {stage.stage: stage for stage in WorkCounter(facts, scatter).stages(replace(SETTING, cache_len=cache_len))}
        assert work["decode"].flops == 5 + 7 + 3 * room
        assert work["decode"].moved_bytes == 100 + 10 + 20 * room
        assert work["prefill"].flops == 5 + (7 + 3 * room) * SETTING.prompt_tokens


def test_precision_changes_the_weights_that_quantize_would_change() -> None:
    work = {
        precision: {stage.stage: stage for stage in COUNTER.stages(replace(SETTING, precision=precision))}
        for precision in ("float16", "int8", "int4")
    }
    read = {precision: stages["decode"].moved_bytes for precision, stages in work.items()}
    assert read["float16"] - read["int8"] == 1.9 * G
    assert read["float16"] - read["int4"] == pytest.approx(1.9 * G * (1.5 - 2 / 128))
    assert [work[precision]["prefill"].precision for precision in work] == ["float16", "int8", "float16"]
    assert [work[precision]["vision.vit"].precision for precision in work] == ["float16", "int8", "int8"]
    memory = [COUNTER.memory_bytes(replace(SETTING, precision=precision)) for precision in work]
    assert memory == sorted(memory, reverse=True)


def test_a_stage_takes_its_products_or_its_bytes_and_an_overhead() -> None:
    predictor = Predictor(ORIN)
    work = {stage.stage: stage for stage in COUNTER.stages(SETTING)}
    assert predictor.stage_ms(work["vision.vit"]) == pytest.approx(4200 * G / (43e12 * 0.52) * 1e3 + 0.5)
    assert predictor.stage_ms(work["decode"]) == pytest.approx(work["decode"].moved_bytes / (204.8 * G * 0.7) * 1e3 + 0.5)
    predicted = predict(COUNTER, SETTING, predictor, questions=2)
    times = predicted.stages_ms
    question_ms = times["prompt"] + times["fuse"] + times["prefill"] + 31 * times["decode"]
    assert predicted.answer_ms == pytest.approx(times["tiles"] + times["vision.vit"] + 2 * question_ms)
    slower = predict(COUNTER, SETTING, Predictor(find_device("jetson-agx-orin-64", "15w")), questions=2)
    assert slower.stages_ms["vision.vit"] > 5 * times["vision.vit"]
    assert slower.stages_ms["decode"] == pytest.approx(times["decode"], rel=0.1)


def test_the_search_keeps_what_it_can_and_gives_up_tiles_first() -> None:
    assert tile_choices(COUNTER, (1600, 900)) == ((6, 3), (1, 1))  # 2 x 1 tiles and a thumbnail
    assert tile_choices(COUNTER, (900, 900)) == ((6, 5), (3, 1))
    easy = search(COUNTER, replace(ASKED, deadline_ms=60_000), Predictor(ORIN))
    assert easy.best is not None
    assert easy.best.kept == max(choice.kept for choice in easy.choices)
    assert len(easy.front) == 1
    tight = search(COUNTER, replace(ASKED, deadline_ms=750), Predictor(ORIN))
    assert tight.best is not None
    assert tight.best.answer_tokens == 32
    assert len(tight.front) > 1
    for choice in tight.front:
        assert choice.prediction.answer_ms <= 750
        better = [other for other in tight.choices if other.kept != choice.kept and _at_least(other, choice)]
        assert all(other.prediction.answer_ms > 750 for other in better)
    none = search(COUNTER, replace(ASKED, deadline_ms=1), Predictor(ORIN))
    assert (none.best, none.front) == (None, ())
    assert "nothing meets 1 ms (predicted): the fastest of" in plan_text(none, replace(ASKED, deadline_ms=1))


def _at_least(one: Choice, other: Choice) -> bool:
    return all(mine >= yours for mine, yours in zip(one.kept, other.kept, strict=True))


def test_memory_that_a_device_lacks_is_not_planned_with() -> None:
    small = replace(ORIN, memory_gb=4.5)
    plan = search(COUNTER, replace(ASKED, deadline_ms=60_000), Predictor(small))
    assert plan.best is not None
    assert plan.best.precision in ("int8", "int4")
    assert search(COUNTER, ASKED, Predictor(replace(ORIN, memory_gb=1.5))).best is None


def test_the_front_drops_what_is_equalled_at_less_time() -> None:
    plan = search(COUNTER, replace(ASKED, deadline_ms=60_000), Predictor(ORIN))
    one = plan.choices[0]
    slower = replace(one, prediction=replace(one.prediction, answer_ms=one.prediction.answer_ms + 1))
    less = replace(one, answer_tokens=8)
    assert pareto_front([slower, less, one]) == (one,)
    assert [encoded_cameras(6, every) for every in (1, 2, 3, 6)] == [6, 4, 3, 2]


def test_what_to_paste_holds_what_is_given_up() -> None:
    plan = search(COUNTER, ASKED, Predictor(ORIN))
    choice = replace(plan.choices[0], max_tiles=3, side_every=2, visual_share=0.5, answer_tokens=16)
    assert parameters_text(choice, ASKED, 6) == (
        "/**:\n  ros__parameters:\n    deadline_ms: 500.0\n    max_new_tokens: 16\n"
        '    degrade: ["max_tiles=3", "side_every=2", "visual_tokens=0.5"]'
    )
    assert "degrade" not in parameters_text(replace(choice, side_every=1, visual_share=1.0), ASKED, 3)


def measured(load: Load, *, fixed_ms: float = 2.0, scale: float = 3.0, spoil: float = 1.0) -> BenchResult:
    """A result of a machine on which every stage takes `fixed_ms` and `scale` times the roofline."""
    works = COUNTER.stages(setting_of(load))
    times = {work.stage: (fixed_ms + scale * Predictor(ORIN).roofline_ms(work)) * spoil for work in works}
    stages = {work.stage: StageSamples(work.per, (times[work.stage],) * 3) for work in works}
    answer_ms = sum(times[work.stage] * (load.answer_tokens - 1 if work.per == "token" else 1) for work in works) + 5.0 * spoil
    return made_result({**stages, "answer": StageSamples("frame set", (answer_ms,) * 3)}, load=load)


SMALL = replace(LOAD, cameras=2, tiles_per_camera=1, visual_tokens=128, answer_tokens=4)
OTHER = replace(LOAD, cameras=4, tiles_per_camera=7, visual_tokens=256, answer_tokens=20)


def test_one_result_is_predicted_itself_and_several_tell_the_fixed_part() -> None:
    one = calibrate([measured(LOAD)], COUNTER.stages, ORIN)
    assert check(measured(LOAD), COUNTER.stages, one).whole.error == pytest.approx(0, abs=1e-9)
    assert check(measured(SMALL), COUNTER.stages, one).whole.error < -0.01
    two = calibrate([measured(LOAD), measured(SMALL)], COUNTER.stages, ORIN)
    held_out = check(measured(OTHER), COUNTER.stages, two)
    assert held_out.whole.error == pytest.approx(0, abs=1e-6)
    assert two.fits["vision.vit"] == Fit(pytest.approx(2.0), pytest.approx(3.0))  # type: ignore[arg-type]
    assert two.rest_ms == pytest.approx(5.0)


def test_a_prediction_that_is_off_fails_the_check() -> None:
    predictor = calibrate([measured(LOAD), measured(SMALL)], COUNTER.stages, ORIN)
    good, bad = (check(measured(OTHER, spoil=spoil), COUNTER.stages, predictor) for spoil in (1.1, 1.4))
    assert (good.passed, bad.passed) == (True, False)
    assert "the whole is within 20% off" in check_text([good])
    assert "the whole is MORE than 20% off" in check_text([bad])


def test_a_fit_has_no_part_below_zero() -> None:
    assert fit([(1.0, 5.0), (2.0, 4.0)]) == Fit(pytest.approx(160 / 36.0, rel=0.05), 0.0)  # type: ignore[arg-type]
    assert fit([(1.0, 1.0), (2.0, 4.0)]).fixed_ms == 0
    assert fit([(0.0, 3.0)]) == Fit(3.0, 0.0)
    assert fit([(2.0, 3.0), (2.0, 3.0)]) == Fit(0.0, 1.5)


def test_results_that_do_not_go_together_are_refused() -> None:
    lacking = replace(measured(LOAD), stages={"answer": StageSamples("frame set", (1.0,))})
    with pytest.raises(LeoEdgeError, match=r"has no stage tiles, vision\.vit"):
        calibrate([lacking], COUNTER.stages, ORIN)
    with pytest.raises(LeoEdgeError, match="was measured with savings: measure it without"):
        calibrate([replace(measured(LOAD), savings=True)], COUNTER.stages, ORIN)
    other = replace(measured(SMALL), machine=replace(measured(SMALL).machine, threads=1))
    with pytest.raises(LeoEdgeError, match=r"results of one machine and engine, got .*1 threads.*4 threads"):
        calibrate([measured(LOAD), other], COUNTER.stages, ORIN)


def test_published_figures_stand_beside_ours() -> None:
    figures = beside_published(ORIN)
    assert max(abs(one.error) for one in figures) < 0.15
    assert {one.figure.used_for for one in figures} == {"", "gemm_fp16", "runtime_gb"}
    text = published_text(figures)
    assert text.count("held out") == 5
    half = beside_published(replace(ORIN, bandwidth_gb_s=102.4))
    assert max(abs(one.error) for one in half) > 0.4
