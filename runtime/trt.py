"""TensorRT: plans in memory, sessions, and a bundle's engine made of them.

Written against the signatures of the real bindings from 10.3 to 11.4 and run with a double of them: no device was at hand.

What runs, runs in a lane: a stream, and the memory that the activations of all engines of the lane share, one run at a time.
The vision experts have one lane, and what answers a question another, so that the next frames can be encoded while a question
is being answered; where memory does not allow two, all take turns in one.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import tensorrt as trt

from leo_edge.runtime.backend import Array, Decoder, Session, Tensor
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.cuda import ALIGNMENT, Block, MemoryPool, PinnedBuffer, Stream, aligned, describe_device
from leo_edge.runtime.device_array import Copies, DeviceArray
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.engines import EngineRecord, find_engines
from leo_edge.runtime.errors import BackendError, BundleError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.graph_tiler import GraphTiler
from leo_edge.runtime.manifest import GraphSpec
from leo_edge.runtime.tiles import TileBatch, TilingConfig
from leo_edge.runtime.trt_api import CollectingLogger, new_logger, translate_refusal


def find(bundle: Bundle) -> tuple[Path, EngineRecord]:
    """Returns the directory and the record of the engines for this device.

    Raises:
        BackendError: there is no device, or there are no engines for it.
    """
    return find_engines(bundle, trt.__version__, describe_device())


class Lane:
    """A stream and the memory that its engines compute in. Whoever holds `lock` runs."""

    def __init__(self) -> None:
        self.stream, self.lock = Stream(), threading.RLock()
        self.scratch: Block | None = None


class LoadedPlan:
    """An engine in memory and its contexts, one per optimization profile."""

    def __init__(self, name: str, path: Path, runtime: trt.Runtime, log: CollectingLogger, mend: str) -> None:
        """Loads a plan; `mend` is what to do if TensorRT refuses it.

        Raises:
            BackendError: TensorRT refuses it.
        """
        self.name, self._log, self._mend = name, log, mend
        log.clear()
        try:
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan,
                memoryview(plan) as view,
            ):
                engine = runtime.deserialize_cuda_engine(view)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise BackendError(f"cannot read {path} ({error}): {mend}") from None
        if engine is None:
            raise BackendError(f"{path}: {translate_refusal(log.messages, mend)}")
        self.engine: trt.ICudaEngine = engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = [port for port in names if engine.get_tensor_mode(port) == trt.TensorIOMode.INPUT]
        self.outputs = [port for port in names if engine.get_tensor_mode(port) == trt.TensorIOMode.OUTPUT]
        self.dtypes: dict[str, np.dtype[Any]] = {port: np.dtype(trt.nptype(engine.get_tensor_dtype(port))) for port in names}
        self._contexts: dict[int, trt.IExecutionContext] = {}

    @property
    def scratch_bytes(self) -> int:
        """How much memory its activations take, in the largest profile."""
        return int(self.engine.device_memory_size_v2)

    def check_ports(self, spec: GraphSpec) -> None:
        """Checks inputs and outputs against the manifest.

        Raises:
            BundleError: they are not those of the manifest.
        """
        for ports, found in ((spec.inputs, self.inputs), (spec.outputs, self.outputs)):
            wanted = {port.name: port.dtype for port in ports}
            got = {name: self.dtypes[name].name for name in found}
            if got != wanted:
                raise BundleError(f"engine {self.name} has {got}, the manifest says {wanted}: {self._mend}")

    def profile_shapes(self, port: str, profile: int) -> tuple[tuple[int, ...], ...]:
        """Returns the least, the likeliest and the largest shape of an input in a profile."""
        return tuple(tuple(shape) for shape in self.engine.get_tensor_profile_shape(port, profile))

    def context(self, profile: int, lane: Lane) -> trt.IExecutionContext:
        """Returns the context of a profile, which computes in the lane's memory.

        Raises:
            BackendError: TensorRT refuses to make it.
        """
        if profile not in self._contexts:
            self._log.clear()
            context = self.engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if context is None:
                raise self.refused("cannot make a context")
            assert lane.scratch is not None
            context.set_device_memory(lane.scratch.pointer, lane.scratch.size_bytes)
            if not context.set_optimization_profile_async(profile, int(lane.stream.handle)):
                raise self.refused(f"cannot take profile {profile}")
            lane.stream.wait()
            self._contexts[profile] = context
        return self._contexts[profile]

    def bind_input(self, context: trt.IExecutionContext, port: str, shape: Sequence[int], pointer: int) -> None:
        """Says where an input lies and how large it is.

        Raises:
            BackendError: the shape is outside of the profile.
        """
        self._log.clear()
        if not context.set_input_shape(port, tuple(shape)):
            ranges = [list(one) for one in self.profile_shapes(port, context.active_optimization_profile)]
            raise BackendError(
                f"engine {self.name} was built for {port} from {ranges[0]} to {ranges[2]}, got {list(shape)}: {self._mend} "
                "with larger --profile-tiles or --context, or ask for less"
            )
        self.bind(context, port, pointer)

    def bind(self, context: trt.IExecutionContext, port: str, pointer: int) -> None:
        """Says where an input or output lies."""
        assert pointer % ALIGNMENT == 0, f"{self.name}: {port} at {pointer:#x}"
        if not context.set_tensor_address(port, pointer):
            raise self.refused(f"refuses the address of {port}")

    def run(self, context: trt.IExecutionContext, stream: Stream) -> None:
        """Queues a run.

        Raises:
            BackendError: TensorRT refuses.
        """
        self._log.clear()
        if not context.execute_async_v3(int(stream.handle)):
            raise self.refused("cannot run")

    def refused(self, what: str) -> BackendError:
        """Returns an error of TensorRT's last refusal."""
        return BackendError(f"engine {self.name} {what}: {translate_refusal(self._log.messages, self._mend)}")


class TrtSession:
    """A graph in TensorRT. Outputs stay on the device, and inputs that are there are read where they lie."""

    def __init__(self, plan: LoadedPlan, lane: Lane, copies: Copies) -> None:
        self.plan, self._lane, self._copies = plan, lane, copies
        self._staging = PinnedBuffer()
        self._buffers: dict[str, Block] = {}

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the graph on named arrays, on the host or on the device, and returns its named outputs, on the device.

        Raises:
            BackendError: an input is missing, too many, of another type or too large, or TensorRT refuses.
        """
        plan, stream = self.plan, self._lane.stream
        if set(inputs) != set(plan.inputs):
            raise BackendError(f"engine {plan.name} takes {', '.join(plan.inputs)}, got {', '.join(inputs)}")
        arrays = {port: _checked(plan, port, array) for port, array in inputs.items()}
        with self._lane.lock, stream.ending():
            context = plan.context(0, self._lane)
            for (port, array), pointer in zip(arrays.items(), self._place(list(arrays.items())), strict=True):
                plan.bind_input(context, port, array.shape, pointer)
            outputs: dict[str, Tensor] = {}
            for port in plan.outputs:
                made = self._copies.empty(tuple(context.get_tensor_shape(port)), plan.dtypes[port])
                plan.bind(context, port, made.pointer)
                outputs[port] = made
            plan.run(context, stream)
        return outputs

    def _place(self, arrays: Sequence[tuple[str, Array | DeviceArray]]) -> list[int]:
        """Returns where each input lies on the device, copying there what is on the host or not aligned."""
        on_host = [array for _, array in arrays if isinstance(array, np.ndarray)]
        staging = self._staging.reserve(sum(aligned(array.nbytes) for array in on_host))
        pointers, at = [], 0
        for port, array in arrays:
            if isinstance(array, DeviceArray) and array.pointer % ALIGNMENT == 0:
                pointers.append(array.pointer)
                continue
            block = self._buffers.get(port)
            if block is None or block.size_bytes < array.nbytes:
                block = self._buffers[port] = self._copies.pool.allocate(array.nbytes)
            if isinstance(array, DeviceArray):
                self._lane.stream.copy(block.pointer, array.pointer, array.nbytes)
            else:
                staging[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
                self._lane.stream.upload(block.pointer, self._staging.pointer + at, array.nbytes)
                at += aligned(array.nbytes)
            pointers.append(block.pointer)
        return pointers


class TrtEngine:
    """A bundle in TensorRT."""

    def __init__(self, bundle: Bundle, table: EmbeddingTable) -> None:
        """Loads the engines that were built for this device.

        Raises:
            BackendError: there is no device, no engine for it, or TensorRT refuses one.
            BundleError: an engine does not fit the manifest.
        """
        from leo_edge.runtime.trt_decoder import TrtDecoder

        directory, record = find(bundle)  # before anything of TensorRT: without a device its runtime crashes
        self._device = record.device
        self._log = new_logger()
        self._runtime = trt.Runtime(self._log)
        self._pool = MemoryPool()
        self._copies = Copies(self._pool)
        mend = f"run `leo-edge build {bundle.directory}` on this device"
        self._plans: dict[str, LoadedPlan] = {}
        for name, spec in record.engines.items():
            if name in bundle.manifest.graphs:
                self._plans[name] = LoadedPlan(name, directory / spec.file, self._runtime, self._log, mend)
                self._plans[name].check_ports(bundle.manifest.graphs[name])
        self._frames, self._answers = Lane(), Lane()
        for_frames = {"tiles", *(f"vision.{expert.name}" for expert in bundle.manifest.experts)}
        if not bundle.manifest.fuse.uses_text:
            for_frames.add("fuse")
        lanes = {name: self._frames if name in for_frames else self._answers for name in self._plans}
        self._sessions = {
            name: TrtSession(plan, lanes[name], self._copies) for name, plan in self._plans.items() if name != "llm"
        }
        self.sessions: Mapping[str, Session] = self._sessions
        self._decoder = TrtDecoder(self._plans["llm"], self._answers, self._copies, bundle.manifest.decoder, table)
        self.decoder: Decoder = self._decoder
        self._give_scratch(lanes)  # what is left, after weights and cache
        self._decoder.warm_up()
        self._tiler = GraphTiler(self._sessions["tiles"], self._copies.upload) if "tiles" in self._sessions else None

    @property
    def description(self) -> str:
        """Names TensorRT, the device, and what it had to do without."""
        notes = [f"TensorRT {trt.__version__} {self._device.name}"]
        if self._frames.scratch is self._answers.scratch:
            notes.append("frames and answers take turns, for want of memory")
        return ", ".join([*notes, *self._decoder.notes])

    def tiles_per_run(self, graph: str, /) -> int:
        """How many tiles an expert's engine was built for."""
        return int(self._plans[graph].profile_shapes("tiles", 0)[2][0])

    def cut(self, frame_set: FrameSet, tiling: TilingConfig) -> TileBatch:
        """Cuts the frames on the device if all have the size that the engine was built for, else on the host."""
        if self._tiler is None or not all(self._takes(frame.image.shape) for frame in frame_set.frames.values()):
            return TileBatch.from_frames(frame_set, tiling)
        with self._frames.lock:
            cameras = self._tiler.cut(frame_set, tiling)
            tiles = self._copies.concatenate([part for camera in cameras for part in camera.parts])
        counts, stamps = (tuple(values) for values in zip(*((one.count, one.stamp_ns) for one in cameras), strict=True))
        return TileBatch(cast(Any, tiles), frame_set.channels, counts, stamps)

    def upload(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Puts an array on the device."""
        return self._copies.upload(array)

    def concatenate(self, arrays: Sequence[Tensor]) -> Tensor:
        """Puts arrays on the device one behind the other, along their first axis; on the host, if that is where they are."""
        if isinstance(arrays[0], np.ndarray):
            return np.concatenate(arrays)
        return self._copies.concatenate(arrays)

    def _takes(self, image_shape: tuple[int, ...]) -> bool:
        """Whether the engine of the tiles was built for images of this shape."""
        least, _, most = self._plans["tiles"].profile_shapes("image", 0)
        return all(low <= size <= high for low, size, high in zip(least, image_shape, most, strict=True))

    def _give_scratch(self, lanes: Mapping[str, Lane]) -> None:
        """Gives each lane scratch memory of its own, or one to both where memory is short: then they take turns."""
        frames, answers = (
            max(self._plans[name].scratch_bytes for name, lane in lanes.items() if lane is wanted)
            for wanted in (self._frames, self._answers)
        )
        try:
            blocks = [self._pool.allocate(frames), self._pool.allocate(answers)]
        except BackendError:
            blocks = []
        if not blocks:  # not above: the error would hold on to the first of the two
            self._pool.release_unused()
            blocks = [self._pool.allocate(max(frames, answers))] * 2
            self._frames.lock = self._answers.lock
        self._frames.scratch, self._answers.scratch = blocks


def _checked(plan: LoadedPlan, port: str, array: Tensor) -> Array | DeviceArray:
    """Returns an input as it can be copied: of the engine's type, and in one piece if it is on the host."""
    if array.dtype != plan.dtypes[port]:
        raise BackendError(f"engine {plan.name} takes {port} as {plan.dtypes[port]}, got {array.dtype}")
    return array if isinstance(array, DeviceArray) else np.ascontiguousarray(array)
