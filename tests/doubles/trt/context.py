"""Execution contexts: shapes, addresses, and the enqueueing of work.

What the double found in the documentation of the bindings and headers (10.3 to 11.4), and holds to:

- Contexts may share a profile: the preview feature PROFILE_SHARING_0806 "is on in TensorRT 10.0", and gone in 11.
- "The pointer must have at least 256-byte alignment" (IExecutionContext::setTensorAddress), also for empty tensors non-null.
- Changing the profile "will invalidate all dynamic bindings", and it is the application's part that the stream of the change
  is ordered before that of the run (`set_optimization_profile_async`).
- After a change of shapes enqueueV3 must run once before a capture, to flush deferred updates; and one context serves one
  captured graph (developer guide, "CUDA Graphs").
- Activation memory is in use until the run is complete; used by another context meanwhile, the result is undefined.
"""

from __future__ import annotations

from typing import Any

from tests.doubles.device.streams import LEGACY, CudaError
from tests.doubles.trt.binding import Bound, Dims, dims, incompatible, integer, releases, text
from tests.doubles.trt.core import EngineCore
from tests.doubles.trt.enqueue_rules import refusal_to_run
from tests.doubles.trt.logger import Log, cuda_error, usage_error
from tests.doubles.trt.model import Shape, ShapeError
from tests.doubles.trt.profiler import IProfiler, report_layers
from tests.doubles.trt.run import Run, State

_ALIGNMENT = 256
_SET_SHAPE = "IExecutionContext::setInputShape"
_INVALID_NAME = "Given invalid tensor name: {}. Get valid tensor names with getIOTensorName()"
_ENQUEUE = "IExecutionContext::enqueueV3"


@releases(until={"all_shape_inputs_specified": (11,)})
class IExecutionContext(Bound):
    """Runs an engine."""

    _hidden = True

    def __init__(self, engine: Any, core: EngineCore, log: Log, strategy: str) -> None:
        super().__init__()
        self._engine, self._core, self._log, self._strategy = engine, core, log, strategy
        self._machine = core.machine
        self._state = State()
        self._own: int | None = None
        self._profile = -1
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._scratch, self._scratch_bytes = 0, 0
        self._profiler: IProfiler | None = None
        self._emits_profile, self._name = True, ""
        self._machine.trt_live["contexts"] += 1

    @staticmethod
    def _create(engine: Any, core: EngineCore, log: Log, strategy: str) -> IExecutionContext | None:
        """Makes one on profile 0, None where there is no memory for it."""
        made = IExecutionContext.make(engine, core, log, strategy)
        with core.machine.lock:
            core.machine.scheduler.check()
            if strategy != "USER_MANAGED" and not made._allocate(engine.device_memory_size_v2):
                return None
        if made._taken(0):
            log.warning("Could not set default profile 0 for execution context. Profile index must be set explicitly.")
        else:
            made._profile = made._state.profile = 0
        core.contexts.add(made)
        return made

    def __del__(self) -> None:
        if "_machine" not in self.__dict__:
            return
        with self._machine.lock:
            self._state.alive = False
            self._machine.trt_live["contexts"] -= 1
            if self._own is not None:
                self._machine.memory.release(self._own)

    @property
    def engine(self) -> Any:
        """The engine."""
        return self._engine

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = text("name", value)

    @property
    def active_optimization_profile(self) -> int:
        """The profile, -1 for none."""
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Takes another profile; shapes must be set again. False where it cannot, and why in the log."""
        profile = integer("set_optimization_profile_async", profile_index)
        handle = integer("set_optimization_profile_async", stream_handle)
        if not 0 <= profile < len(self._core.plan.profiles):
            condition = f"profileIndex >= 0 && profileIndex < mEngine.getNbOptimizationProfiles(). Got {profile}"
            self._log.error(usage_error("IExecutionContext::setOptimizationProfileAsync", condition))
            return False
        if self._taken(profile):
            return False
        with self._machine.lock:
            try:
                self._switch(profile, handle)
            except CudaError as error:
                self._log.error(cuda_error("IExecutionContext::setOptimizationProfileAsync", error.code))
                return False
        self._profile = profile
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """Sets an input's shape; False where the profile does not have it, and why in the log."""
        given = dims("set_input_shape", shape)
        port = self._core.inputs.get(text("set_input_shape", name))
        if port is None:
            return self._refuse(_SET_SHAPE, f"isInput(tensorName). {_INVALID_NAME.format(name)}")
        expected = [size if size >= 0 else given[i] if i < len(given) else -1 for i, size in enumerate(port.shape)]
        if list(given) != expected:
            return self._refuse(
                _SET_SHAPE,
                f"engineDims.d[i] == dims.d[i]. Static dimension mismatch while setting input shape for {name}. Set dimensions "
                f"are {_shown(given)}. Expected dimensions are {_shown(port.shape)}.",
            )
        low, _, high = self._core.plan.profiles[max(self._profile, 0)][name]
        if self._profile < 0 or any(not a <= size <= b for a, size, b in zip(low, given, high, strict=True)):
            return self._refuse(
                _SET_SHAPE,
                f"satisfyProfile. Set dimension {_shown(given)} for tensor {name} does not satisfy any optimization profiles. "
                f"Valid range for profile {self._profile}: {_shown(low)}..{_shown(high)}.",
            )
        self._shapes[name] = given
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """Returns an input's or output's shape; -1 where it is not known yet, or depends on values."""
        port = self._core.ports.get(text("get_tensor_shape", name))
        if port is None:
            self._refuse("IExecutionContext::getTensorShape", f"validTensorName. {_INVALID_NAME.format(name)}")
            return Dims()
        shapes = self._input_shapes()
        if name in self._core.inputs or self._missing_shapes():
            return Dims(shapes.get(name, port.shape))
        try:
            return Dims(self._core.model.output_shapes(shapes)[name])
        except ShapeError:
            return Dims(port.shape)

    def get_tensor_strides(self, name: str) -> Dims:
        """Returns how many elements lie between neighbours of each axis; the double's tensors are dense."""
        shape = tuple(self.get_tensor_shape(name))
        strides = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        return Dims(strides)

    def infer_shapes(self) -> list[str]:
        """Returns the inputs whose shapes are missing.

        Raises:
            RuntimeError: the shapes do not fit each other.
        """
        missing = self._missing_shapes()
        if not missing:
            try:
                self._core.model.output_shapes(self._input_shapes())
            except ShapeError as error:
                self._log.error(f"IExecutionContext::inferShapes: Error Code 7: Internal Error ({error})")
                raise RuntimeError("infer_shapes error code: -1") from None
        return missing

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether no input's shape is missing."""
        return not self._missing_shapes()

    @property
    def all_shape_inputs_specified(self) -> bool:
        """Whether no shape input's values are missing; there are none."""
        return True

    def get_max_output_size(self, name: str) -> int:
        """Returns the most bytes that an output takes in the profile, -1 where there is none."""
        if text("get_max_output_size", name) not in self._core.outputs or self._profile < 0:
            return -1
        largest = {one: ranges[2] for one, ranges in self._core.plan.profiles[self._profile].items()}
        size = self._core.outputs[name].numpy.itemsize
        for axis in self._core.model.output_shapes(largest)[name]:
            size *= axis
        return size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Says where a tensor lies; False for no device memory, or not aligned."""
        address = integer("set_tensor_address", memory)
        function = "IExecutionContext::setTensorAddress"
        if text("set_tensor_address", name) not in self._core.ports:
            return self._refuse(function, f"validTensorName. {_INVALID_NAME.format(name)}")
        if address % _ALIGNMENT:
            return self._refuse(function, f"The pointer must have at least 256-byte alignment: {name} at {address:#x}")
        if address and self._machine.memory.block(address) is None:
            return self._refuse(function, f"isDevice. {name} at {address:#x} is no device memory")
        self._addresses[name] = address
        return True

    def get_tensor_address(self, name: str) -> int:
        """Returns where a tensor lies, 0 where that was not said."""
        return self._addresses.get(text("get_tensor_address", name), 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        """Gives memory for the activations; too little is refused in the log, and by the next run."""
        address, size_bytes = integer("set_device_memory", memory), integer("set_device_memory", size)
        function = "IExecutionContext::setDeviceMemoryV2"
        if self._strategy != "USER_MANAGED":
            self._refuse(function, "strategy == kUSER_MANAGED")
        elif address % _ALIGNMENT:
            self._refuse(function, "memory is 256-byte aligned")
        elif not self._machine.memory.holds(address, size_bytes):
            self._refuse(function, f"memory is {size_bytes} bytes of the device")
        else:
            self._scratch, self._scratch_bytes = address, size_bytes

    def _set_device_memory(self, memory: int) -> None:
        address = integer("device_memory", memory)
        block = self._machine.memory.block(address)
        self.set_device_memory(address, 0 if block is None else block.end - address)

    device_memory = property(None, _set_device_memory, doc="Memory for the activations. It cannot be read.")

    def update_device_memory_size_for_shapes(self) -> int:
        """Returns how many bytes the activations take for the present shapes, 0 where some are missing."""
        if self._missing_shapes():
            self._log.error(
                "IExecutionContext::updateDeviceMemorySizeForShapes: Error Code 3: API Usage Error (shapes are missing)"
            )
            return 0
        return self._core.scratch_bytes_of(self._input_shapes())

    @property
    def profiler(self) -> IProfiler | None:
        """Who is told how long each layer took."""
        return self._profiler

    @profiler.setter
    def profiler(self, value: Any) -> None:
        if value is not None and not isinstance(value, IProfiler):
            incompatible("profiler", value)
        self._profiler = value

    @property
    def enqueue_emits_profile(self) -> bool:
        """Whether a run with a profiler waits, and reports."""
        return self._emits_profile

    @enqueue_emits_profile.setter
    def enqueue_emits_profile(self, value: bool) -> None:
        self._emits_profile = bool(value)

    def report_to_profiler(self) -> bool:
        """Reports the last run's layers; False without a profiler."""
        if self._profiler is None:
            return False
        report_layers(self._profiler, self._core.model)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queues a run; False where it cannot, and why in the log."""
        handle = integer("execute_async_v3", stream_handle)
        state = self._machine
        with state.lock:
            refusal = refusal_to_run(self._core, self._profile, self._input_shapes(), self._addresses)
            if refusal is None and (self._scratch == 0 or self._scratch_bytes < self._needed()):
                refusal = usage_error(_ENQUEUE, f"mContext.deviceMemory != nullptr. {self._needed()} bytes of it are needed")
            if refusal is None and state.fails("enqueue"):
                refusal = f"{_ENQUEUE}: Error Code 1: Cask (Cask convolution execution)"
            if refusal is not None:
                self._log.error(refusal)
                return False
            if handle == LEGACY:
                self._log.warning(
                    "Using default stream in enqueueV3() may lead to performance issues due to additional calls to "
                    "cudaStreamSynchronize() by TensorRT to ensure correct synchronization. Please use non-default stream "
                    "instead."
                )
            try:
                self._enqueue(handle)
            except CudaError as error:
                self._log.error(cuda_error(_ENQUEUE, error.code))
                return False
        return True

    def _enqueue(self, handle: int) -> None:
        state, shapes = self._machine, self._input_shapes()
        stream = state.scheduler.stream(handle)
        state.scheduler.check()
        shape_key = (self._profile, tuple(sorted(shapes.items())))
        run = Run(self._core, self._state, shapes, dict(self._addresses), self._scratch, self._needed(), shape_key)
        if stream.capture is not None:
            if self._state.flushed != shape_key:
                self._log.error("Deferred updates of shapes were not flushed: enqueueV3 must run once before the capture")
                state.scheduler.invalidate(stream.capture)
                raise CudaError(900)
            state.scheduler.submit(stream, run.replay, run.accesses)
            return
        marker = state.scheduler.submit(stream, run.run, run.accesses)
        self._state.flushed = shape_key
        if handle == LEGACY or (self._profiler is not None and self._emits_profile):
            state.scheduler.reach(marker)
        if self._profiler is not None and self._emits_profile:
            report_layers(self._profiler, self._core.model)

    def _refuse(self, function: str, condition: str) -> bool:
        self._log.error(usage_error(function, condition))
        return False

    def _needed(self) -> int:
        profile = self._core.scratch_bytes(self._profile)
        return min(profile, self._core.scratch_bytes_of(self._input_shapes())) if self._strategy == "USER_MANAGED" else profile

    def _input_shapes(self) -> dict[str, Shape]:
        static = {name: port.shape for name, port in self._core.inputs.items() if -1 not in port.shape}
        return {**static, **self._shapes}

    def _missing_shapes(self) -> list[str]:
        known = self._input_shapes()
        return [name for name in self._core.inputs if name not in known]

    def _allocate(self, size: int) -> bool:
        address = None if self._machine.fails("context-memory") else self._machine.memory.allocate(size, "tensorrt")
        if address is None:
            self._log.error("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)")
            self._log.warning(
                f"Requested amount of GPU memory ({size} bytes) could not be allocated. There may not be enough free memory "
                "for allocation to succeed."
            )
            self._log.error("ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (no further information)")
            return False
        self._own = self._scratch = address
        self._scratch_bytes = size
        return True

    def _taken(self, profile: int) -> bool:
        options = self._core.plan.options
        shared = "PROFILE_SHARING_0806" in options["features"] or self._core.plan.tensorrt.startswith("11.")
        if shared or not any(other is not self and other._profile == profile for other in self._core.contexts):
            return False
        self._log.error(
            f"Profile {profile} has been chosen by another IExecutionContext. Use another profileIndex or destroy the "
            "IExecutionContext that use this profile."
        )
        return True

    def _switch(self, profile: int, handle: int) -> None:
        scheduler = self._machine.scheduler
        stream = scheduler.stream(handle)
        if stream.capture is not None:
            scheduler.invalidate(stream.capture)
            raise CudaError(900)
        state = self._state

        def run() -> None:
            state.profile, state.ran = profile, None

        scheduler.submit(stream, run)
        state.flushed = None


def _shown(shape: Any) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"
