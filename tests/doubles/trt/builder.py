"""Builds plans: what the builder checks, and what it refuses in the log."""

from __future__ import annotations

import math
from typing import Any

from tests.doubles.machine import machine
from tests.doubles.trt.binding import Bound, integer, member, releases
from tests.doubles.trt.build_rules import profile_ranges, refusals
from tests.doubles.trt.config import IBuilderConfig, IOptimizationProfile
from tests.doubles.trt.enums import BuilderFlag
from tests.doubles.trt.host_memory import IHostMemory
from tests.doubles.trt.logger import Log
from tests.doubles.trt.network import INetworkDefinition
from tests.doubles.trt.plan import Plan, write_plan
from tests.doubles.trt.progress import Progress

_BUILD = "IBuilder::buildSerializedNetwork: "


@releases(until={"platform_has_fast_fp16": (11,), "platform_has_fast_int8": (11,), "platform_has_tf32": (11,)})
class Builder(Bound):
    """Builds networks. Without a device it cannot be made."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._log = Log(logger, "__init__")
        self._threads = 1
        if not machine().has_device:
            number = 35 if "driver-too-old" in machine().config.faults else 100
            self._log.error(
                f"CUDA initialization failure with error: {number}. Please check your CUDA installation:  "
                "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html"
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def logger(self) -> Any:
        """The logger."""
        return self._log.logger

    @property
    def max_threads(self) -> int:
        """How many threads it may use."""
        return self._threads

    @max_threads.setter
    def max_threads(self, value: int) -> None:
        self._threads = integer("max_threads", value)

    @property
    def platform_has_fast_fp16(self) -> bool:
        """Whether FP16 is faster than FP32."""
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        """Whether INT8 is faster than FP32."""
        return True

    @property
    def platform_has_tf32(self) -> bool:
        """Whether there is TF32."""
        return True

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        """Makes an empty network."""
        return INetworkDefinition.make(integer("create_network", flags), self._log)

    def create_builder_config(self) -> IBuilderConfig:
        """Makes a configuration."""
        return IBuilderConfig.make(self._log)

    def create_optimization_profile(self) -> IOptimizationProfile:
        """Makes a profile."""
        return IOptimizationProfile.make()

    def build_serialized_network(self, network: Any, config: Any) -> IHostMemory | None:
        """Builds a plan; None where it cannot, and why in the log."""
        given = member("build_serialized_network", network, INetworkDefinition)
        chosen = member("build_serialized_network", config, IBuilderConfig)
        refusal = next(refusals(given, chosen), None)
        if refusal is not None:
            self._log.error(_BUILD + refusal)
            return None
        if not given._strongly_typed:
            self._log.warning("The network is weakly typed: TensorRT chooses the types of layers")
        if not self._tactics(given):
            return None
        if not Progress(chosen._monitor, machine().config.step_seconds).run():
            self._log.error(f"{_BUILD}Error Code 4: Internal Error (Build was cancelled by the progress monitor)")
            return None
        _measure(given, chosen)
        return IHostMemory(write_plan(_plan(given, chosen)))

    def _tactics(self, network: INetworkDefinition) -> bool:
        model = network._shaped()
        assert model is not None
        node = f"{{ForeignNode[{model.proto.graph.node[0].name}...]}}"
        if machine().fails("build-memory"):
            self._log.error("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)")
            self._log.warning(
                "Requested amount of GPU memory (15485030400 bytes) could not be allocated. There may not be enough free "
                "memory for allocation to succeed."
            )
        elif not machine().fails("build-fails"):
            return True
        self._log.error(f"{_BUILD}Error Code 10: Internal Error (Could not find any implementation for node {node}.)")
        return False


def _plan(network: INetworkDefinition, config: IBuilderConfig) -> Plan:
    model = network._shaped()
    assert model is not None
    here = machine().config
    aliases = {node.output[0]: node.input[0] for _, node in model.nodes() if node.op_type == "TensorScatter"}
    options = {
        "level": config._level,
        "pools": config._pools,
        "flags": [name for name, flag in BuilderFlag.__members__.items() if config.get_flag(flag)],
        "verbosity": config._verbosity.name,
        "aux_streams": config._aux_streams,
        "features": sorted(config._features),
    }
    profiles, content = profile_ranges(config, model), model.proto.SerializeToString()
    return Plan(
        here.tensorrt,
        here.compute_capability,
        here.device_name,
        profiles,
        network._strongly_typed,
        aliases,
        options,
        content,
    )


def _measure(network: INetworkDefinition, config: IBuilderConfig) -> None:
    """Writes what was measured into the timing cache."""
    model = network._shaped()
    if config._cache is None or model is None or config.get_flag(BuilderFlag.DISABLE_TIMING_CACHE):
        return
    for profile in profile_ranges(config, model):
        size = sum(math.prod(ranges[1]) for ranges in profile.values())
        for _, node in model.nodes():
            config._cache._entries.setdefault(f"{node.op_type} {node.name} {size}", 0.01)
