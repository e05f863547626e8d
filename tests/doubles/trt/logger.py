"""Loggers, and how the library writes to the application's."""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.doubles.trt.binding import Bound, incompatible, member
from tests.doubles.trt.enums import Severity as _Severity


class ILogger(Bound):
    """What the library writes to; applications derive from it and call its constructor."""

    Severity = _Severity
    INTERNAL_ERROR, ERROR, WARNING = _Severity.INTERNAL_ERROR, _Severity.ERROR, _Severity.WARNING
    INFO, VERBOSE = _Severity.INFO, _Severity.VERBOSE

    def log(self, severity: Any, msg: str) -> None:  # noqa: ARG002 - the real names
        """Takes a message."""
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Writes messages to the standard error."""

    def __init__(self, min_severity: Any = _Severity.WARNING) -> None:
        super().__init__()
        self._min_severity = member("__init__", min_severity, _Severity)

    @property
    def min_severity(self) -> Any:
        """The least severe that is shown."""
        return self._min_severity

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._min_severity = member("min_severity", value, _Severity)

    def log(self, severity: Any, msg: str) -> None:
        """Writes a message."""
        if severity <= self._min_severity:
            letter = {"INTERNAL_ERROR": "F", "ERROR": "E", "WARNING": "W", "INFO": "I", "VERBOSE": "V"}[severity.name]
            print(f"[{time.strftime('%m/%d/%Y-%H:%M:%S')}] [TRT] [{letter}] {msg}", file=sys.stderr)


_CUDA_TEXTS = {
    2: "out of memory",
    400: "invalid resource handle",
    700: "an illegal memory access was encountered",
    900: "operation not permitted when stream is capturing",
    901: "operation failed due to a previous error during capture",
}


class Log:
    """The library's side of a logger."""

    def __init__(self, logger: Any, function: str) -> None:
        if not isinstance(logger, ILogger):
            incompatible(function, logger)
        self.logger = logger

    def error(self, message: str) -> None:
        """Reports an error."""
        self._write(_Severity.ERROR, message)

    def warning(self, message: str) -> None:
        """Reports a warning."""
        self._write(_Severity.WARNING, message)

    def info(self, message: str) -> None:
        """Reports something to know."""
        self._write(_Severity.INFO, message)

    def _write(self, severity: Any, message: str) -> None:
        try:
            self.logger.log(severity, message)
        except Exception as error:  # noqa: BLE001 - the bindings swallow all of them (python/src/infer/pyCore.cpp)
            print(f"[ERROR] Exception caught in log(): {error}", file=sys.stderr)


def usage_error(function: str, condition: str) -> str:
    """Returns what is logged where an argument breaks a condition."""
    return f"{function}: Error Code 3: API Usage Error (Parameter check failed, condition: {condition})"


def cuda_error(function: str, code: int) -> str:
    """Returns what is logged where a call of CUDA fails."""
    return f"{function}: Error Code 1: Cuda Runtime ({_CUDA_TEXTS.get(code, f'error {code}')})"
