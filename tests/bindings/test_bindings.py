"""What leo_edge calls of TensorRT and CUDA exists, in each release that it claims, with these arguments and results.

mypy runs once per release over our files and over small ones that must be caught.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bindings import stubs
from tests.bindings.importers import ROOT, ask_types, names_of, reaching

CONFIG = Path(__file__).with_name("mypy.ini")
# TensorRT, and a release of cuda-bindings: JetPack 6.2's with the oldest, JetPack 7.2's, and the newest on x86 with CUDA 12.
PAIRS = (("10.3.0", "cuda-12.9.1"), ("10.16.1.11", "cuda-13.2.0"), ("11.4.0.106", "cuda-12.9.4"))
HEAD = "import tensorrt as trt\nfrom cuda.bindings import runtime as cudart\n"


def lines_of(text: str) -> str:
    return HEAD + textwrap.dedent(text).lstrip("\n")


# What is checked along with ours, by name; the first line behind HEAD is line 3.
SAMPLES = {
    "removed_in_11": lines_of("""
        def look(config: trt.IBuilderConfig, engine: trt.ICudaEngine) -> None:
            config.set_flag(trt.BuilderFlag.FP16)
            print(engine.device_memory_size)
    """),
    "new_since_10_3": lines_of("""
        def look(engine: trt.ICudaEngine) -> None:
            print(engine.get_aliased_input_tensor("new_key"))
    """),
    "misspelt": lines_of("""
        def run(context: trt.IExecutionContext) -> None:
            context.execute_async_v4(0)
    """),
    "wrong_arguments": lines_of("""
        def bind(context: trt.IExecutionContext, profile: trt.IOptimizationProfile) -> None:
            context.set_tensor_address("embeds", "0x7f00")
            context.set_tensor_address("embeds")
            profile.set_shape("embeds", (1, 8), (1, 8), (1, 8.5))
            context.execute_async_v3(cudart.cudaStreamCreate()[1])
    """),
    "none_is_not_looked_at": lines_of("""
        def build(builder: trt.Builder, network: trt.INetworkDefinition, runtime: trt.Runtime) -> int:
            plan = builder.build_serialized_network(network, builder.create_builder_config())
            return plan.nbytes + runtime.deserialize_cuda_engine(b"").num_layers
    """),
    "right": lines_of("""
        class Log(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
                assert severity <= trt.ILogger.Severity.WARNING, msg


        def run(context: trt.IExecutionContext, profile: trt.IOptimizationProfile, plan: trt.IHostMemory) -> int:
            error, stream = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
            assert error == cudart.cudaError_t.cudaSuccess and stream is not None
            profile.set_shape("embeds", (1, 8), [1, 8], trt.Dims((1, 8)))
            context.set_input_shape("embeds", [2, *context.get_tensor_shape("embeds")])
            context.device_memory = 256
            cudart.cudaMemcpyAsync(256, memoryview(plan), plan.nbytes, cudart.cudaMemcpyKind.cudaMemcpyDefault, stream)
            return context.execute_async_v3(int(stream))
    """),
    "revealed": lines_of("""
        def look(engine: trt.ICudaEngine, runtime: trt.Runtime, parser: trt.OnnxParser) -> None:
            reveal_type(trt.Builder(trt.Logger()).create_network(0))
            reveal_type(runtime.deserialize_cuda_engine(b""))
            reveal_type(engine.get_tensor_profile_shape("embeds", 0))
            reveal_type(engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED))
            reveal_type(parser.get_error(0).code())
            reveal_type(engine.get_tensor_dtype("embeds"))
            reveal_type(tuple(engine.get_tensor_shape("embeds")))
            reveal_type(cudart.cudaMalloc(1))
            reveal_type(cudart.cudaStreamEndCapture(0))
    """),
    "cuda_misspelt": lines_of("""
        cudart.cudaMallocDevice(1)
        cudart.cudaStreamCaptureMode.cudaStreamCaptureModeSloppy
    """),
    "cuda_wrong_arguments": lines_of("""
        cudart.cudaGraphInstantiate(cudart.cudaGraph_t(), 0, 0, 0)
        cudart.cudaMemcpy(256, 512, 8, 3)
        cudart.cudaMalloc()
    """),
    "cuda_removed_in_13": lines_of("""
        def look(properties: cudart.cudaDeviceProp) -> None:
            print(properties.clockRate, properties.major)
    """),
    "untyped": lines_of("""
        from typing import Any


        def layers(engine: Any, other: trt.ICudaEngine) -> int:
            return int(engine.num_io_tensors) + other.num_io_tensors
    """),
}


@dataclass(frozen=True)
class Remark:
    """What mypy said of a line."""

    file: str
    line: int
    kind: str
    text: str


@dataclass(frozen=True)
class Check:
    """What mypy said of all files under one pair of releases. `folder` has the samples, and ours asking for types."""

    tensorrt: tuple[int, ...]
    cuda: tuple[int, ...]
    folder: Path
    remarks: tuple[Remark, ...]

    def of_sample(self, name: str) -> list[Remark]:
        """Errors and notes in a sample."""
        return [remark for remark in self.remarks if remark.file == str(self.folder.relative_to(ROOT) / f"{name}.py")]

    def errors(self, name: str) -> list[tuple[int, str]]:
        """Lines of a sample and the code of their error."""
        return [(remark.line, remark.text.rpartition("[")[2][:-1]) for remark in self.of_sample(name) if remark.kind == "error"]


@pytest.fixture(scope="module", params=PAIRS, ids=["-".join(pair) for pair in PAIRS])
def check(request: pytest.FixtureRequest) -> Check:
    tensorrt, cuda = request.param
    for name in (tensorrt, cuda):
        if reason := stubs.why_missing(name):
            pytest.skip(f"{name}: {reason}")
    # One folder and one cache for all: numpy is read once, and mypy keeps what it said of a file with the file's path.
    folder = stubs.STUBS / "samples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    stub_files = (stubs.STUBS / tensorrt / "tensorrt/__init__.pyi", stubs.STUBS / cuda / "cuda/bindings/runtime.pyi")
    names = set().union(*map(names_of, stub_files))
    for name, text in SAMPLES.items():
        (folder / f"{name}.py").write_text(text)
    asking = {"_".join(path.with_suffix("").parts): (ROOT / path).read_text() for path in reaching()}
    for name, text in (asking | {"untyped": SAMPLES["untyped"]}).items():
        (folder / f"asks_{name}.py").write_text(ask_types(text, names))
    files = [*map(str, reaching()), *(str(file.relative_to(ROOT)) for file in (*stub_files, *sorted(folder.glob("*.py"))))]
    remarks = run_mypy(files, [stubs.STUBS / tensorrt, stubs.STUBS / cuda], stubs.STUBS / "mypy_cache")
    numbers = [tuple(map(int, name.removeprefix("cuda-").split("."))) for name in (tensorrt, cuda)]
    return Check(numbers[0], numbers[1], folder, tuple(remarks))


def run_mypy(files: list[str], paths: list[Path], cache: Path) -> list[Remark]:
    command = [sys.executable, "-m", "mypy", "--config-file", str(CONFIG), "--cache-dir", str(cache), "--no-pretty", *files]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, paths))}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (1, ""), ran.stdout  # 1: errors were found, those in the samples; 2: it broke
    found = re.finditer(r"^(.+?):(\d+): (error|note): (.*)$", ran.stdout, re.M)
    return [Remark(file, int(line), kind, text) for file, line, kind, text in (match.groups() for match in found)]


def test_our_calls_fit_the_bindings(check: Check) -> None:
    ours = {str(path) for path in reaching()}
    assert {"leo_edge/runtime/trt.py", "leo_edge/runtime/cuda.py", "leo_edge/export/engine.py"} <= ours
    assert [remark for remark in check.remarks if remark.file in ours and remark.kind == "error"] == []


def test_our_calls_are_made_on_what_has_a_type(check: Check) -> None:
    # On Any, everything fits. cudaStream_t and its like are given on without a look into them.
    asked = [remark for remark in check.remarks if "/asks_leo_edge" in remark.file and "Revealed type" in remark.text]
    assert [remark for remark in asked if remark.text.endswith('"Any"')] == []
    assert len(asked) > 20


def test_a_call_on_any_is_found(check: Check) -> None:
    asked = check.of_sample("asks_untyped")
    assert [(remark.line, remark.text) for remark in asked] == [
        (7, 'Revealed type is "Any"'),
        (7, 'Revealed type is "tensorrt.ICudaEngine"'),
    ]


def test_api_that_11_removed_is_caught_there(check: Check) -> None:
    removed = [(4, "attr-defined"), (5, "attr-defined")] if check.tensorrt >= (11,) else []
    assert check.errors("removed_in_11") == removed


def test_api_that_10_3_has_not_is_caught_there(check: Check) -> None:
    missing = [(4, "attr-defined")] if check.tensorrt < (10, 15) else []
    assert check.errors("new_since_10_3") == missing


def test_a_misspelt_method_is_caught(check: Check) -> None:
    assert check.errors("misspelt") == [(4, "attr-defined")]


def test_wrong_arguments_are_caught(check: Check) -> None:
    # The handle of a stream is an integer for TensorRT.
    assert check.errors("wrong_arguments") == [(4, "arg-type"), (5, "call-arg"), (6, "arg-type"), (7, "arg-type")]


def test_a_result_that_may_be_none_must_be_looked_at(check: Check) -> None:
    assert check.errors("none_is_not_looked_at") == [(5, "union-attr"), (5, "union-attr")]


def test_right_calls_pass(check: Check) -> None:
    assert check.of_sample("right") == []


def test_stubs_say_what_types_there_are(check: Check) -> None:
    revealed = [remark.text.split('"')[1] for remark in check.of_sample("revealed")]
    assert revealed == [
        "tensorrt.INetworkDefinition",
        "tensorrt.ICudaEngine | None",
        "list[tensorrt.Dims]",
        "tensorrt.IExecutionContext | None",
        "tensorrt.ErrorCode",
        "tensorrt.DataType",
        "tuple[int, ...]",
        "tuple[cuda.bindings.runtime.cudaError_t, int | None]",
        "tuple[cuda.bindings.runtime.cudaError_t, cuda.bindings.runtime.cudaGraph_t | None]",
    ]


def test_stubs_hold_nothing_that_mypy_cannot_read(check: Check) -> None:
    assert [remark for remark in check.remarks if remark.file.endswith(".pyi") and remark.kind == "error"] == []


def test_cuda_names_and_arguments_that_are_wrong_are_caught(check: Check) -> None:
    assert check.errors("cuda_misspelt") == [(3, "attr-defined"), (4, "attr-defined")]
    assert check.errors("cuda_wrong_arguments") == [(3, "call-arg"), (4, "arg-type"), (5, "call-arg")]


def test_cuda_api_that_13_removed_is_caught_there(check: Check) -> None:
    assert check.errors("cuda_removed_in_13") == ([(4, "attr-defined")] if check.cuda >= (13,) else [])


PROBE = """
import sys
import tensorrt_bindings as trt

description = trt.PluginTensorDesc()  # what takes Dims and can be made without the library
taken = []
for value in ((1, 2), [1, 2], range(2), (1.5, 2), "12"):
    try:
        description.dims = value
        taken.append(tuple(description.dims))
    except TypeError:
        taken.append(None)
context = trt.IExecutionContext.__dict__["device_memory"]
buffer = hasattr(trt.IHostMemory, "__buffer__") or sys.version_info < (3, 12)
flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
print([trt.__version__, taken, context.fget, context.fset is not None, buffer, trt.Logger.Severity is trt.ILogger.Severity,
       trt.DataType.INT4.itemsize, trt.nptype(trt.float16).__name__, type(trt.bool) is trt.DataType, int(flag)])
"""


@pytest.mark.parametrize("version", stubs.TENSORRT)
def test_what_is_mended_in_the_stubs_is_so_in_the_bindings(version: str, tmp_path: Path) -> None:
    if reason := stubs.why_missing(version):
        pytest.skip(f"{version}: {reason}")
    try:
        printed = stubs.run_with_tensorrt(version, tmp_path, ["-c", PROBE])
    except stubs.StubsUnavailableError as error:
        pytest.skip(str(error))
    bit = 0 if version.startswith("11.") else 1  # why code must name the flag, and not its number
    taken = [(1, 2), (1, 2), (0, 1), None, None]
    assert ast.literal_eval(printed) == [version, taken, None, True, True, True, 0.5, "float16", True, bit]
