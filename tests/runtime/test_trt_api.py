"""runtime/trt_api.py: every refusal of TensorRT that is known becomes one line that says what to do."""

import sys
from types import ModuleType

import pytest

from leo_edge.runtime.errors import BackendError
from leo_edge.runtime.trt_api import CollectingLogger, import_tensorrt, translate_refusal, version_of

MEND = "run `leo-edge build b`"

# Texts as users have met them: NVIDIA/TensorRT issues 564, 2176, 2643, 3734 and 4360, insightface 2882, mmdeploy 2398.
REFUSALS = [
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == "
        "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 239, Serialized Engine Version: 236)",
        f"the engine was built by another TensorRT (plan format 236, this one reads 239): {MEND}",
    ),
    (
        "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, expecting "
        "library version 10.3.0 got 10.7.0, please rebuild.)",
        f"the engine was built by TensorRT 10.7.0, this one is 10.3.0: {MEND}",
    ),
    ("Version tag does not match.", f"the engine was built by another TensorRT: {MEND}"),
    (
        "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an incompatible "
        "device, expecting compute 8.7 got compute 8.9, please rebuild.)",
        f"the engine was built for a device of compute 8.9, this one is 8.7: {MEND}",
    ),
    (
        "1: [stdArchiveReader.cpp::StdArchiveReader::32] Error Code 1: Serialization (Serialization assertion "
        "magicTagRead == kMAGIC_TAG failed.Magic tag does not match)",
        f"the plan is damaged, or no TensorRT plan: {MEND}",
    ),
    (
        "Error Code 1: Serialization (Serialization assertion sizeRead == size failed.Size specified in header does not match "
        "archive size)",
        f"the plan is cut short: {MEND}",
    ),
    (
        "CUDA initialization failure with error: 222. Please check your CUDA installation",
        f"CUDA does not start (error 222): {MEND}",
    ),
]
MEMORY = [
    "2: [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
    "Requested amount of GPU memory (68719476736 bytes) could not be allocated. There may not be enough free memory.",
    "Error Code 1: Cuda Runtime (out of memory)",
    "Tactic Device request: 5000MB Available: 3000MB. Device memory is insufficient to use tactic.",
]
OPERATORS = [
    "node dcn, operator DCNv2: [8] No importer registered for op: DCNv2",
    'node dcn, operator DCNv2: creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
    "3: getPluginCreator could not find plugin: DCNv2 version: 1",
    'In node 972 with name: dcn and operator: DCNv2 (parseNode): INVALID_NODE: creator && "Plugin not found, are the..."',
]


@pytest.mark.parametrize(("text", "line"), REFUSALS)
def test_a_known_refusal_says_what_it_means_and_what_to_do(text: str, line: str) -> None:
    assert translate_refusal([text, "Error Code 4: Internal Error (Engine deserialization failed.)"], MEND) == line


@pytest.mark.parametrize("text", MEMORY)
def test_too_little_memory_has_its_own_mend(text: str) -> None:
    line = translate_refusal(["IBuilder::buildSerializedNetwork: Error Code 4", text], MEND)
    assert line.startswith("not enough memory: end what else takes memory, or build for less")
    assert MEND not in line


@pytest.mark.parametrize("text", OPERATORS)
def test_an_operator_that_is_not_supported_is_named(text: str) -> None:
    assert translate_refusal([text], MEND).startswith("operator DCNv2 is not supported: `leo-edge lint`")


def test_a_node_that_is_used_as_it_must_not_be_is_quoted() -> None:
    text = "In node 7 with name: sum and operator: ReduceSum (parseNode): UNSUPPORTED_NODE: Axis input must be an initializer"
    assert translate_refusal([text], MEND).startswith(f"TensorRT's parser says {text!r}: `leo-edge lint` says what")


def test_memory_comes_before_what_follows_from_it() -> None:
    follows = "10: Could not find any implementation for node {ForeignNode[a...b]}."
    assert translate_refusal([follows], MEND).startswith("no kernel fits {ForeignNode[a...b]}")
    assert translate_refusal([follows, MEMORY[0]], MEND).startswith("not enough memory")


def test_an_unknown_refusal_is_quoted_on_one_line_without_its_place() -> None:
    text = "2: [graph.cpp::computeInputShapes::12] Error Code 4: Internal Error (a\nb)"
    assert translate_refusal([text, "more"], MEND) == f"TensorRT says 'Internal Error (a b)': {MEND}"
    assert translate_refusal([], MEND) == f"TensorRT gave no reason: {MEND}"


def test_a_logger_keeps_errors_and_warnings_and_gives_errors_first() -> None:
    logger = CollectingLogger()
    for severity, text in ((2, "warning"), (3, "info"), (1, "error"), (0, "internal"), (4, "verbose")):
        logger.keep(severity, text)
    assert logger.errors == ["error", "internal"]
    assert logger.messages == ["error", "internal", "warning"]
    logger.clear()
    assert logger.messages == []


class _Failing:
    """Finds `tensorrt` and fails as its own import would."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        if name == "tensorrt":
            raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), "is not installed: on a Jetson it is JetPack's"),
        (ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"), "is incomplete"),
        (
            ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory"),
            r"misses libnvinfer\.so\.10: install the libraries of the same release",
        ),
        (
            ImportError("libnvdla_compiler.so: cannot open shared object file: No such file or directory"),
            r"misses libnvdla_compiler\.so, which JetPack 6 keeps on the host: start the container with --runtime nvidia",
        ),
        (OSError("libcuda.so.1: cannot open shared object file"), r"misses libcuda\.so\.1, the CUDA driver"),
        (ImportError("undefined symbol: x"), r"cannot be imported \(undefined symbol: x\): install it again"),
    ],
)
def test_a_tensorrt_that_does_not_import_is_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Failing(error), *sys.meta_path])
    with pytest.raises(BackendError, match=message):
        import_tensorrt()


def _module(version: str) -> ModuleType:
    module = ModuleType("tensorrt")
    vars(module)["__version__"] = version
    return module


@pytest.mark.parametrize(
    ("version", "numbers"), [("10.3.0", (10, 3, 0)), ("10.16.1.11", (10, 16, 1, 11)), ("10.11.0.33+jp6", (10, 11, 0, 33))]
)
def test_releases_are_numbers(version: str, numbers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", _module(version))
    assert version_of(import_tensorrt()) == numbers


def test_a_tensorrt_older_than_any_that_is_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", _module("8.6.2"))
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.2 is older than 10\.3: update it"):
        import_tensorrt()
