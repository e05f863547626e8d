"""runtime/trt.py on a double of TensorRT and CUDA that runs the plans' graphs in onnxruntime: answers are equal to the token.

The double keeps to the real modules' signatures and rules (tests/doubles). What it cannot show is that TensorRT itself computes
the same, and how fast: `leo-edge device-check` shows that, on a device.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leo_edge.export.build import BuildOptions, build_engines
from leo_edge.runtime.backend import Logits
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.errors import BackendError, ContextOverflowError
from leo_edge.runtime.pipeline import AskOptions, Pipeline, open_pipeline
from tests.doubles.fixtures import InstallMachine
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4, Machine
from tests.runtime.trt_bundles import MICRO, QUESTIONS, WIDE, Bundles, Kind, frames

OPTIONS = AskOptions(max_new_tokens=12)
KINDS = [
    *(
        Kind(preset, opset, precision)
        for preset in ("leo-tiny", "leo-mini-tiny")
        for opset in (20, 24)
        for precision in ("fp32", "int8")
    ),
    Kind(MICRO, 20, "fp16"),
    Kind(MICRO, 20, "int8-kv"),
    Kind(WIDE),
]
Built = Callable[..., Bundle]


@pytest.fixture
def built(edge_machine: InstallMachine, small_bundles: Bundles, tmp_path: Path) -> Iterator[Built]:
    """Installs a machine, copies a bundle to it and builds its engines."""

    def build(kind: Kind, options: BuildOptions | None = None, **machine: Any) -> Bundle:
        edge_machine(**{"tensorrt": TENSORRT_10_3 if kind.opset == 20 else TENSORRT_10_16} | machine)
        bundle = open_bundle(small_bundles.fresh(kind, tmp_path / "bundle"))
        build_engines(bundle, options or BuildOptions(), lambda _: None)
        return bundle

    yield build
    gc.collect()


def answers(pipeline: Pipeline, seed: int = 0, cameras: int = 6, size: tuple[int, int] = (160, 90)) -> list[tuple[int, ...]]:
    tokens = pipeline.encode(frames(seed, cameras, size))
    return [pipeline.ask(tokens, question, OPTIONS).token_ids for question in QUESTIONS]


class TestAnswers:
    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_are_those_of_onnxruntime_token_for_token(self, built: Built, kind: Kind) -> None:
        bundle = built(kind)
        device, reference = open_pipeline(bundle, "trt"), open_pipeline(bundle, "ort")
        assert device.backend.startswith("TensorRT 10.")
        assert reference.backend.startswith("onnxruntime")
        for seed, cameras in ((0, 6), (1, 2), (2, 6)):
            assert answers(device, seed, cameras) == answers(reference, seed, cameras)
        assert device.ask(None, QUESTIONS[0], OPTIONS).token_ids == reference.ask(None, QUESTIONS[0], OPTIONS).token_ids

    @pytest.mark.parametrize("version", [TENSORRT_10_16, TENSORRT_11_4])
    def test_are_the_same_with_newer_releases(self, built: Built, version: str) -> None:
        bundle = built(Kind(MICRO), tensorrt=version)
        assert answers(open_pipeline(bundle, "trt")) == answers(open_pipeline(bundle, "ort"))

    def test_depend_on_what_the_engines_hold(self, built: Built) -> None:
        """The negative control: what is compared is not the reference by another name."""
        bundle = built(Kind(MICRO))
        reference = answers(open_pipeline(bundle, "ort"))
        other = open_pipeline(bundle, "trt")
        other.table._rows = -other.table._rows
        assert answers(other) != reference


def led(pipeline: Pipeline, embeds: Any, token_ids: list[int]) -> list[Logits]:
    """Returns the logits of a prompt and of tokens behind it."""
    routing = pipeline.prepare(None, "?", 1).routing
    return [pipeline.decoder.prefill(embeds, routing), *(pipeline.decoder.step(one) for one in token_ids)]


class TestDecoder:
    @pytest.mark.parametrize("kind", [Kind(MICRO), Kind(WIDE), Kind("leo-mini-tiny", 24), Kind("leo-tiny", 24)], ids=str)
    def test_across_length_buckets_and_pieces_of_the_prompt(self, built: Built, kind: Kind) -> None:
        bundle = built(kind)
        device, reference = open_pipeline(bundle, "trt"), open_pipeline(bundle, "ort")
        random = np.random.default_rng(3)
        width = bundle.manifest.decoder.hidden_size
        for length, steps in ((250, 12), (700, 4), (3, 2), (508, 8)):  # the first and the last cross a bucket while they decode
            embeds = random.standard_normal((length, width)).astype(np.float32) / 8
            token_ids = random.integers(0, 256, steps).tolist()
            wanted = led(reference, embeds, token_ids)
            for got, logits in zip(led(device, embeds, token_ids), wanted, strict=True):
                np.testing.assert_allclose(got, logits, atol=2e-5 * float(np.abs(logits).max()))
            assert np.abs(wanted[-1] - wanted[-2]).max() > 1e-3

    def test_a_prompt_forgets_the_one_before(self, built: Built) -> None:
        device = open_pipeline(built(Kind(WIDE)), "trt")
        first = answers(device)
        answers(device, seed=5)
        assert answers(device) == first

    def test_what_does_not_fit_the_context(self, built: Built) -> None:
        bundle = built(Kind(MICRO), BuildOptions(context=300))
        decoder = open_pipeline(bundle, "trt").decoder
        assert decoder.context_len == 300
        width = bundle.manifest.decoder.hidden_size
        routing = open_pipeline(bundle, "ort").prepare(None, "?", 1).routing
        decoder.prefill(np.zeros((299, width), np.float32), routing)
        decoder.step(1)
        with pytest.raises(ContextOverflowError, match=r"301 tokens do not fit the context of 300: .* --context"):
            decoder.step(1)

    def test_without_graphs_where_they_cannot_be_made(self, built: Built) -> None:
        bundle = built(Kind(MICRO), faults=("graph-instantiate",))
        device = open_pipeline(bundle, "trt")
        assert "without CUDA graphs (CUDA failed instantiating a graph: " in device.backend
        assert answers(device) == answers(open_pipeline(bundle, "ort"))

    def test_takes_no_other_type_than_the_engine_has(self, built: Built) -> None:
        """TensorRT is given addresses: it would read the bytes of another type as its own."""
        bundle = built(Kind(MICRO))
        device = open_pipeline(bundle, "trt")
        prepared = device.prepare(None, "?", 1)
        embeds = np.zeros((3, bundle.manifest.decoder.hidden_size), np.float16)
        with pytest.raises(BackendError, match="engine llm takes embeds as float32, got float16"):
            device.decoder.prefill(embeds, prepared.routing)
        routing = {name: np.asarray(array, np.float16) for name, array in prepared.routing.items()}
        with pytest.raises(BackendError, match="engine llm takes router_context as float32, got float16"):
            device.decoder.prefill(prepared.embeds, routing)

    def test_steps_are_launched_as_graphs(self, built: Built) -> None:
        """Not even the first step of an answer is enqueued."""
        device = open_pipeline(built(Kind(MICRO)), "trt")
        assert "CUDA graphs" not in device.backend
        tokens = device.encode(frames(0))
        context = next(iter(device.decoder._steps.values())).context  # type: ignore[attr-defined]
        enqueued: list[int] = []
        context.execute_async_v3 = lambda stream_handle: enqueued.append(stream_handle)
        device.ask(tokens, QUESTIONS[0], OPTIONS)
        assert enqueued == []


class TestInterrupt:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError])
    def test_leaves_nothing_running(
        self, built: Built, edge_machine: InstallMachine, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
    ) -> None:
        """What the run reads and writes goes back to the pool with the error, and from there to another stream."""
        bundle = built(Kind(MICRO))
        machine = edge_machine()
        from leo_edge.runtime.trt import LoadedPlan

        device = open_pipeline(bundle, "trt")
        wanted = answers(device)
        tokens, queue = device.encode(frames(0)), LoadedPlan.run

        def broken_off(plan: LoadedPlan, context: Any, stream: Any) -> None:
            queue(plan, context, stream)
            raise error("in the middle")

        monkeypatch.setattr(LoadedPlan, "run", broken_off)
        for call in (lambda: device.encode(frames(1)), lambda: device.ask(tokens, QUESTIONS[0], OPTIONS)):
            with pytest.raises(error, match="in the middle"):
                call()
            assert not any(stream.queue for stream in machine.scheduler.streams.values())
        monkeypatch.undo()
        assert answers(device) == wanted


class TestLanes:
    def test_frames_are_encoded_while_an_answer_is_written(self, built: Built) -> None:
        bundle = built(Kind(MICRO))
        device, reference = open_pipeline(bundle, "trt"), open_pipeline(bundle, "ort")
        wanted = answers(reference, 0)
        ahead: list[Any] = []
        tokens = device.encode(frames(0))
        thread = threading.Thread(target=lambda: ahead.extend(device.encode(frames(seed)) for seed in range(1, 6)))
        thread.start()
        for _ in range(3):
            assert [device.ask(tokens, question, OPTIONS).token_ids for question in QUESTIONS] == wanted
        thread.join()
        for seed, encoded in enumerate(ahead, 1):
            assert [device.ask(encoded, question, OPTIONS).token_ids for question in QUESTIONS] == answers(reference, seed)

    def test_take_turns_where_memory_is_short(self, built: Built, edge_machine: InstallMachine) -> None:
        bundle = built(Kind(MICRO))
        wanted = answers(open_pipeline(bundle, "ort"))
        machine = edge_machine()
        device = open_pipeline(bundle, "trt")
        taken = machine.memory.total - machine.memory.free_bytes
        del device
        gc.collect()
        edge_machine(total_memory_bytes=taken - (1 << 16))
        device = open_pipeline(bundle, "trt")
        assert device.backend.endswith("frames and answers take turns, for want of memory")
        assert answers(device) == wanted


class TestTiles:
    def test_are_cut_on_the_device_for_cameras_of_the_size_that_was_built_for(self, built: Built) -> None:
        bundle = built(Kind(MICRO), BuildOptions(camera_px=(160, 90)))
        device, reference = open_pipeline(bundle, "trt"), open_pipeline(bundle, "ort")
        for size, on_device in (((160, 90), True), ((120, 90), False)):
            frame_set, tiling = frames(0, size=size), bundle.manifest.tiling
            tiles, wanted = device.engine.cut(frame_set, tiling), reference.engine.cut(frame_set, tiling)
            assert isinstance(tiles.tiles, np.ndarray) != on_device
            np.testing.assert_array_equal(np.asarray(tiles.tiles), wanted.tiles)
            assert (tiles.channels, tiles.counts, tiles.stamps_ns) == (wanted.channels, wanted.counts, wanted.stamps_ns)
            assert answers(device, size=size) == answers(reference, size=size)

    def test_more_than_an_engine_takes_go_in_parts(self, built: Built) -> None:
        bundle = built(Kind(MICRO), BuildOptions(profile_tiles=(1, 2, 4)))
        device = open_pipeline(bundle, "trt")
        assert device.engine.tiles_per_run("vision.vit") == 4
        assert answers(device) == answers(open_pipeline(bundle, "ort"))
        tile = np.zeros((5, *(bundle.manifest.tiling.tile_px,) * 2, 3), np.uint8)
        with pytest.raises(BackendError, match=r"was built for tiles from \[1, .* to \[4, .*, got \[5, .*leo-edge build"):
            device.sessions["vision.vit"].run({"tiles": tile})


def test_everything_is_given_back(built: Built, edge_machine: InstallMachine) -> None:
    bundle = built(Kind(MICRO), BuildOptions(camera_px=(160, 90)))
    machine: Machine = edge_machine()
    device = open_pipeline(bundle, "trt")
    tokens = device.encode(frames(0))
    device.ask(tokens, QUESTIONS[0], OPTIONS)
    assert machine.live()
    del device, tokens
    gc.collect()
    assert machine.live() == {}


def test_memory_does_not_grow(built: Built, edge_machine: InstallMachine) -> None:
    bundle = built(Kind(MICRO))
    machine: Machine = edge_machine()
    device = open_pipeline(bundle, "trt")
    answers(device)
    taken = machine.live()
    for seed in range(3):
        answers(device, seed)
    assert machine.live() == taken


class TestChoice:
    def test_auto_takes_tensorrt_where_engines_are(self, built: Built) -> None:
        assert open_pipeline(built(Kind(MICRO))).backend.startswith("TensorRT 10.3")

    def test_auto_says_why_not_tensorrt(self, edge_machine: InstallMachine, small_bundles: Bundles, tmp_path: Path) -> None:
        edge_machine()
        pipeline = open_pipeline(small_bundles.fresh(Kind(MICRO), tmp_path / "bundle"))
        assert pipeline.backend.startswith("onnxruntime")
        assert "not TensorRT: no engines for TensorRT 10.3.0 on Orin (compute 8.7, 16 multiprocessors)" in pipeline.backend

    def test_auto_says_what_tensorrt_wants_beside_it(self, built: Built, edge_machine: InstallMachine) -> None:
        bundle = built(Kind(MICRO))
        edge_machine(faults=("no-cuda-bindings",))
        pipeline = open_pipeline(bundle)
        assert pipeline.backend.startswith("onnxruntime")
        assert "not TensorRT: cuda-bindings is not installed: pip install 'leo_edge[trt]'" in pipeline.backend

    def test_auto_takes_onnxruntime_where_no_device_is(self, built: Built, edge_machine: InstallMachine) -> None:
        bundle = built(Kind(MICRO))
        edge_machine(faults=("no-device",))
        assert open_pipeline(bundle).backend.endswith(" cpu")

    def test_auto_does_not_hide_engines_that_do_not_load(self, built: Built, edge_machine: InstallMachine) -> None:
        bundle = built(Kind(MICRO))
        edge_machine(faults=("deserialize-memory",))
        with pytest.raises(BackendError, match="not enough memory"):
            open_pipeline(bundle)

    def test_a_provider_that_this_onnxruntime_has_not(self, small_bundles: Bundles, tmp_path: Path) -> None:
        bundle = small_bundles.fresh(Kind(MICRO), tmp_path / "bundle")
        with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider .*pip install 'leo_edge\[ort-gpu\]'"):
            open_pipeline(bundle, "ort-cuda")


# What goes wrong on the machine, and the line that it becomes.
FAULTS = {
    "no-device": "no CUDA device here .*--backend ort",
    "driver-too-old": "no CUDA device here .*--backend ort",
    "no-tensorrt": "TensorRT's Python package is not installed: .*--system-site-packages",
    "no-libnvinfer": "TensorRT misses libnvinfer",
    "no-libnvdla": "TensorRT misses libnvdla_compiler.so, .*--runtime nvidia",
    "plan-version": "was built by another TensorRT.*: run `leo-edge build ",
    "plan-device": "was built for a device of compute .*: run `leo-edge build ",
    "deserialize-memory": "not enough memory: .*--context",
    "malloc": "no memory on the device: .* MB wanted, .*leo-edge build",
    "host-alloc": "CUDA failed pinning host memory: out of memory",
    "stream-create": "CUDA failed making a stream: ",
    "event-create": "CUDA failed making an event: ",
    "enqueue": "cannot run: ",
    "illegal-address": "CUDA failed running: an illegal memory access was encountered",
}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_become_one_line_that_says_what_to_do(self, built: Built, edge_machine: InstallMachine, fault: str) -> None:
        bundle = built(Kind(MICRO))
        edge_machine(faults=(fault,))
        with pytest.raises(BackendError, match=FAULTS[fault]) as raised:
            answers(open_pipeline(bundle, "trt"))
        assert "\n" not in str(raised.value)

    def test_engines_of_another_release(self, built: Built, edge_machine: InstallMachine) -> None:
        bundle = built(Kind(MICRO))
        edge_machine(tensorrt=TENSORRT_10_16)
        with pytest.raises(
            BackendError, match=r"no engines for TensorRT 10\.16.*only for TensorRT 10\.3\.0 on Orin.*leo-edge build"
        ):
            open_pipeline(bundle, "trt")

    def test_engines_of_another_device(self, built: Built, edge_machine: InstallMachine) -> None:
        bundle = built(Kind(MICRO))
        edge_machine(device_name="NVIDIA L4", compute_capability=(8, 9))
        with pytest.raises(BackendError, match=r"no engines for TensorRT 10\.3\.0 on NVIDIA L4 \(compute 8\.9, "):
            open_pipeline(bundle, "trt")

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda plan: bytes(4) + plan[4:], "the plan is damaged, or no TensorRT plan: run `leo-edge build "),
            (lambda plan: plan[:-100], r"plan llm\.plan has \d+ bytes, expected \d+: run `leo-edge build "),
            (None, r"plan llm\.plan is missing: run `leo-edge build "),
        ],
    )
    def test_a_damaged_plan(self, built: Built, damage: Callable[[bytes], bytes] | None, message: str) -> None:
        bundle = built(Kind(MICRO))
        plan = next(bundle.directory.glob("engines/*/llm.plan"))
        if damage is None:
            plan.unlink()
        else:
            plan.write_bytes(damage(plan.read_bytes()))
        with pytest.raises(BackendError, match=message):
            open_pipeline(bundle, "trt")

    def test_a_plan_that_was_cut_short_where_nobody_looks(self, built: Built) -> None:
        bundle = built(Kind(MICRO))
        plan = next(bundle.directory.glob("engines/*/llm.plan"))
        plan.write_bytes(plan.read_bytes()[:-100])
        record = plan.with_name("engines.json")
        raw = json.loads(record.read_text())
        raw["engines"]["llm"]["size_bytes"] -= 100
        record.write_text(json.dumps(raw))
        with pytest.raises(BackendError, match="the plan is cut short: run `leo-edge build "):
            open_pipeline(bundle, "trt")

    def test_inputs_that_are_not_the_engines(self, built: Built) -> None:
        session = open_pipeline(built(Kind(MICRO)), "trt").sessions["vision.vit"]
        with pytest.raises(BackendError, match=r"engine vision\.vit takes tiles, got images"):
            session.run({"images": np.zeros(1)})
        with pytest.raises(BackendError, match=r"engine vision\.vit takes tiles as uint8, got float32"):
            session.run({"tiles": np.zeros((1, 8, 8, 3), np.float32)})
