"""What `leo-edge bench` measures: a bundle, or a command beside one; and the machine that it measures them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from leo_edge.bench.limits import GemmModel, Limits, measure_limits
from leo_edge.bench.machine import cpu_clocks_mhz, describe_machine, installed_versions, physical_cores
from leo_edge.bench.measure import ANSWER, PipelineSubject, Round, sets_per_s, warm_up
from leo_edge.bench.memory import PeakMemory
from leo_edge.bench.result import FORMAT_VERSION, BenchResult, Load, Machine, StageSamples
from leo_edge.bench.versus import PeerSubject
from leo_edge.commands.progress import open_with_progress, say
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import BackendError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import Pipeline, open_pipeline

LIMIT_SECONDS = 0.5
"""How long each of the machine's speeds is measured, before the rounds and after them."""
_NOT_TOLD = "not told"


@dataclass(frozen=True)
class AskedFor:
    """What every round is to do, and on which engine."""

    frame_sets: tuple[FrameSet, ...]
    question: str
    answer_tokens: int
    max_tiles: int | None
    savings: bool
    backend: str
    threads: int


class BundleSide:
    """A bundle that is open and warm."""

    def __init__(self, directory: Path, asked: AskedFor, base_bytes: int) -> None:
        """Opens it and runs the warm-up. `base_bytes` is what the process held before any bundle was open.

        Raises:
            LeoEdgeError: it cannot be opened, or cannot answer.
        """
        memory = PeakMemory(base_bytes)
        self.directory = directory
        self.pipeline = open_pipeline(open_with_progress(directory), asked.backend, threads=asked.threads)
        self.subject = PipelineSubject(
            self.pipeline,
            asked.frame_sets,
            asked.question,
            answer_tokens=asked.answer_tokens,
            max_tiles=asked.max_tiles,
            savings=asked.savings,
        )
        self._savings = asked.savings
        self.warm_up = warm_up(self.subject)
        self._peak_bytes = memory.peak_bytes()

    def result(self, run_id: str, stages: Mapping[str, StageSamples], machine: Machine) -> BenchResult:
        """Returns the result of its rounds."""
        bundle = self.pipeline.bundle
        return BenchResult(
            format_version=FORMAT_VERSION,
            run_id=run_id,
            bundle=str(self.directory),
            bundle_id=bundle.id,
            precision="int8" if bundle.manifest.quantized else bundle.manifest.float_type,
            backend=self.pipeline.backend,
            versions=installed_versions(),
            machine=machine,
            load=self.subject.load,
            warm_up_ms=_answers_ms(self.warm_up),
            stages=_with_costs(self.pipeline, self.subject.load, stages),
            sustained_sets_per_s=sets_per_s(stages),
            peak_memory_bytes=self._peak_bytes,
            savings=self._savings,
        )


@dataclass(frozen=True)
class PeerSide:
    """A command that is measured beside a bundle. What it does is its own business: the load is said to be the bundle's."""

    subject: PeerSubject
    warm_up: tuple[Round, ...]
    load: Load

    def result(self, run_id: str, stages: Mapping[str, StageSamples], machine: Machine) -> BenchResult:
        """Returns the result of its rounds, which knows no FLOPs and no bundle."""
        return BenchResult(
            format_version=FORMAT_VERSION,
            run_id=run_id,
            bundle=self.subject.command,
            bundle_id=_NOT_TOLD,
            precision=_NOT_TOLD,
            backend="a command",
            versions={},
            machine=machine,
            load=self.load,
            warm_up_ms=_answers_ms(self.warm_up),
            stages=stages,
            sustained_sets_per_s=sets_per_s(stages),
            peak_memory_bytes=self.subject.peak_bytes,
        )


class Probe:
    """The machine before and after the rounds: its clocks, and what it can do, of which the better counts."""

    def __init__(self, pipeline: Pipeline, threads: int, *, limits: bool) -> None:
        """Looks at it the first time. The limits are a CPU's: of a GPU none are measured."""
        self._threads = threads or physical_cores()
        self._on_cpu = pipeline.backend.split()[2:3] == ["cpu"]
        self._measures = limits and self._on_cpu
        self._models = _gemm_models() if self._measures else ()
        self._before, self._clocks_mhz = self._limits(), cpu_clocks_mhz()

    def machine(self) -> Machine:
        """Looks at it again, and returns both."""
        clocks_mhz = self._clocks_mhz + cpu_clocks_mhz()  # before the limits are measured, which warm it up again
        gpu = None if self._on_cpu else _gpu_name()
        return describe_machine(self._threads, self._before.best(self._limits()), clocks_mhz, gpu=gpu)

    def _limits(self) -> Limits:
        return measure_limits(self._threads, self._models, seconds=LIMIT_SECONDS) if self._measures else Limits()


def _gemm_models() -> tuple[GemmModel, ...]:
    if find_spec("onnx") is None:
        say("no onnx here (pip install 'leo_edge[export]'): fp32 products are numpy's, int8 is not measured")
        return ()
    from leo_edge.commands.gemm_models import gemm_models

    return gemm_models()


def _gpu_name() -> str | None:
    """Names the GPU where the package that tells it is here: onnxruntime has its own."""
    if find_spec("cuda") is None:
        return None
    from leo_edge.runtime.cuda import describe_device

    try:
        return describe_device().name
    except BackendError:
        return None


def _with_costs(pipeline: Pipeline, load: Load, stages: Mapping[str, StageSamples]) -> dict[str, StageSamples]:
    """Adds what each stage computes and moves, as its graph says; or says why that is not known."""
    try:
        from leo_edge.export.cost import CostError, Workload, bundle_costs
    except ModuleNotFoundError as error:
        say(f"FLOPs and bytes are not counted: no {error.name} here: pip install 'leo_edge[export]'")
        return dict(stages)
    bundle, counted = pipeline.bundle, dict(stages)
    cache_len = _bucket(load, bundle) if pipeline.backend.startswith("onnxruntime") else None
    workload = Workload(load.cameras, load.tiles_per_camera, load.text_tokens, load.question_tokens, cache_len)
    try:
        costs = bundle_costs(bundle, workload)
    except CostError as error:
        say(f"FLOPs and bytes are not counted: {error}")
        return counted
    precisions = {stage.graph: _precision(bundle, stage.graph) for stage in costs}
    for stage in costs:
        moved = stage.cost.weight_bytes + stage.cost.input_bytes + stage.cost.output_bytes
        if stage.stage in counted:
            counted[stage.stage] = replace(
                counted[stage.stage], flops=stage.cost.flops, moved_bytes=moved, precision=precisions[stage.graph]
            )
    return counted


def _precision(bundle: Bundle, graph: str) -> str:
    """Returns what a graph's products are computed in: int8 where it is quantized, but for those inside attention."""
    import onnx_ir as ir

    nodes = ir.load(bundle.path(bundle.manifest.graphs[graph].file)).graph
    return "int8" if any(node.op_type == "DequantizeLinear" for node in nodes) else bundle.manifest.float_type


def _bucket(load: Load, bundle: Bundle) -> int:
    """Returns how long onnxruntime's cache of an opset-24 graph has grown."""
    from leo_edge.runtime.ort_decoder import grown_capacity

    return grown_capacity(load.prompt_tokens + load.answer_tokens, bundle.manifest.decoder.context_len)


def _answers_ms(rounds: Sequence[Round]) -> tuple[float, ...]:
    return tuple(each[ANSWER].ms for each in rounds)
