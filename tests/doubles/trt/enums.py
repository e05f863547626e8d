"""Enumerations as pybind11 binds them, with the members and numbers of the machine's release.

Members and numbers were read from the bindings of 10.3.0, 10.16.1.11 and 11.4.0.106. A member is no int: it is one after
`int()`, and only those that the real module declares arithmetic are equal to numbers.
"""

from __future__ import annotations

from typing import Any

from tests.doubles.trt.binding import RELEASE

_OLD = RELEASE < (11,)


class Enumeration:
    """Base of all enumerations."""

    _arithmetic = False
    __members__: dict[str, Any]

    def __init__(self, value: int) -> None:
        self._value = int(value)

    @property
    def name(self) -> str:
        """The member's name."""
        return next((name for name, one in self.__members__.items() if one._value == self._value), "???")

    @property
    def value(self) -> int:
        """The member's number."""
        return self._value

    def __int__(self) -> int:
        return self._value

    def __index__(self) -> int:
        return self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, type(self)):
            return self._value == other._value
        return self._arithmetic and isinstance(other, int) and self._value == other

    def __lt__(self, other: Any) -> bool:
        return self._compared() < int(other)

    def __le__(self, other: Any) -> bool:
        return self._compared() <= int(other)

    def __gt__(self, other: Any) -> bool:
        return self._compared() > int(other)

    def __ge__(self, other: Any) -> bool:
        return self._compared() >= int(other)

    def _compared(self) -> int:
        if not self._arithmetic:
            raise TypeError(f"members of {type(self).__name__} have no order")
        return self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self._value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def _enumeration(name: str, members: dict[str, int], *, arithmetic: bool = False) -> Any:
    kind: Any = type(name, (Enumeration,), {"_arithmetic": arithmetic})
    kind.__members__ = {one: kind(number) for one, number in members.items()}
    for one, member in kind.__members__.items():
        setattr(kind, one, member)
    return kind


def _numbered(names: str, numbers: str) -> dict[str, int]:
    return dict(zip(names.split(), map(int, numbers.split()), strict=True))


Severity = _enumeration("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}, arithmetic=True)

_TYPES = {"FLOAT": 0, "HALF": 1, "BF16": 7, "INT8": 2, "INT32": 3, "INT64": 8, "BOOL": 4, "UINT8": 5, "FP8": 6, "INT4": 9}
DataType = _enumeration("DataType", _TYPES | ({"FP4": 10, "E8M0": 11} if RELEASE >= (10, 8) else {}))
_SIZES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1, "UINT8": 1, "FP8": 1, "INT4": 0.5}
DataType.itemsize = property(lambda self: (_SIZES | {"FP4": 0.5}).get(self.name))

TensorIOMode = _enumeration("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
TensorLocation = _enumeration("TensorLocation", {"DEVICE": 0, "HOST": 1})
ProfilingVerbosity = _enumeration("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "DETAILED": 2, "NONE": 1})
LayerInformationFormat = _enumeration("LayerInformationFormat", {"ONELINE": 0, "JSON": 1})
ExecutionContextAllocationStrategy = _enumeration(
    "ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}, arithmetic=True
)
MemoryPoolType = _enumeration(
    "MemoryPoolType",
    _numbered(
        "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM TACTIC_SHARED_MEMORY",
        "0 1 2 3 4 5",
    ),
)

if _OLD:
    NetworkDefinitionCreationFlag = _enumeration(
        "NetworkDefinitionCreationFlag",
        {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        | ({"PREFER_AOT_PYTHON_PLUGINS": 3, "PREFER_JIT_PYTHON_PLUGINS": 2} if RELEASE >= (10, 9) else {}),
        arithmetic=True,
    )
else:
    NetworkDefinitionCreationFlag = _enumeration(
        "NetworkDefinitionCreationFlag",
        {"STRONGLY_TYPED": 0, "PREFER_AOT_PYTHON_PLUGINS": 2, "PREFER_JIT_PYTHON_PLUGINS": 1},
        arithmetic=True,
    )

_FLAGS_10_3 = _numbered(
    "FP16 BF16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS "
    "PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME FP8 "
    "ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE WEIGHTLESS STRIP_PLAN REFIT_IDENTICAL WEIGHT_STREAMING INT4 "
    "REFIT_INDIVIDUAL",
    "0 17 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 18 19 19 20 21 22 23",
)
_FLAGS_10_16 = _numbered("STRICT_NANS MONITOR_MEMORY FP4 EDITABLE_TIMING_CACHE DISTRIBUTIVE_INDEPENDENCE", "24 25 26 27 28")
_FLAGS_11 = _numbered(
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE EDITABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE DIRECT_IO "
    "VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE STRIP_PLAN REFIT_IDENTICAL "
    "WEIGHT_STREAMING REFIT_INDIVIDUAL STRICT_NANS MONITOR_MEMORY DISTRIBUTIVE_INDEPENDENCE",
    "2 3 4 5 26 6 7 8 11 12 13 15 17 18 19 20 22 23 24 27",
)
BuilderFlag = _enumeration(
    "BuilderFlag", (_FLAGS_10_3 | (_FLAGS_10_16 if RELEASE >= (10, 14) else {})) if _OLD else _FLAGS_11, arithmetic=True
)

_FEATURES = {"PROFILE_SHARING_0806": 0, "ALIASED_PLUGIN_IO_10_03": 1}
if RELEASE >= (10, 10):
    _FEATURES["RUNTIME_ACTIVATION_RESIZE_10_10"] = 2
if RELEASE >= (10, 16):
    _FEATURES["MULTIDEVICE_RUNTIME_10_16"] = 3
PreviewFeature = _enumeration(
    "PreviewFeature", _FEATURES if _OLD else {"ALIASED_PLUGIN_IO_10_03": 0, "RUNTIME_ACTIVATION_RESIZE_10_10": 1}
)
ErrorCode = _enumeration(
    "ErrorCode",
    _numbered(
        "SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE INVALID_GRAPH INVALID_NODE "
        "UNSUPPORTED_GRAPH UNSUPPORTED_NODE UNSUPPORTED_NODE_ATTR UNSUPPORTED_NODE_INPUT UNSUPPORTED_NODE_DATATYPE "
        "UNSUPPORTED_NODE_DYNAMIC UNSUPPORTED_NODE_SHAPE REFIT_FAILED",
        "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14",
    ),
)
