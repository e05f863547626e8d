"""The enumerations and handles of `cuda.bindings.runtime` that the double has, with the real names and numbers.

Numbers were read from cuda-bindings 12.9.10 and 13.5.0, which import without a device.
"""

from __future__ import annotations

from enum import IntEnum

# Names are the real ones.
# ruff: noqa: N801, N815


class cudaError_t(IntEnum):
    """Results of calls."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInvalidMemcpyDirection = 21
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorMisalignedAddress = 716
    cudaErrorLaunchFailure = 719
    cudaErrorNotSupported = 801
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureMerge = 902
    cudaErrorStreamCaptureUnmatched = 903
    cudaErrorStreamCaptureUnjoined = 904
    cudaErrorStreamCaptureIsolation = 905
    cudaErrorStreamCaptureImplicit = 906
    cudaErrorCapturedEvent = 907
    cudaErrorStreamCaptureWrongThread = 908
    cudaErrorUnknown = 999


ERROR_TEXTS = {
    cudaError_t.cudaSuccess: b"no error",
    cudaError_t.cudaErrorInvalidValue: b"invalid argument",
    cudaError_t.cudaErrorMemoryAllocation: b"out of memory",
    cudaError_t.cudaErrorInitializationError: b"initialization error",
    cudaError_t.cudaErrorInvalidMemcpyDirection: b"invalid copy direction for memcpy",
    cudaError_t.cudaErrorInsufficientDriver: b"CUDA driver version is insufficient for CUDA runtime version",
    cudaError_t.cudaErrorNoDevice: b"no CUDA-capable device is detected",
    cudaError_t.cudaErrorInvalidDevice: b"invalid device ordinal",
    cudaError_t.cudaErrorInvalidResourceHandle: b"invalid resource handle",
    cudaError_t.cudaErrorNotReady: b"device not ready",
    cudaError_t.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
    cudaError_t.cudaErrorMisalignedAddress: b"misaligned address",
    cudaError_t.cudaErrorLaunchFailure: b"unspecified launch failure",
    cudaError_t.cudaErrorNotSupported: b"operation not supported",
    cudaError_t.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
    cudaError_t.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error during capture",
    cudaError_t.cudaErrorStreamCaptureMerge: b"operation would result in a merge of separate capture sequences",
    cudaError_t.cudaErrorStreamCaptureUnmatched: b"capture was not ended in the same stream as it began",
    cudaError_t.cudaErrorStreamCaptureUnjoined: b"capturing stream has unjoined work",
    cudaError_t.cudaErrorStreamCaptureIsolation: b"dependency created on uncaptured work in another stream",
    cudaError_t.cudaErrorStreamCaptureImplicit: (
        b"operation would make the legacy stream depend on a capturing blocking stream"
    ),
    cudaError_t.cudaErrorCapturedEvent: b"operation not permitted on an event last recorded in a capturing stream",
    cudaError_t.cudaErrorStreamCaptureWrongThread: (
        b"attempt to terminate a thread-local capture sequence from another thread"
    ),
    cudaError_t.cudaErrorUnknown: b"unknown error",
}


class cudaMemcpyKind(IntEnum):
    """Directions of copies."""

    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(IntEnum):
    """What else is forbidden while a stream is captured."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaStreamCaptureStatus(IntEnum):
    """Whether a stream is being captured."""

    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


class cudaDeviceAttr(IntEnum):
    """What can be asked of a device."""

    cudaDevAttrTextureAlignment = 14
    cudaDevAttrMultiProcessorCount = 16
    cudaDevAttrIntegrated = 18
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class Handle:
    """A number that stands for something of CUDA's. Not equal to the number itself, as in the real module."""

    _driver_name = ""

    def __init__(self, init_value: object = 0) -> None:
        if not isinstance(init_value, (int, Handle)):
            raise TypeError("an integer is required")
        self._value = int(init_value)

    def __int__(self) -> int:
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"<{self._driver_name} {self._value:#x}>"


class cudaStream_t(Handle):
    """A stream."""

    _driver_name = "CUstream"


class cudaEvent_t(Handle):
    """An event."""

    _driver_name = "CUevent"


class cudaGraph_t(Handle):
    """A graph."""

    _driver_name = "CUgraph"


class cudaGraphExec_t(Handle):
    """A graph that is ready to launch."""

    _driver_name = "CUgraphExec"


class cudaDeviceProp:
    """What a device is: of the real structure the members that the double knows."""

    def __init__(self) -> None:
        self.name = b""
        self.major = 0
        self.minor = 0
        self.totalGlobalMem = 0
        self.multiProcessorCount = 0
        self.integrated = 0
        self.canMapHostMemory = 0
        self.textureAlignment = 0
