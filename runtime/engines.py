"""The engines beside a bundle: which TensorRT plans there are, what they were built for, and whether they still fit.

    engines/<fingerprint>/engines.json   the record
    engines/<fingerprint>/<graph>.plan   a plan per graph
    engines/<fingerprint>/timing.cache   what TensorRT measured while it built

A plan runs on the TensorRT release and the kind of device that built it, and nowhere else, so both name the directory. This
module reads and writes the record; it needs no TensorRT.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import BackendError, BundleError
from leo_edge.runtime.manifest import BundleManifest, check_file_name, from_json, read_versioned
from leo_edge.runtime.whole_file import write_whole

ENGINES_DIR = "engines"
RECORD_NAME = "engines.json"
FORMAT_VERSION = 1
# Graphs that a bundle runs without: the host does their work.
OPTIONAL_GRAPHS = frozenset({"tiles"})

Shape = tuple[int, ...]
ShapeRange = tuple[Shape, Shape, Shape]
"""The least, the likeliest and the largest shape of an input."""
Profile = Mapping[str, ShapeRange]
"""An optimization profile: the shapes that it covers, by input."""


@dataclass(frozen=True)
class Device:
    """A CUDA device. Its memory is for people to read: what is left of it for CUDA differs from boot to boot.

    multiprocessors tells apart what has one name: every Orin calls itself so, but they have 4 to 16.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int = field(default=0, compare=False)

    def describe(self) -> str:
        """Returns name, compute capability and size."""
        return f"{self.name} (compute {self.compute_capability}, {self.multiprocessors} multiprocessors)"


@dataclass(frozen=True)
class EngineSpec:
    """One plan: its file, what it was built from and how.

    sources: SHA-256 of the graph's file and of its weights' file, by name, as the bundle's manifest had them.
    profiles: the shapes of every input with a symbolic dimension; the first profile is the first of TensorRT's.
    options: what else decided the plan.
    """

    file: str
    size_bytes: int
    sha256: str
    sources: Mapping[str, str]
    profiles: tuple[Profile, ...]
    build_seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_file_name(self.file)
        for profile in self.profiles:
            for name, shapes in profile.items():
                if len(shapes) != 3 or len({len(shape) for shape in shapes}) != 1:
                    raise ValueError(f"profile of {name} must be three shapes of one rank, got {shapes!r}")


@dataclass(frozen=True)
class EngineRecord:
    """engines.json: what is in one engines directory. `options` are those of the last build."""

    bundle_id: str
    tensorrt: str
    device: Device
    options: Mapping[str, Any]
    engines: Mapping[str, EngineSpec]
    format_version: int = field(default=FORMAT_VERSION)

    def to_json(self) -> str:
        """Returns the text of engines.json."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def fingerprint(tensorrt_version: str, device: Device) -> str:
    """Names the directory of the engines that one TensorRT release built on one kind of device: "trt10.3.0-Orin-16mp-sm87"."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", device.name).strip("-.") or "device"
    return f"trt{tensorrt_version}-{slug}-{device.multiprocessors}mp-sm{device.compute_capability.replace('.', '')}"


def engines_directory(bundle: Bundle, tensorrt_version: str, device: Device) -> Path:
    """Returns where the engines for this TensorRT and device are, or are to be."""
    return bundle.directory / ENGINES_DIR / fingerprint(tensorrt_version, device)


def sources_of(manifest: BundleManifest, graph: str) -> dict[str, str]:
    """Returns the SHA-256 of a graph's files, by name."""
    spec = manifest.graphs[graph]
    return {name: manifest.files[name].sha256 for name in (spec.file, spec.data) if name}


def write_record(directory: Path, record: EngineRecord) -> None:
    """Writes the record, whole.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(directory / RECORD_NAME, record.to_json())


def read_record(directory: Path) -> EngineRecord:
    """Reads the record of an engines directory.

    Raises:
        BundleError: there is none, it is broken, or of another format.
    """
    path = directory / RECORD_NAME
    mend = "run `leo-edge build` again"
    parse = partial(from_json, EngineRecord, where=RECORD_NAME)
    return read_versioned(path, FORMAT_VERSION, parse, name=str(path), mend=mend, error=BundleError)


def find_engines(bundle: Bundle, tensorrt_version: str, device: Device) -> tuple[Path, EngineRecord]:
    """Returns the directory and the record of the engines that fit the bundle, this TensorRT and this device.

    Sizes are checked, hashes are not: a plan of gigabytes would be read twice at every start, and TensorRT checks its own.

    Raises:
        BackendError: there are none, or they are not of the bundle as it is now.
        BundleError: their record is broken.
    """
    directory = engines_directory(bundle, tensorrt_version, device)
    mend = f"run `leo-edge build {bundle.directory}` on this device"
    if not (directory / RECORD_NAME).is_file():
        others = _describe_others(directory.parent)
        raise BackendError(
            f"no engines for TensorRT {tensorrt_version} on {device.describe()} in {directory.parent}"
            f"{f', only for {others}' if others else ''}: {mend}"
        )
    record = read_record(directory)
    if (record.tensorrt, record.device) != (tensorrt_version, device):
        raise BackendError(
            f"the engines in {directory} are for TensorRT {record.tensorrt} on {record.device.describe()}, "
            f"this is TensorRT {tensorrt_version} on {device.describe()}: {mend}"
        )
    wanted = [name for name in bundle.manifest.graphs if name not in OPTIONAL_GRAPHS or name in record.engines]
    for name in wanted:
        if why := why_stale(directory, record, bundle.manifest, name):
            raise BackendError(f"{directory}: {name}: {why}: {mend}")
    return directory, record


def why_stale(directory: Path, record: EngineRecord, manifest: BundleManifest, graph: str) -> str | None:
    """Says why a graph's engine cannot be used, as far as can be seen without reading the plan; None: it can."""
    spec = record.engines.get(graph)
    if spec is None:
        return "no engine yet"
    sources = sources_of(manifest, graph)
    if spec.sources != sources:
        changed = sorted(name for name in {*sources, *spec.sources} if sources.get(name) != spec.sources.get(name))
        return f"graph changed since ({', '.join(changed)})"
    try:
        size_bytes = (directory / spec.file).stat().st_size
    except OSError:
        return f"plan {spec.file} is missing"
    if size_bytes != spec.size_bytes:
        return f"plan {spec.file} has {size_bytes} bytes, expected {spec.size_bytes}"
    return None


def _describe_others(home: Path) -> str:
    """Names what the other engines beside a bundle are for; a directory whose record is broken says nothing."""
    found = []
    for path in sorted(home.glob(f"*/{RECORD_NAME}")):
        try:
            record = read_record(path.parent)
        except BundleError:
            continue
        found.append(f"TensorRT {record.tensorrt} on {record.device.describe()}")
    return ", ".join(found)
