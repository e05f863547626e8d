"""What building and running engines share of TensorRT, and where its releases 10.3 to 11 want care.

Importing this module needs no TensorRT: `import_tensorrt` is asked first, and says in one line what is missing.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from leo_edge.runtime.errors import BackendError

OLDEST = (10, 3)

_ERROR = 1  # ILogger.Severity: INTERNAL_ERROR 0, ERROR 1, WARNING 2, INFO 3, VERBOSE 4
_WARNING = 2
_MISSING_LIBRARY = re.compile(r"(lib[\w+.-]+\.so[\w.]*)")
# What precedes the text of a message: "[file.cpp::function::12]", "IBuilder::f:", "Error Code 4: Internal Error".
_PLACES = re.compile(r"^(?:\d+: )?(?:\[[^\]]*::[^\]]*\] ?)?(?:[\w:]+::\w+: )?(?:Error Code \d+: )?")


def import_tensorrt() -> ModuleType:
    """Imports TensorRT.

    Raises:
        BackendError: it is not installed, a library that it needs is missing, or it is older than this project knows.
    """
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorrt":
            raise BackendError(f"TensorRT's Python package is incomplete ({error}): install it again") from None
        raise BackendError(
            "TensorRT's Python package is not installed: on a Jetson it is JetPack's python3-libnvinfer, which a virtual "
            "environment sees if made with --system-site-packages; elsewhere pip install tensorrt"
        ) from None
    except (ImportError, OSError) as error:  # OSError: the package opens its libraries by ctypes
        raise BackendError(_missing_library(str(error))) from None
    if version_of(tensorrt)[:2] < OLDEST:
        raise BackendError(
            f"TensorRT {tensorrt.__version__} is older than {'.'.join(map(str, OLDEST))}: update it (JetPack 6.2 has 10.3)"
        )
    return tensorrt


def version_of(tensorrt: ModuleType) -> tuple[int, ...]:
    """Returns TensorRT's release as numbers: 10.16.1.11 as (10, 16, 1, 11)."""
    return tuple(int(number) for number in re.findall(r"\d+", str(tensorrt.__version__).partition("+")[0]))


def _missing_library(text: str) -> str:
    found = _MISSING_LIBRARY.search(text)
    library = found[1] if found else None
    if library is None:
        return f"TensorRT cannot be imported ({' '.join(text.split())}): install it again"
    if library.startswith("libnvdla_compiler"):
        return (
            f"TensorRT misses {library}, which JetPack 6 keeps on the host: start the container with --runtime nvidia, or "
            "install nvidia-l4t-dla-compiler on the host; JetPack 7 has none and needs an image made for it"
        )
    if library.startswith("libcuda."):
        return f"TensorRT misses {library}, the CUDA driver: start the container with --runtime nvidia, or install the driver"
    return (
        f"TensorRT misses {library}: install the libraries of the same release as its Python package "
        "(JetPack: apt install libnvinfer-bin), and see that the library path finds them"
    )


@dataclass(frozen=True)
class Message:
    """What TensorRT said. `severity` is its own number: 0 and 1 are errors, 2 a warning."""

    severity: int
    text: str


class CollectingLogger:
    """Keeps TensorRT's errors and warnings: what it refuses, it explains nowhere else. `new_logger` makes one that it takes."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def keep(self, severity: int, text: str) -> None:
        """Takes a message; TensorRT sends them from several threads."""
        if severity <= _WARNING:
            self._messages.append(Message(severity, text))  # appending to a list is atomic

    @property
    def errors(self) -> list[str]:
        """The errors, first to last."""
        return [message.text for message in self._messages if message.severity <= _ERROR]

    @property
    def messages(self) -> list[str]:
        """The errors, first to last, then the warnings: an error says more."""
        return self.errors + [message.text for message in self._messages if message.severity > _ERROR]

    def clear(self) -> None:
        """Forgets all: what comes now belongs to the next call."""
        self._messages.clear()


def new_logger() -> Any:
    """Returns a `CollectingLogger` that is TensorRT's `ILogger` too. It must live as long as what it was given to."""
    import tensorrt

    class Logger(CollectingLogger, tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            CollectingLogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            self.keep(int(severity), msg)

    return Logger()


@dataclass(frozen=True)
class _Refusal:
    """A text of TensorRT, what it means, and what mends it; no mend: that of the caller."""

    pattern: re.Pattern[str]
    meaning: str
    mend: str | None = None


_MEMORY = (
    "end what else takes memory, or build for less: fewer --profile-tiles, a smaller --context, --workspace-mb or --opt-level, "
    "--safe-memory"
)
_EXPORT = "`leo-edge lint` says what this TensorRT reads; export again with --opset 20, or update TensorRT"
# In the order in which they explain: a cause comes before what follows from it.
_REFUSALS = (
    _Refusal(
        re.compile(r"Current Version: (?P<now>\d+), Serialized Engine Version: (?P<then>\d+)"),
        "the engine was built by another TensorRT (plan format {then}, this one reads {now})",
    ),
    _Refusal(re.compile(r"Version tag does not match"), "the engine was built by another TensorRT"),
    _Refusal(
        re.compile(r"expecting library version (?P<here>[\d.]+\d) got (?P<there>[\d.]+\d)"),
        "the engine was built by TensorRT {there}, this one is {here}",
    ),
    _Refusal(
        re.compile(r"incompatible device, expecting compute (?P<here>[\d.]+\d) got compute (?P<there>[\d.]+\d)"),
        "the engine was built for a device of compute {there}, this one is {here}",
    ),
    _Refusal(re.compile(r"incompatible device"), "the engine was built for another device"),
    _Refusal(re.compile(r"[Mm]agic ?[Tt]ag does not match"), "the plan is damaged, or no TensorRT plan"),
    _Refusal(re.compile(r"header does not match archive size"), "the plan is cut short"),
    _Refusal(re.compile(r"CUDA initialization failure with error: (?P<code>\d+)"), "CUDA does not start (error {code})"),
    _Refusal(
        re.compile(
            r"out ?of ?memory|could not be allocated|insufficient memory|cudaErrorMemoryAllocation"
            r"|[Mm]emory is insufficient|insufficient workspace",
            re.I,
        ),
        "not enough memory",
        _MEMORY,
    ),
    _Refusal(re.compile(r"No importer registered for op: (?P<op>\w+)"), "operator {op} is not supported", _EXPORT),
    _Refusal(re.compile(r"could not find plugin:? (?P<op>\w+)"), "operator {op} is not supported", _EXPORT),
    _Refusal(re.compile(r"operator:? (?P<op>\w+).*Plugin not found"), "operator {op} is not supported", _EXPORT),
    _Refusal(re.compile(r"Plugin not found"), "an operator is not supported", _EXPORT),
    # How a node is used, and not whether there is such an operator.
    _Refusal(re.compile(r"(?P<text>.*(?:UNSUPPORTED|INVALID)_NODE.*)"), "TensorRT's parser says {text!r}", _EXPORT),
    _Refusal(re.compile(r"Could not find any implementation for node (?P<node>\S+)"), "no kernel fits {node}", _MEMORY),
)


def translate_refusal(messages: Sequence[str], mend: str) -> str:
    """Says in one line why TensorRT refused, from what it logged, and what to do.

    A text that is not known is given as it is, the first of them: what follows is its consequence. `mend` is what to do unless
    the text itself says more, as "not enough memory" does.
    """
    lines = [" ".join(message.split()) for message in messages]
    for refusal in _REFUSALS:
        for message in lines:
            if found := refusal.pattern.search(message):
                return f"{refusal.meaning.format(**found.groupdict())}: {refusal.mend or mend}"
    if not lines:
        return f"TensorRT gave no reason: {mend}"
    return f"TensorRT says {_PLACES.sub('', lines[0], count=1) or lines[0]!r}: {mend}"
