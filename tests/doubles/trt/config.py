"""How to build: configuration, optimization profiles, timing caches."""

from __future__ import annotations

import json
from typing import Any

from tests.doubles.machine import machine
from tests.doubles.trt.binding import RELEASE, Bound, Dims, content, dims, integer, member, releases, text
from tests.doubles.trt.enums import BuilderFlag, MemoryPoolType, PreviewFeature, ProfilingVerbosity
from tests.doubles.trt.host_memory import IHostMemory
from tests.doubles.trt.logger import Log, usage_error
from tests.doubles.trt.progress import IProgressMonitor

_MOST_LEVEL = 5
_WHICH = ("min", "opt", "max")


class IOptimizationProfile(Bound):
    """Ranges of the inputs' shapes."""

    _hidden = True

    def __init__(self) -> None:
        super().__init__()
        self._shapes: dict[str, list[tuple[int, ...] | None]] = {}
        self._extra_memory_target = 1.0

    def __bool__(self) -> bool:
        return all(None not in ranges for ranges in self._shapes.values())

    @property
    def extra_memory_target(self) -> float:
        """How much more weight memory it may take; a hint."""
        return self._extra_memory_target

    @extra_memory_target.setter
    def extra_memory_target(self, value: float) -> None:
        self._extra_memory_target = float(value)

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        """Sets the range of an input; one after the other, each against those that are set already.

        Raises:
            ValueError: they have no order, or not one rank.
        """
        ranges = self._shapes.setdefault(text("set_shape", input), [None, None, None])
        for place, given in enumerate(dims("set_shape", one) for one in (min, opt, max)):
            if not _fits(ranges, place, given):
                raise ValueError(f"Shape provided for {_WHICH[place]} is inconsistent with other shapes.")
            ranges[place] = given

    def get_shape(self, input: str) -> list[Dims]:
        """Returns the range of an input, an empty list where none was set."""
        ranges = self._shapes.get(text("get_shape", input))
        return [] if ranges is None else [Dims(one) for one in ranges if one is not None]


def _fits(ranges: list[tuple[int, ...] | None], place: int, given: tuple[int, ...]) -> bool:
    lower = [one for one in ranges[:place] if one is not None]
    upper = [one for one in ranges[place + 1 :] if one is not None]
    if any(size < 0 for size in given) or any(len(one) != len(given) for one in lower + upper):
        return False
    below = all(a <= b for one in lower for a, b in zip(one, given, strict=True))
    return below and all(a <= b for one in upper for a, b in zip(given, one, strict=True))


class ITimingCache(Bound):
    """What earlier builds measured, for one TensorRT on one kind of device."""

    _hidden = True

    def __init__(self, entries: dict[str, float], made_for: tuple[str, str]) -> None:
        super().__init__()
        self._entries, self._made_for = entries, made_for

    def serialize(self) -> IHostMemory:
        """Returns it as bytes."""
        return IHostMemory(json.dumps({"made_for": self._made_for, "entries": self._entries}).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        """Takes over another's entries; False where it is of another TensorRT or device."""
        other = member("combine", input_cache, ITimingCache)
        if other._made_for[0] != self._made_for[0] or (other._made_for != self._made_for and not ignore_mismatch):
            return False
        self._entries = other._entries | self._entries
        return True

    def reset(self) -> bool:
        """Empties it."""
        self._entries.clear()
        return True


def _here() -> tuple[str, str]:
    config = machine().config
    return config.tensorrt, "{}.{}".format(*config.compute_capability)


@releases(until={"get_calibration_profile": (11,)})
class IBuilderConfig(Bound):
    """How a network is built."""

    _hidden = True

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self.reset()

    def reset(self) -> None:
        """Goes back to what is usual; TF32 is on."""
        self._flags = 1 << int(BuilderFlag.TF32)
        self._pools: dict[str, int] = {"WORKSPACE": machine().config.total_memory_bytes}
        self._level, self._aux_streams = 3, -1
        self._verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self._monitor: IProgressMonitor | None = None
        self._cache: ITimingCache | None = None
        self._profiles: list[IOptimizationProfile] = []
        self._features = {"PROFILE_SHARING_0806"} if RELEASE < (11,) else set()
        self._timing_iterations = 1

    @property
    def flags(self) -> int:
        """The flags as a number."""
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = integer("flags", value)

    def set_flag(self, flag: Any) -> None:
        """Sets a flag."""
        self._flags |= 1 << int(member("set_flag", flag, BuilderFlag))

    def clear_flag(self, flag: Any) -> None:
        """Clears a flag."""
        self._flags &= ~(1 << int(member("clear_flag", flag, BuilderFlag)))

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self._flags >> int(member("get_flag", flag, BuilderFlag)) & 1)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limits memory; more than the device has is an error, and does nothing."""
        size = integer("set_memory_pool_limit", pool_size)
        name = member("set_memory_pool_limit", pool, MemoryPoolType).name
        if name == "WORKSPACE" and not 0 <= size <= machine().config.total_memory_bytes:
            self._log.error(
                f"IBuilderConfig::setMemoryPoolLimit: Error Code 10: Unsupported State (Size {size} for pool {name} is larger "
                f"than the maximum {machine().config.total_memory_bytes})"
            )
            return
        self._pools[name] = size

    def get_memory_pool_limit(self, pool: Any) -> int:
        """Returns a limit."""
        return self._pools.get(member("get_memory_pool_limit", pool, MemoryPoolType).name, 0)

    @property
    def builder_optimization_level(self) -> int:
        """How hard the builder tries, 0 to 5."""
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        level = integer("builder_optimization_level", value)
        if not 0 <= level <= _MOST_LEVEL:
            self._log.error(usage_error("IBuilderConfig::setBuilderOptimizationLevel", f"level <= {_MOST_LEVEL}"))
            return
        self._level = level

    @property
    def profiling_verbosity(self) -> Any:
        """What an engine can say of its layers."""
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._verbosity = member("profiling_verbosity", value, ProfilingVerbosity)

    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        """Who is told how far the build is."""
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        self._monitor = None if value is None else member("progress_monitor", value, IProgressMonitor)

    @property
    def max_aux_streams(self) -> int:
        """How many streams an engine may use beside the caller's."""
        return self._aux_streams

    @max_aux_streams.setter
    def max_aux_streams(self, value: int) -> None:
        self._aux_streams = integer("max_aux_streams", value)

    @property
    def avg_timing_iterations(self) -> int:
        """How often each kernel is measured."""
        return self._timing_iterations

    @avg_timing_iterations.setter
    def avg_timing_iterations(self, value: int) -> None:
        self._timing_iterations = integer("avg_timing_iterations", value)

    @property
    def num_optimization_profiles(self) -> int:
        """How many profiles were added."""
        return len(self._profiles)

    def add_optimization_profile(self, profile: Any) -> int:
        """Adds a profile and returns its number, -1 where it is not valid."""
        given = member("add_optimization_profile", profile, IOptimizationProfile)
        if not given:
            return -1
        self._profiles.append(given)
        return len(self._profiles) - 1

    def get_calibration_profile(self) -> None:
        """Returns None: the double has no calibration."""
        return

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        """Switches a feature on or off."""
        name = member("set_preview_feature", feature, PreviewFeature).name
        self._features = self._features | {name} if enable else self._features - {name}

    def get_preview_feature(self, feature: Any) -> bool:
        """Whether a feature is on."""
        return member("get_preview_feature", feature, PreviewFeature).name in self._features

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache | None:
        """Reads a cache, or makes one of nothing; None where the bytes are none."""
        data = content("create_timing_cache", serialized_timing_cache)
        if not data:
            return ITimingCache.make({}, _here())
        try:
            described = json.loads(data)
            return ITimingCache.make(dict(described["entries"]), tuple(described["made_for"]))
        except (ValueError, KeyError, TypeError):
            self._log.error("IBuilderConfig::createTimingCache: Error Code 1: Serialization (Magic tag does not match)")
            return None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        """Takes a cache; False where it is of another TensorRT, or of another device and that is not ignored."""
        given = member("set_timing_cache", cache, ITimingCache)
        version, device = given._made_for
        if version != _here()[0] or (device != _here()[1] and not ignore_mismatch):
            self._log.error(
                "IBuilderConfig::setTimingCache: Error Code 4: API Usage Error (Timing cache was created for another version "
                f"or device: {version} on compute {device})"
            )
            return False
        self._cache = given
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """Returns the cache, None where none was set."""
        return self._cache
