"""The runtime, which reads plans, and engines."""

from __future__ import annotations

import json
from typing import Any

import onnx

from tests.doubles.errors import Crash
from tests.doubles.machine import Machine, machine
from tests.doubles.trt.binding import RELEASE, Bound, Dims, content, integer, member, releases, text
from tests.doubles.trt.context import IExecutionContext
from tests.doubles.trt.core import EngineCore
from tests.doubles.trt.enums import (
    ExecutionContextAllocationStrategy,
    LayerInformationFormat,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
)
from tests.doubles.trt.host_memory import IHostMemory
from tests.doubles.trt.logger import Log, usage_error
from tests.doubles.trt.plan import Plan, PlanError, read_plan, write_plan

_STATIC = ExecutionContextAllocationStrategy.STATIC
_NO_MEMORY = "There may not be enough free memory for allocation to succeed."


class Runtime(Bound):
    """Reads plans. Without a device it can be made, and then any touch crashes the process."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._log = Log(logger, "__init__")
        self._dead = not machine().has_device
        if self._dead:
            self._log.warning("CUDA initialization failure with error: 100")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and object.__getattribute__(self, "__dict__").get("_dead", False):
            raise Crash(f"tensorrt.Runtime.{name} without a CUDA device is a segmentation fault: look for a device first")
        return super().__getattribute__(name)

    @property
    def logger(self) -> Any:
        """The logger."""
        return self._log.logger

    @property
    def max_threads(self) -> int:
        """How many threads it may use."""
        return 1

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """Reads a plan; None where it cannot, and why in the log."""
        data = content("deserialize_cuda_engine", serialized_engine)
        state = machine()
        self._log.info(f"Loaded engine size: {len(data) >> 20} MiB")
        try:
            plan = read_plan(data)
        except PlanError as error:
            self._log.error(str(error))
            self._log.error("IRuntime::deserializeCudaEngine: Error Code 4: Internal Error (Engine deserialization failed.)")
            return None
        with state.lock:
            address = None if state.fails("deserialize-memory") else state.memory.allocate(len(plan.model), "tensorrt")
        if address is None:
            self._log.error("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)")
            self._log.warning(f"Requested amount of GPU memory ({len(plan.model)} bytes) could not be allocated. {_NO_MEMORY}")
            self._log.error("IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was not available.)")
            return None
        return ICudaEngine.make(plan, self, address, state)


@releases(since={"create_runtime_config": (10, 10)})
class _EngineContexts(Bound):
    """How an engine makes contexts."""

    _core: EngineCore
    _log: Log

    def create_execution_context(self, strategy: Any = _STATIC) -> IExecutionContext | None:
        """Makes a context; None where there is no memory for its activations, and why in the log."""
        if isinstance(strategy, IRuntimeConfig):
            strategy = strategy._strategy
        chosen = member("create_execution_context", strategy, ExecutionContextAllocationStrategy)
        return IExecutionContext._create(self, self._core, self._log, chosen.name)

    def create_runtime_config(self) -> IRuntimeConfig:
        """Makes a configuration for contexts."""
        return IRuntimeConfig.make()


@releases(
    since={"get_aliased_input_tensor": (10, 15)},
    until={
        "device_memory_size": (11,),
        "get_device_memory_size_for_profile": (11,),
        "create_execution_context_without_device_memory": (11,),
        "has_implicit_batch_dimension": (11,),
    },
)
class ICudaEngine(_EngineContexts):
    """An engine: what a plan holds, with its weights on the device."""

    _hidden = True

    def __init__(self, plan: Plan, runtime: Runtime, weights: int, state: Machine) -> None:
        super().__init__()
        self._plan, self._runtime, self._log = plan, runtime, runtime._log
        self._core = EngineCore(plan, state)
        self._weights, self._machine = weights, state
        self._machine.trt_live["engines"] += 1

    def __del__(self) -> None:
        if "_machine" in self.__dict__:
            with self._machine.lock:
                self._machine.memory.release(self._weights)
                self._machine.trt_live["engines"] -= 1

    @property
    def name(self) -> str:
        """The network's name."""
        return "Unnamed Network 0"

    @property
    def num_io_tensors(self) -> int:
        """How many inputs and outputs it has."""
        return len(self._core.ports)

    @property
    def num_layers(self) -> int:
        """How many layers it has."""
        return len(self._core.model.proto.graph.node)

    @property
    def num_optimization_profiles(self) -> int:
        """How many profiles it was built with."""
        return len(self._plan.profiles)

    @property
    def num_aux_streams(self) -> int:
        """How many streams it uses beside the caller's; the double has none."""
        return 0

    @property
    def refittable(self) -> bool:
        """Whether its weights can be exchanged."""
        return False

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Whether it has an implicit batch: never since 10.0."""
        return False

    @property
    def profiling_verbosity(self) -> Any:
        """What it can say of its layers."""
        return getattr(ProfilingVerbosity, self._plan.options["verbosity"])

    @property
    def device_memory_size(self) -> int:
        """Bytes of activations in the largest profile."""
        return max(self._core.scratch_bytes(profile) for profile in range(len(self._plan.profiles)))

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes of activations in the largest profile."""
        return max(self._core.scratch_bytes(profile) for profile in range(len(self._plan.profiles)))

    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        """Bytes of activations in a profile."""
        return self.get_device_memory_size_for_profile_v2(profile_index)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Bytes of activations in a profile."""
        return self._core.scratch_bytes(integer("get_device_memory_size_for_profile_v2", profile_index))

    def create_execution_context_without_device_memory(self) -> IExecutionContext | None:
        """Makes a context whose memory the application gives."""
        return self.create_execution_context(ExecutionContextAllocationStrategy.USER_MANAGED)

    def create_engine_inspector(self) -> EngineInspector:
        """Makes an inspector."""
        return EngineInspector.make(self)

    def serialize(self) -> IHostMemory:
        """Returns the plan."""
        return IHostMemory(write_plan(self._plan))

    def get_tensor_name(self, index: int) -> str | None:
        """Returns the name of an input or output, inputs first; None where there is none."""
        names = list(self._core.ports)
        place = integer("get_tensor_name", index)
        return names[place] if 0 <= place < len(names) else None

    def get_tensor_mode(self, name: str) -> Any:
        """Says whether it is an input or an output."""
        if self._unknown("getTensorIOMode", name):
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._core.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        """Returns its type, that of the graph."""
        if self._unknown("getTensorDataType", name):
            return type(next(iter(self._core.ports.values())).dtype).FLOAT
        return self._core.ports[name].dtype

    def get_tensor_location(self, name: str) -> Any:
        """Says where its values must lie."""
        self._unknown("getTensorLocation", name)
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Dims:
        """Returns its shape, -1 for dynamic sizes."""
        return Dims(() if self._unknown("getTensorShape", name) else self._core.ports[name].shape)

    def is_shape_inference_io(self, name: str) -> bool:
        """Whether its values decide shapes."""
        self._unknown("isShapeInferenceIO", name)
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Returns an input's min, opt and max shape in a profile."""
        profile = integer("get_tensor_profile_shape", profile_index)
        known = text("get_tensor_profile_shape", name) in self._core.inputs
        if not known or not 0 <= profile < len(self._plan.profiles):
            condition = f"isInput({name}) && profileIndex < getNbOptimizationProfiles()"
            self._log.error(usage_error("ICudaEngine::getProfileShape", condition))
            return [Dims(), Dims(), Dims()]
        return [Dims(shape) for shape in self._plan.profiles[profile][name]]

    def get_aliased_input_tensor(self, name: str) -> str | None:
        """Returns the input that an output shares memory with, None for an output of its own."""
        return self._plan.aliases.get(text("get_aliased_input_tensor", name))

    def _unknown(self, function: str, name: str) -> bool:
        if text(function, name) in self._core.ports:
            return False
        condition = f"validTensorName. Given invalid tensor name: {name}. Get valid tensor names with getIOTensorName()"
        self._log.error(usage_error(f"ICudaEngine::{function}", condition))
        return True


class IRuntimeConfig(Bound):
    """How to make contexts."""

    _hidden = True

    def __init__(self) -> None:
        super().__init__()
        self._strategy = _STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any = _STATIC) -> None:
        """Says where the memory of activations comes from."""
        self._strategy = member("set_execution_context_allocation_strategy", strategy, ExecutionContextAllocationStrategy)

    def get_execution_context_allocation_strategy(self) -> Any:
        """Says where the memory of activations comes from."""
        return self._strategy


class EngineInspector(Bound):
    """Says what layers an engine has."""

    _hidden = True

    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__()
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        """Describes the engine, as much as it was built to keep."""
        as_json = member("get_engine_information", format, LayerInformationFormat).name == "JSON"
        nodes = list(self._engine._core.model.proto.graph.node)
        layers = [self._layer(node) for node in nodes]
        if not as_json:
            return "Layers:\n" + "\n".join(node.name for node in nodes)
        return json.dumps({"Layers": layers, "Bindings": list(self._engine._core.ports)})

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        """Describes one layer."""
        as_json = member("get_layer_information", format, LayerInformationFormat).name == "JSON"
        node = self._engine._core.model.proto.graph.node[integer("get_layer_information", layer_index)]
        return json.dumps(self._layer(node)) if as_json else str(node.name)

    def _layer(self, node: onnx.NodeProto) -> Any:
        verbosity = self._engine.profiling_verbosity.name
        if verbosity == "NONE":
            return ""
        if verbosity == "LAYER_NAMES_ONLY":
            return node.name
        return {"Name": node.name, "LayerType": node.op_type, "Inputs": list(node.input), "Outputs": list(node.output)}


HAS_RUNTIME_CONFIG = RELEASE >= (10, 10)
