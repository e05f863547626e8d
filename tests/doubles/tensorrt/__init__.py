"""The double of `tensorrt`; see `tests.doubles`. Its names are those of the machine's release."""

from typing import Any as _Any

from tests.doubles.machine import machine as _machine

for _fault, _library in {"no-libnvinfer": "libnvinfer.so.{}", "no-libnvdla": "libnvdla_compiler.so"}.items():
    if _machine().fails(_fault):
        _name = _library.format(_machine().config.tensorrt_release[0])
        raise ImportError(f"{_name}: cannot open shared object file: No such file or directory")
if _machine().fails("no-tensorrt"):
    raise ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt")

from tests.doubles.trt.binding import Dims  # noqa: E402
from tests.doubles.trt.builder import Builder  # noqa: E402 - after the faults
from tests.doubles.trt.config import IBuilderConfig, IOptimizationProfile, ITimingCache  # noqa: E402
from tests.doubles.trt.context import IExecutionContext  # noqa: E402
from tests.doubles.trt.engine import HAS_RUNTIME_CONFIG as _HAS_RUNTIME_CONFIG  # noqa: E402
from tests.doubles.trt.engine import EngineInspector, ICudaEngine, Runtime  # noqa: E402
from tests.doubles.trt.enums import (  # noqa: E402
    BuilderFlag,
    DataType,
    ErrorCode,
    ExecutionContextAllocationStrategy,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    PreviewFeature,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
)
from tests.doubles.trt.host_memory import IHostMemory  # noqa: E402
from tests.doubles.trt.logger import ILogger, Logger  # noqa: E402
from tests.doubles.trt.network import INetworkDefinition, ITensor  # noqa: E402
from tests.doubles.trt.parser import OnnxParser, ParserError  # noqa: E402
from tests.doubles.trt.profiler import IProfiler  # noqa: E402
from tests.doubles.trt.progress import IProgressMonitor  # noqa: E402

if _HAS_RUNTIME_CONFIG:
    from tests.doubles.trt.engine import IRuntimeConfig  # noqa: F401

__version__ = _machine().config.tensorrt

float32, float16, bfloat16 = DataType.FLOAT, DataType.HALF, DataType.BF16
int8, int32, int64, uint8 = DataType.INT8, DataType.INT32, DataType.INT64, DataType.UINT8
bool = DataType.BOOL


def volume(iterable: _Any) -> int:
    """Returns the product of sizes."""
    product = 1
    for size in iterable:
        product *= size
    return product


def nptype(trt_type: _Any) -> _Any:
    """Returns numpy's type.

    Raises:
        TypeError: numpy has none.
    """
    import numpy as np

    known = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64}
    known |= {"BOOL": np.bool_, "UINT8": np.uint8}
    if trt_type.name not in known:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return known[trt_type.name]


def init_libnvinfer_plugins(logger: _Any, namespace: str) -> _Any:
    """Registers plugins, of which the double has none."""
    return isinstance(logger, ILogger) and isinstance(namespace, str)


__all__ = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "Dims",
    "EngineInspector",
    "ErrorCode",
    "ExecutionContextAllocationStrategy",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "IProgressMonitor",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "PreviewFeature",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "TensorLocation",
]
