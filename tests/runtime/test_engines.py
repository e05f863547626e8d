"""runtime/engines.py: the record reads back as it was written, strictly, and engines are found only where they fit."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.engines import (
    RECORD_NAME,
    Device,
    EngineRecord,
    EngineSpec,
    engines_directory,
    find_engines,
    fingerprint,
    read_record,
    sources_of,
    write_record,
)
from leo_edge.runtime.errors import BackendError, BundleError
from tests.conftest import MadeOnce

ORIN = Device("Orin", "8.7", 16, 32 << 30)
TRT = "10.3.0"


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundles: MadeOnce) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundles["leo-mini-tiny"], tmp_path / "bundle"))


def engine(bundle: Bundle, graph: str, directory: Path) -> EngineSpec:
    """A plan that is on disk and its entry."""
    content = f"plan of {graph}".encode()
    (directory / f"{graph}.plan").write_bytes(content)
    profile = {"tiles": ((1, 8), (4, 8), (9, 8))}
    return EngineSpec(f"{graph}.plan", len(content), "0" * 64, sources_of(bundle.manifest, graph), (profile,), 1.5, {"n": 3})


@pytest.fixture
def built(bundle: Bundle) -> tuple[Bundle, Path, EngineRecord]:
    """A bundle with an entry, and a file in place of a plan, for every graph."""
    directory = engines_directory(bundle, TRT, ORIN)
    directory.mkdir(parents=True)
    engines = {name: engine(bundle, name, directory) for name in bundle.manifest.graphs}
    record = EngineRecord(bundle.id, TRT, ORIN, {"context": 7, "camera_px": None}, engines)
    write_record(directory, record)
    return bundle, directory, record


@pytest.mark.parametrize(
    ("version", "device", "name"),
    [
        ("10.3.0", ORIN, "trt10.3.0-Orin-16mp-sm87"),
        ("10.16.1.11", Device("NVIDIA GeForce RTX 4090", "8.9", 128), "trt10.16.1.11-NVIDIA-GeForce-RTX-4090-128mp-sm89"),
        ("11.4.0", Device("../../etc", "10.0", 1), "trt11.4.0-etc-1mp-sm100"),
        ("11.4.0", Device("?", "9.0", 2), "trt11.4.0-device-2mp-sm90"),
    ],
)
def test_a_fingerprint_names_release_and_device_and_is_a_plain_name(version: str, device: Device, name: str) -> None:
    assert fingerprint(version, device) == name


def test_memory_is_no_part_of_a_device() -> None:
    assert Device("Orin", "8.7", 16, 1) == Device("Orin", "8.7", 16, 2)
    assert Device("Orin", "8.7", 16) != Device("Orin", "8.9", 16)
    assert Device("Orin", "8.7", 16) != Device("Orin", "8.7", 8)


def test_a_record_reads_back_as_it_was_written(built: tuple[Bundle, Path, EngineRecord]) -> None:
    bundle, directory, record = built
    assert read_record(directory) == record
    assert read_record(directory).engines["llm"].profiles == ({"tiles": ((1, 8), (4, 8), (9, 8))},)
    assert find_engines(bundle, TRT, ORIN) == (directory, record)


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        place: Any = raw
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format_version", to=2), "has format version 2, this leo_edge reads 1"),
        (_set("more", to=1), r"unknown fields \['more'\]"),
        (_set("tensorrt", to=10.3), "tensorrt is 10.3, expected str"),
        (_set("engines", "llm", "size_bytes", to="9"), "size_bytes is '9', expected int"),
        (_set("engines", "llm", "file", to="../llm.plan"), "does not stay inside"),
        (_set("engines", "llm", "profiles", 0, "tiles", to=[[1], [2]]), "three shapes of one rank"),
        (_set("engines", "llm", "profiles", 0, "tiles", to=[[1], [2], [3, 4]]), "three shapes of one rank"),
        (_set("engines", "llm", "profiles", 0, "tiles", 0, 0, to=1.5), "is 1.5, expected int"),
    ],
)
def test_a_record_that_is_not_exactly_one_is_refused(
    built: tuple[Bundle, Path, EngineRecord], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    _, directory, _ = built
    path = directory / RECORD_NAME
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=message) as caught:
        read_record(directory)
    assert "leo-edge build" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_a_record_that_is_no_json_object_is_refused(built: tuple[Bundle, Path, EngineRecord], text: str) -> None:
    bundle, directory, _ = built
    (directory / RECORD_NAME).write_text(text)
    with pytest.raises(BundleError, match="leo-edge build"):
        find_engines(bundle, TRT, ORIN)


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot read .*engines.json \(No such file"):
        read_record(tmp_path)


class TestNothingFits:
    def test_no_engines_at_all(self, bundle: Bundle) -> None:
        with pytest.raises(BackendError) as caught:
            find_engines(bundle, TRT, ORIN)
        home = bundle.directory / "engines"
        assert str(caught.value) == (
            f"no engines for TensorRT 10.3.0 on Orin (compute 8.7, 16 multiprocessors) in {home}: "
            f"run `leo-edge build {bundle.directory}` on this device"
        )

    @pytest.mark.parametrize(("version", "device"), [("10.7.0", ORIN), (TRT, Device("NVIDIA Thor", "11.0", 20))])
    def test_those_that_are_there_are_named(
        self, built: tuple[Bundle, Path, EngineRecord], version: str, device: Device
    ) -> None:
        (built[1].parent / "broken").mkdir()
        (built[1].parent / "broken" / RECORD_NAME).write_text("{}")
        with pytest.raises(
            BackendError,
            match=r"engines, only for TensorRT 10\.3\.0 on Orin \(.*\): run `leo-edge",
        ):
            find_engines(built[0], version, device)

    def test_a_directory_that_was_renamed(self, built: tuple[Bundle, Path, EngineRecord]) -> None:
        bundle, directory, _ = built
        directory.rename(engines_directory(bundle, "10.7.0", ORIN))
        with pytest.raises(BackendError, match=r"are for TensorRT 10\.3\.0 on Orin .*, this is TensorRT 10\.7\.0 on Orin"):
            find_engines(bundle, "10.7.0", ORIN)

    def test_a_graph_changed(self, built: tuple[Bundle, Path, EngineRecord]) -> None:
        bundle, directory, record = built
        other = replace(record.engines["llm"], sources={**record.engines["llm"].sources, "llm.onnx.data": "1" * 64})
        write_record(directory, replace(record, engines={**record.engines, "llm": other}))
        with pytest.raises(BackendError, match=r"llm: graph changed since \(llm\.onnx\.data\): run `leo-edge build"):
            find_engines(bundle, TRT, ORIN)

    def test_a_plan_is_missing(self, built: tuple[Bundle, Path, EngineRecord]) -> None:
        (built[1] / "fuse.plan").unlink()
        with pytest.raises(BackendError, match=r"fuse: plan fuse\.plan is missing: run"):
            find_engines(built[0], TRT, ORIN)

    def test_a_plan_is_cut_short(self, built: tuple[Bundle, Path, EngineRecord]) -> None:
        (built[1] / "fuse.plan").write_bytes(b"plan")
        with pytest.raises(BackendError, match=r"plan fuse\.plan has 4 bytes, expected 12: run"):
            find_engines(built[0], TRT, ORIN)

    def test_a_graph_has_no_engine(self, built: tuple[Bundle, Path, EngineRecord]) -> None:
        bundle, directory, record = built
        engines = {name: spec for name, spec in record.engines.items() if name != "router"}
        write_record(directory, replace(record, engines=engines))
        with pytest.raises(BackendError, match=re.escape(f"{directory}: router: no engine yet: run")):
            find_engines(bundle, TRT, ORIN)

    def test_but_one_whose_work_the_host_does_may_be_missing(self, built: tuple[Bundle, Path, EngineRecord]) -> None:
        bundle, directory, record = built
        llm = bundle.manifest.graphs["llm"]
        manifest = replace(bundle.manifest, graphs={**bundle.manifest.graphs, "tiles": llm})
        engines = {name: spec for name, spec in record.engines.items() if name != "tiles"}
        write_record(directory, replace(record, engines=engines))
        assert "tiles" not in find_engines(replace(bundle, manifest=manifest), TRT, ORIN)[1].engines
        # One that is there must fit.
        stale = replace(record.engines["llm"], sources={})
        write_record(directory, replace(record, engines={**engines, "tiles": stale}))
        with pytest.raises(BackendError, match="tiles: graph changed since"):
            find_engines(replace(bundle, manifest=manifest), TRT, ORIN)


def test_json_holds_what_a_reader_needs(built: tuple[Bundle, Path, EngineRecord]) -> None:
    _, directory, record = built
    raw = json.loads((directory / RECORD_NAME).read_text())
    assert raw["device"] == {
        "name": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": 16,
        "memory_bytes": 32 << 30,
    }
    assert raw["engines"]["llm"]["profiles"] == [{"tiles": [[1, 8], [4, 8], [9, 8]]}]
    assert set(raw) == set(asdict(record))
