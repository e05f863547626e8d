"""bundle.json as frozen dataclasses: what export writes and everything else reads.

Reading is strict: every field must be there and of its type, and no file name may leave the bundle's directory.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from leo_edge.runtime.errors import BundleError, LeoEdgeError
from leo_edge.runtime.tiles import TilingConfig

FORMAT_VERSION = 3
MANIFEST_NAME = "bundle.json"

T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output. `dtype` is numpy's name; a string in `shape` is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file, the file of its weights (None where it has none), and its ports."""

    file: str
    data: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    num_parameters: int


@dataclass(frozen=True)
class FileSpec:
    """Size and hash that a file of the bundle must have."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ExpertManifest:
    """A vision expert: graph `vision.<name>` gives `num_tokens` tokens of `width` per tile."""

    name: str
    num_tokens: int
    width: int


@dataclass(frozen=True)
class FuseManifest:
    """What one fusion gives: `num_tokens` visual embeddings per `unit` ("tile" or "image")."""

    unit: str
    num_tokens: int
    uses_text: bool

    def __post_init__(self) -> None:
        if self.unit not in ("tile", "image"):
            raise ValueError(f"unit must be 'tile' or 'image', got {self.unit!r}")

    def most_tokens(self, tiling: TilingConfig) -> int:
        """Returns the most visual embeddings that one camera can take in a prompt."""
        if self.unit == "image":
            return self.num_tokens
        thumbnail = 1 if tiling.use_thumbnail and tiling.max_tiles > 1 else 0
        return self.num_tokens * (tiling.max_tiles + thumbnail)


@dataclass(frozen=True)
class PromptManifest:
    """The chat template, resolved: prefix + question + suffix, and how a camera stands in it.

    `camera_line` holds `{camera}` and `<image>`; an image becomes image_start + image_context * n + image_end.
    """

    prefix: str
    suffix: str
    image_start: str
    image_context: str
    image_end: str
    camera_line: str
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DecoderManifest:
    """Sizes of the language model. `cache` is "prefix" (opset 20) or "scatter" (opset 24); `routed` says it has MMoE."""

    cache: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    context_len: int
    routed: bool

    def __post_init__(self) -> None:
        if self.cache not in ("prefix", "scatter"):
            raise ValueError(f"cache must be 'prefix' or 'scatter', got {self.cache!r}")


@dataclass(frozen=True)
class BundleManifest:
    """The whole of bundle.json. `float_type` is "float32" or "float16".

    cpu_forms: graphs that onnxruntime runs faster on a CPU, each equal to the graph of its name and on the same weights.
    """

    family: str
    float_type: str
    opset: int
    experts: tuple[ExpertManifest, ...]
    tiling: TilingConfig
    fuse: FuseManifest
    prompt: PromptManifest
    decoder: DecoderManifest
    embedding: str
    tokenizer: str
    graphs: Mapping[str, GraphSpec]
    cpu_forms: Mapping[str, GraphSpec]
    files: Mapping[str, FileSpec]
    model: Mapping[str, Any]
    provenance: Mapping[str, Any]
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        if self.float_type not in ("float32", "float16"):
            raise ValueError(f"float_type must be 'float32' or 'float16', got {self.float_type!r}")
        named = [self.embedding, self.tokenizer]
        graphs = (*self.graphs.values(), *self.cpu_forms.values())
        named += [name for graph in graphs for name in (graph.file, graph.data) if name]
        for name in [*named, *self.files]:
            check_file_name(name)
        unlisted = sorted(set(named) - set(self.files))
        if unlisted:
            raise ValueError(f"files without size and hash: {', '.join(unlisted)}")
        wanted = ["tiles", "fuse", "llm", *(f"vision.{expert.name}" for expert in self.experts)]
        absent = sorted(set(wanted + ["router"] * self.decoder.routed) - set(self.graphs))
        if absent:
            raise ValueError(f"no graph named {', '.join(absent)}")
        if strange := sorted(set(self.cpu_forms) - set(self.graphs)):
            raise ValueError(f"CPU forms of no graph: {', '.join(strange)}")

    @property
    def quantized(self) -> bool:
        """Whether graphs hold INT8, as their provenance says."""
        return "quantized" in self.provenance

    def to_json(self) -> str:
        """Returns the text of bundle.json."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def parse_manifest(text: str) -> BundleManifest:
    """Reads the text of bundle.json.

    Raises:
        BundleError: it is not JSON, of a newer format, or a field is missing, unknown or of the wrong type.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise BundleError(f"{MANIFEST_NAME} holds a {type(raw).__name__}, expected an object")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        mend = "update leo_edge" if isinstance(version, int) and version > FORMAT_VERSION else "export the bundle again"
        raise BundleError(f"the bundle has format version {version!r}, this leo_edge reads {FORMAT_VERSION}: {mend}")
    try:
        return from_json(BundleManifest, raw, MANIFEST_NAME)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME}: {error}") from None


def check_file_name(name: str) -> None:
    """Checks that a name stays inside the bundle's directory.

    Raises:
        ValueError: it is absolute, climbs out, or is not a plain relative path.
    """
    path = PurePosixPath(name)
    if (
        not name
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or not name.isprintable()
        or str(path) != name
        or name == "."
    ):
        raise ValueError(f"file name {name!r} does not stay inside the bundle: expected a plain relative name")


def read_versioned(
    path: Path,
    version: int,
    parse: Callable[[dict[str, Any]], T],
    *,
    name: str,
    mend: str,
    error: type[LeoEdgeError] = LeoEdgeError,
) -> T:
    """Reads a JSON file of ours that states its `format_version`; `name` and `mend` are for the error's line.

    Raises:
        LeoEdgeError: as `error`: it is absent, not JSON, of another format, or `parse` raises ValueError.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failed:
        raise error(f"cannot read {name} ({failed.strerror}): {mend}") from None
    except (ValueError, RecursionError) as failed:
        raise error(f"{name} is not JSON ({failed}): {mend}") from None
    found = raw.get("format_version") if isinstance(raw, dict) else None
    if found != version:
        raise error(f"{name} has format version {found!r}, this leo_edge reads {version}: {mend}")
    try:
        return parse(raw)
    except ValueError as failed:
        raise error(f"{name}: {failed}: {mend}") from None


def from_json(kind: type[T], raw: object, where: str) -> T:
    """Builds a dataclass from what JSON holds, checking fields and types; `where` names it in errors.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {raw!r}, expected an object")
    hints = typing.get_type_hints(kind)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - set(fields))
    missing = sorted(set(fields) - set(raw))
    if unknown or missing:
        raise ValueError(f"{where} has missing fields {missing} and unknown fields {unknown}")
    return kind(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in raw.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Converts a JSON value to what the annotation says."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is {value!r}, expected a list")
        return tuple(_convert(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r}, expected an object")
        return {key: _convert(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    accepted = arguments if origin in (typing.Union, types.UnionType) else (hint,)
    if Any not in accepted and type(value) not in accepted:
        raise ValueError(f"{where} is {value!r}, expected {' or '.join(kind.__name__ for kind in accepted)}")
    return value
