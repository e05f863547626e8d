"""CUDA graphs of runs: flushed before, one context each, as good as a run."""

from typing import Any

import numpy as np
import pytest

from tests.doubles.errors import Undefined
from tests.doubles.fixtures import InstallMachine
from tests.doubles.graphs import WEIGHT
from tests.doubles.test_trt_run import Bench, X


@pytest.fixture
def bench(edge_machine: InstallMachine) -> Bench:
    edge_machine()
    return Bench()


def capture(bench: Bench) -> Any:
    """Captures a run and returns what can be launched, or the name of the error."""
    cuda = bench.device.cuda
    bench.device.ok(cuda.cudaStreamBeginCapture(bench.device.stream, cuda.cudaStreamCaptureMode(0)))
    ran = bench.run()
    error, graph = cuda.cudaStreamEndCapture(bench.device.stream)
    if not ran:
        return error.name
    return bench.device.ok(cuda.cudaGraphInstantiate(graph, 0))


def launch(bench: Bench, made: Any) -> None:
    bench.device.ok(bench.device.cuda.cudaGraphLaunch(made, bench.device.stream))


def test_a_graph_computes_again_with_what_lies_at_its_addresses(bench: Bench) -> None:
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    bench.device.wait()
    made = capture(bench)
    for factor in (1, 2):
        bench.device.upload(bench.x, factor * X)
        launch(bench, made)
        np.testing.assert_array_equal(bench.device.download(bench.y, (2, 3)), factor * X @ WEIGHT)


def test_shapes_are_flushed_by_a_run_before_the_capture(bench: Bench) -> None:
    bench.bind()
    assert capture(bench) == "cudaErrorStreamCaptureInvalidated"
    assert "enqueueV3 must run once before the capture" in bench.log.texts[0]
    bench.device.upload(bench.x, X)
    assert bench.run()
    bench.bind(3)
    assert capture(bench) == "cudaErrorStreamCaptureInvalidated"
    bench.bind(2)
    assert not isinstance(capture(bench), str)


def test_a_profile_is_not_changed_within_a_capture(bench: Bench) -> None:
    cuda = bench.device.cuda
    bench.device.ok(cuda.cudaStreamBeginCapture(bench.device.stream, cuda.cudaStreamCaptureMode(0)))
    assert not bench.context.set_optimization_profile_async(0, int(bench.device.stream))
    assert "operation not permitted when stream is capturing" in bench.log.texts[0]


def test_a_graph_is_not_launched_after_its_context_ran_with_other_shapes(bench: Bench) -> None:
    bench.bind()
    bench.device.upload(bench.x, np.ones((8, 4), np.float32))
    assert bench.run()
    bench.device.wait()
    made = capture(bench)
    bench.bind(3)
    assert bench.run()
    launch(bench, made)
    with pytest.raises(Undefined, match="use one context per graph"):
        bench.device.wait()


def test_a_graph_is_not_launched_without_its_context(bench: Bench) -> None:
    bench.bind()
    bench.device.upload(bench.x, X)
    assert bench.run()
    bench.device.wait()
    made = capture(bench)
    bench.context = None
    launch(bench, made)
    with pytest.raises(Undefined, match="context was destroyed"):
        bench.device.wait()
