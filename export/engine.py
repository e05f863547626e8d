"""One graph becomes one TensorRT plan. The only importer of TensorRT in export.

Facts: NVIDIA's TensorRT Python API (https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/). Everything here
has the same name and meaning from 10.3 to 11.4; numbers of enumerations differ, so they are taken by name.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import onnx
import tensorrt as trt

from leo_edge.export.build_progress import BuildProgress
from leo_edge.export.engine_task import BuiltPlan, EngineTask
from leo_edge.runtime.engines import Profile
from leo_edge.runtime.errors import BackendError
from leo_edge.runtime.trt_api import new_logger, translate_refusal
from leo_edge.runtime.whole_file import whole_file

_MEND = "see what `leo-edge lint` says of the bundle, or try another --opt-level"


def build_plan(task: EngineTask, progress: BuildProgress) -> BuiltPlan:
    """Builds a plan and writes it, whole, and what was measured on the way.

    Raises:
        BackendError: TensorRT refuses.
        OSError: plan or timing cache cannot be written.
        KeyboardInterrupt: `progress` was stopped before the plan was there.
    """
    started = time.perf_counter()
    logger = new_logger()
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError):  # the binding's words for an object that TensorRT did not give
        raise _refused(task, logger) from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(task, network, logger)
    if progress.stopped():
        raise KeyboardInterrupt
    config = builder.create_builder_config()
    monitor = _Monitor(progress)
    config.progress_monitor = monitor
    _configure(task, config)
    _add_profiles(task, builder, network, config, logger)
    notes = _give_timing_cache(task, config)
    logger.clear()  # what it says from here on is about the build
    plan = builder.build_serialized_network(network, config)
    _save_timing_cache(task, config)
    if plan is None:
        if progress.stopped():
            raise KeyboardInterrupt
        raise _refused(task, logger)
    view = memoryview(plan)
    with whole_file(Path(task.plan)) as temporary:
        temporary.write_bytes(view)
    return BuiltPlan(view.nbytes, hashlib.sha256(view).hexdigest(), round(time.perf_counter() - started, 2), notes)


class _Monitor(trt.IProgressMonitor):
    """Hands TensorRT's progress on. An exception in here would be lost."""

    def __init__(self, progress: BuildProgress) -> None:
        trt.IProgressMonitor.__init__(self)
        self._progress = progress

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._progress.start(phase_name, parent_phase, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        return self._progress.step(phase_name, step)

    def phase_finish(self, phase_name: str) -> None:
        self._progress.finish(phase_name)


def _parse(task: EngineTask, network: trt.INetworkDefinition, logger: Any) -> None:
    """Reads the graph into the network; dimensions that are one size in all profiles become that size.

    This is done before TensorRT sees the graph: its update of a cache in place wants a static capacity
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/operators/KVCacheUpdate.html), and kernels gain by it.
    """
    model = onnx.load(task.onnx, load_external_data=False)
    for port in model.graph.input:
        sizes = _only_sizes(task.profiles, port.name)
        for dim, size in zip(port.type.tensor_type.shape.dim, sizes, strict=False):
            if size is not None:
                dim.dim_value = size
    parser = trt.OnnxParser(network, logger)
    # The path says where the weights' file is.
    if not parser.parse(model.SerializeToString(), task.onnx):
        errors = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
        raise _refused(task, logger, errors)


def _only_sizes(profiles: tuple[Profile, ...], name: str) -> list[int | None]:
    """Returns for each dimension of an input its size if it has the same in every shape of every profile, else None."""
    shapes = [shape for profile in profiles for shape in profile.get(name, ())]
    return [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)]


def _describe(error: trt.ParserError) -> str:
    text = error.desc()
    if not error.node_operator() or error.node_operator() in text:  # it is about no node, or names it
        return text
    return f"node {error.node_name()}, operator {error.node_operator()}: {text}"


def _configure(task: EngineTask, config: trt.IBuilderConfig) -> None:
    config.builder_optimization_level = task.opt_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names in profiles; the kernels are the same
    if task.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, task.workspace_mb << 20)
    if task.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default


def _add_profiles(
    task: EngineTask, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, logger: Any
) -> None:
    ports = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = {port.name for port in ports if -1 in tuple(port.shape)}
    for number, shapes in enumerate(task.profiles):
        profile = builder.create_optimization_profile()
        try:
            for name in shapes.keys() & dynamic:
                profile.set_shape(name, *shapes[name])
        except (ValueError, RuntimeError):
            raise _refused(task, logger, [f"profile {number} is refused at {name}: {shapes[name]}"]) from None
        if config.add_optimization_profile(profile) < 0:
            raise _refused(task, logger)


def _give_timing_cache(task: EngineTask, config: trt.IBuilderConfig) -> tuple[str, ...]:
    """Gives TensorRT what it measured before; returns what there is to say about it.

    Raises:
        BackendError: a file that was asked for is of another TensorRT or device; it would be overwritten.
    """
    path = Path(task.timing_cache)
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return ()
    if not task.renew_timing_cache:
        raise BackendError(f"timing cache {path} is not of this TensorRT and device: give another with --timing-cache")
    if (empty := config.create_timing_cache(b"")) is not None:
        config.set_timing_cache(empty, ignore_mismatch=False)
    return (f"timing cache {path} is not of this TensorRT and device: it begins anew",)


def _save_timing_cache(task: EngineTask, config: trt.IBuilderConfig) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with whole_file(Path(task.timing_cache)) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))


def _refused(task: EngineTask, logger: Any, errors: list[str] | None = None) -> BackendError:
    """Returns what TensorRT's messages come to; `errors` are those that came another way, and say more."""
    return BackendError(f"{task.graph}: {translate_refusal([*(errors or []), *logger.messages], _MEND)}")
