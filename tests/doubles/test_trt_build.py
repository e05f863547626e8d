"""Parser and builder: what they refuse, and what a plan holds."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import PRODUCT_PROFILE, build, cache_update, graph, new_log, parsed, product
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4

ROWS = ("x", TensorProto.FLOAT, ["N", 4])
OUT = ("y", TensorProto.FLOAT, ["N", 4])
ALL = (TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4)


def quantized(point: int, *, scale_type: Any = np.float32) -> bytes:
    """x -> QuantizeLinear -> DequantizeLinear -> y."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    out = ("y", TensorProto.FLOAT if scale_type is np.float32 else TensorProto.FLOAT16, ["N", 4])
    return graph(nodes, [ROWS], [out], {"s": np.array(0.5, scale_type), "z": np.array(point, np.int8)})


def scatter(**attributes: Any) -> bytes:
    node = helper.make_node("ScatterND", ["x", "at", "rows"], ["y"], **attributes)
    inputs = [("x", TensorProto.FLOAT, [4, 4]), ("at", TensorProto.INT64, [2, 1]), ("rows", TensorProto.FLOAT, [2, 4])]
    return graph([node], inputs, [("y", TensorProto.FLOAT, [4, 4])])


def one(operator: str, opset: int = 20, **attributes: Any) -> bytes:
    return graph([helper.make_node(operator, ["x"], ["y"], **attributes)], [ROWS], [OUT], opset=opset)


REFUSED = {
    "an operator that has no importer": (one("Bernoulli"), ALL, "Plugin not found"),
    "an operator of another domain": (one("Gelu", domain="com.microsoft"), ALL, "Plugin not found"),
    "an opset of later": (one("Relu", opset=24), (TENSORRT_10_3,), "opset 24"),
    "bytes inside": (
        graph([helper.make_node("Identity", ["x"], ["y"])], [("x", TensorProto.UINT8, [4])], [("y", TensorProto.UINT8, [4])]),
        ALL,
        "UINT8",
    ),
    "a zero point": (quantized(3), ALL, "symmetric quantization"),
    "a reduction, even none": (scatter(reduction="none"), (TENSORRT_10_3,), "reduction"),
    "a reduction that adds": (scatter(reduction="add"), ALL, "reduction"),
    "updating in place": (cache_update(64), (TENSORRT_10_3,), "opset 24"),
}


@pytest.mark.parametrize("release", ALL)
@pytest.mark.parametrize("what", REFUSED)
def test_the_parser_refuses(what: str, release: str, edge_machine: InstallMachine) -> None:
    model, releases, text = REFUSED[what]
    edge_machine(tensorrt=release)
    log = new_log()
    _, network, parser = parsed(log, model)
    assert (parser.num_errors > 0) == (release in releases)
    if release in releases:
        assert text in parser.get_error(0).desc()
        assert parser.get_error(0).desc() in log.texts
        assert network.num_inputs == 0


@pytest.mark.parametrize(("model", "named"), [(one("Relu"), ""), (quantized(0), ""), (scatter(), "")])
def test_the_parser_takes(model: bytes, named: str, edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_3)
    log = new_log()
    _, network, parser = parsed(log, model)
    assert (parser.num_errors, log.texts, network.get_input(0).name) == (0, [], named or "x")


def test_attention_is_without_a_cache_of_its_own(edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=TENSORRT_10_16)
    shape = [1, 2, 4, 8]
    ports = [(name, TensorProto.FLOAT, shape) for name in "qkv"]
    plain = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    kept = helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"])
    past = [(name, TensorProto.FLOAT, shape) for name in ("pk", "pv")]
    assert parsed(new_log(), graph([plain], ports, [("y", TensorProto.FLOAT, shape)], opset=24))[2].num_errors == 0
    parser = parsed(new_log(), graph([kept], ports + past, [("y", TensorProto.FLOAT, shape)], opset=24))[2]
    assert "past_key" in parser.get_error(0).desc()


@pytest.mark.parametrize(
    ("profiles", "text"),
    [
        ([], "no optimization profile has been defined"),
        ([{}], "x: dynamic input is missing dimensions in profile 0"),
        ([{"x": ((1,), (2,), (8,))}], "x: number of dimensions is 2 but profile 0 has 1"),
        ([{"x": ((1, 2), (2, 4), (8, 4))}], "for dimension number 1 in profile 0 does not match network definition"),
        ([PRODUCT_PROFILE, {**PRODUCT_PROFILE, "z": ((1,), (1,), (1,))}], "profile 1 has z, which is no input"),
        ([PRODUCT_PROFILE], None),
    ],
)
def test_every_dynamic_input_needs_a_range(profiles: Any, text: str | None, edge_machine: InstallMachine) -> None:
    edge_machine()
    log = new_log()
    plan = build(log, product(), profiles)
    assert (plan is None) == (text is not None)
    assert text is None or text in log.texts[-1]


def test_a_range_has_an_order(edge_machine: InstallMachine) -> None:
    edge_machine()
    profile = parsed(new_log(), product())[0].create_optimization_profile()
    with pytest.raises(ValueError, match="Shape provided for opt is inconsistent"):
        profile.set_shape("x", (2, 4), (1, 4), (8, 4))
    assert not profile
    profile.set_shape("x", (1, 4), (2, 4), (8, 4))
    assert profile
    with pytest.raises(ValueError, match="Shape provided for min is inconsistent"):
        profile.set_shape("x", (1,), (2,), (8,))


def test_a_static_shape_needs_no_profile(edge_machine: InstallMachine) -> None:
    edge_machine()
    log = new_log()
    assert build(log, product(), static={"x": (2, 4)}) is not None
    assert log.texts == []


def test_sizes_of_one_name_must_be_equal_in_a_profile(edge_machine: InstallMachine) -> None:
    edge_machine()
    node = helper.make_node("Add", ["x", "z"], ["y"])
    model = graph([node], [ROWS, ("z", TensorProto.FLOAT, ["N", 4])], [OUT])
    log = new_log()
    ranges = PRODUCT_PROFILE["x"]
    assert build(log, model, [{"x": ranges, "z": ranges}]) is not None
    assert build(log, model, [{"x": ranges, "z": ((1, 4), (2, 4), (9, 4))}]) is None
    assert "dimensions named N have different sizes 8 and 9" in log.texts[-1]


@pytest.mark.parametrize("release", [TENSORRT_10_16, TENSORRT_11_4])
def test_a_cache_in_place_has_a_static_capacity(release: str, edge_machine: InstallMachine) -> None:
    edge_machine(tensorrt=release)
    log = new_log()
    rows = {"rows": ((1, 2, 1, 8), (1, 2, 1, 8), (1, 2, 4, 8))}
    past = {"past": ((1, 2, 8, 8), (1, 2, 8, 8), (1, 2, 64, 8))}
    assert build(log, cache_update(), [rows | past]) is None
    assert "The KV cache tensor must have a static sequence length dimension" in log.texts[-1]
    assert build(log, cache_update(), [rows], static={"past": (1, 2, 64, 8)}) is not None


def test_a_weakly_typed_network_is_warned_of_in_10_and_does_not_exist_in_11(edge_machine: InstallMachine) -> None:
    from tests.doubles.trt.plan import read_plan

    for release, strongly in ((TENSORRT_10_3, False), (TENSORRT_11_4, True)):
        edge_machine(tensorrt=release)
        log = new_log()
        builder, network, _ = parsed(log, product(rows=2), flags=0)
        plan = builder.build_serialized_network(network, builder.create_builder_config())
        assert read_plan(bytes(plan)).strongly_typed == strongly
        assert any("weakly typed" in text for text in log.texts) != strongly


def test_int8_needs_its_flag_in_a_weakly_typed_network_and_must_not_have_it_in_a_strongly_typed_one(
    edge_machine: InstallMachine,
) -> None:
    edge_machine(tensorrt=TENSORRT_10_3)
    import tensorrt

    strong = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    for flags, flagged, built in ((0, False, False), (0, True, True), (strong, True, False), (strong, False, True)):
        log = new_log()
        builder, network, _ = parsed(log, quantized(0), flags=flags)
        network.get_input(0).shape = (2, 4)
        config = builder.create_builder_config()
        if flagged:
            config.set_flag(tensorrt.BuilderFlag.INT8)
        assert (builder.build_serialized_network(network, config) is not None) == built, (flags, flagged, log.texts)


class Watch:
    """What a monitor was told, and by which threads. `stop`: the answer to the n-th step is no."""

    def __init__(self, stop: int | None = None) -> None:
        import tensorrt

        watch = self
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self.steps = 0

        class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc,unused-ignore]
            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                watch.threads.add(threading.get_ident())
                watch.told.append(("start", (phase_name, parent_phase, num_steps)))

            def step_complete(self, phase_name: str, step: int) -> bool:
                watch.threads.add(threading.get_ident())
                watch.told.append(("step", (phase_name, step)))
                watch.steps += 1
                return watch.steps != stop

            def phase_finish(self, phase_name: str) -> None:
                watch.told.append(("finish", phase_name))

        self.monitor = Monitor()


def built_with(monitor: Any, log: Any) -> Any:
    builder, network, _ = parsed(log, product(rows=2))
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    return builder.build_serialized_network(network, config)


def test_progress_is_told_from_several_threads(edge_machine: InstallMachine) -> None:
    edge_machine(step_seconds=0.001)
    watch = Watch()
    assert built_with(watch.monitor, new_log()) is not None
    started = [what[0] for kind, what in watch.told if kind == "start"]
    assert sorted(started) == sorted(what for kind, what in watch.told if kind == "finish")
    assert len(watch.threads) == 3
    assert watch.told[0] == ("start", (started[0], None, 4))
    assert all(what[1] == started[0] for kind, what in watch.told[1:] if kind == "start")


def test_a_monitor_that_says_no_ends_the_build(edge_machine: InstallMachine) -> None:
    edge_machine()
    watch, log = Watch(stop=2), new_log()
    assert built_with(watch.monitor, log) is None
    assert watch.steps < 12
    assert "cancelled" in log.texts[-1]


def test_what_a_monitor_raises_is_swallowed_and_ends_the_build(
    edge_machine: InstallMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    edge_machine()
    import tensorrt

    class Failing(tensorrt.IProgressMonitor):  # type: ignore[misc,unused-ignore]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
        def phase_finish(self, phase_name: str) -> None: ...
        def step_complete(self, phase_name: str, step: int) -> bool:
            raise KeyboardInterrupt(phase_name, step)

    assert built_with(Failing(), new_log()) is None
    assert "Exception caught in step_complete()" in capsys.readouterr().err


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Hears interrupts, where they are ignored too, as in a shell's background."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("watched", [True, False])
def test_ctrl_c_during_a_build_is_swallowed_by_the_next_callback_and_without_one_comes_after_the_build(
    watched: bool, edge_machine: InstallMachine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edge_machine(step_seconds=0.05)
    naps: list[float] = []

    def nap(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            signal.raise_signal(signal.SIGINT)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", nap)
    if watched:
        assert built_with(Watch().monitor, new_log()) is None
        assert "Exception caught in step_complete(): KeyboardInterrupt" in capsys.readouterr().err
    else:
        with pytest.raises(KeyboardInterrupt):
            built_with(None, new_log())
        assert len(naps) == 3 * 4


@pytest.mark.parametrize(
    ("fault", "text"), [("build-memory", "could not be allocated"), ("build-fails", "Could not find any implementation")]
)
def test_a_build_can_fail(fault: str, text: str, edge_machine: InstallMachine) -> None:
    edge_machine(faults=(fault,))
    log = new_log()
    assert build(log, product(rows=2)) is None
    assert any(text in one for one in log.texts)


def test_a_timing_cache_is_filled_and_belongs_to_release_and_device(edge_machine: InstallMachine) -> None:
    edge_machine()
    builder, network, _ = parsed(new_log(), product(rows=2))
    config = builder.create_builder_config()
    cache = config.create_timing_cache(b"")
    empty = bytes(cache.serialize())
    assert config.get_timing_cache() is None
    assert config.set_timing_cache(cache, ignore_mismatch=False)
    builder.build_serialized_network(network, config)
    kept = bytes(config.get_timing_cache().serialize())
    assert len(kept) > len(empty)
    for release, compute, ignore, taken in (
        ("10.3.0", (8, 7), False, True),
        ("10.3.0", (8, 9), False, False),
        ("10.3.0", (8, 9), True, True),
        (TENSORRT_10_16, (8, 7), True, False),
    ):
        edge_machine(tensorrt=release, compute_capability=compute)
        other = parsed(new_log(), product(rows=2))[0].create_builder_config()
        assert other.set_timing_cache(other.create_timing_cache(kept), ignore_mismatch=ignore) == taken
    assert other.create_timing_cache(b"nonsense") is None


def test_limits_beyond_the_device_are_not_taken(edge_machine: InstallMachine) -> None:
    edge_machine(total_memory_bytes=1 << 30)
    import tensorrt

    log = new_log()
    config = parsed(log, product())[0].create_builder_config()
    pool = tensorrt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool, 1 << 29)
    config.set_memory_pool_limit(pool, 1 << 31)
    config.builder_optimization_level = 6
    assert config.get_memory_pool_limit(pool) == 1 << 29
    assert config.builder_optimization_level == 3
    assert len(log.texts) == 2


def test_an_input_whose_values_become_shapes_is_said_to_be_beyond_the_double(edge_machine: InstallMachine) -> None:
    edge_machine()
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    inputs = [("x", TensorProto.FLOAT, [2, 4]), ("shape", TensorProto.INT64, [2])]
    model = graph([node], inputs, [("y", TensorProto.FLOAT, ["A", "B"])])
    with pytest.raises(NotImplementedError, match="takes a shape from the values of input shape"):
        build(new_log(), model)


def test_external_weights_are_found_beside_the_file(edge_machine: InstallMachine, tmp_path: Any) -> None:
    edge_machine()
    path = tmp_path / "graph.onnx"
    model = onnx.load_model_from_string(product(rows=2))
    onnx.save_model(model, str(path), save_as_external_data=True, location="graph.data", size_threshold=0)
    import tensorrt

    def fresh() -> Any:
        builder = tensorrt.Builder(new_log())
        return tensorrt.OnnxParser(builder.create_network(0), new_log())

    assert fresh().parse_from_file(str(path))
    assert not fresh().parse(path.read_bytes())
    assert fresh().parse(path.read_bytes(), str(path))


def test_a_network_is_filled_once(edge_machine: InstallMachine) -> None:
    edge_machine()
    parser = parsed(new_log(), product())[2]
    assert not parser.parse(product())
    assert "non-empty network" in parser.get_error(0).desc()
