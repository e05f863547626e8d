"""A bundle's engines for the device that this runs on: what is there is reused, what is not is built, and why is said."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from leo_edge.export.build_process import Peak, build_here, build_in_child
from leo_edge.export.engine_task import BuiltPlan, EngineTask
from leo_edge.export.lint.lint import Finding, lint_bundle, target_named
from leo_edge.export.profiles import TILES_GRAPH, ProfileOptions, Range, profile_options, profiles_of
from leo_edge.export.tile_memory import tiles_at_once
from leo_edge.runtime.bundle import Bundle, sha256_of
from leo_edge.runtime.engines import (
    OPTIONAL_GRAPHS,
    RECORD_NAME,
    Device,
    EngineRecord,
    EngineSpec,
    Profile,
    engines_directory,
    read_record,
    sources_of,
    why_stale,
    write_record,
)
from leo_edge.runtime.errors import BundleError, LeoEdgeError
from leo_edge.runtime.trt_api import import_tensorrt, version_of

# TensorRT's own default (IBuilderConfig.builder_optimization_level).
DEFAULT_OPT_LEVEL = 3
_TIMING_CACHE = "timing.cache"
# From which TensorRT on a linter's target says what the parser takes. 10.15 is the first that reads opset 24 whole.
_TARGETS = (((10, 3), "jetpack6.2"), ((10, 15), "jetpack7.2"), ((11, 0), "trt11"))
# Products of this graph are exact in TF32, whose factors have 11 places: see runtime/resampling.py. All others are float32.
_TF32_GRAPHS = frozenset({TILES_GRAPH})


@dataclass(frozen=True)
class BuildOptions:
    """How to build. `None` leaves a choice to the bundle or to TensorRT; `only` names graphs, none names all.

    safe_memory: every graph in a process of its own, one after the other.
    """

    opt_level: int = DEFAULT_OPT_LEVEL
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    profile_tiles: Range | None = None
    context: int | None = None
    camera_px: tuple[int, int] | None = None
    only: tuple[str, ...] = ()
    rebuild: bool = False
    safe_memory: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.opt_level <= 5:
            raise LeoEdgeError(f"--opt-level must be 0 to 5, got {self.opt_level}")
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise LeoEdgeError(f"--workspace-mb must be at least 1, got {self.workspace_mb}")


@dataclass(frozen=True)
class GraphResult:
    """What was done about one graph, and why. `peak` is known where it was built in a process of its own."""

    graph: str
    built: bool
    reason: str
    size_bytes: int
    seconds: float
    peak: Peak | None = None


@dataclass(frozen=True)
class BuildReport:
    """What there is now. `target` is what the linter took TensorRT for."""

    directory: Path
    record: EngineRecord
    target: str
    findings: tuple[Finding, ...]
    results: tuple[GraphResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        return {
            "directory": str(self.directory),
            "record": asdict(self.record),
            "lint": {"target": self.target, "findings": [asdict(finding) for finding in self.findings]},
            "graphs": [asdict(result) for result in self.results],
        }


def build_engines(bundle: Bundle, options: BuildOptions, say: Callable[[str], None]) -> BuildReport:
    """Builds the engines of a bundle that are not there yet, or no longer fit. Each is whole or absent, and recorded at once.

    Raises:
        KeyboardInterrupt: it was interrupted; what was finished is kept.
        BackendError: there is no device or no TensorRT, or it refuses a graph.
        BundleError: a graph is one that TensorRT refuses, as the linter knows.
        LeoEdgeError: the options do not fit the bundle.
        OSError: the engines cannot be written.
    """
    from leo_edge.runtime.cuda import describe_device

    device = describe_device()  # first: without a device TensorRT takes the process down
    tensorrt = import_tensorrt()
    if (options.workspace_mb or 0) << 20 > device.memory_bytes:  # TensorRT would go on without a limit
        raise LeoEdgeError(f"--workspace-mb {options.workspace_mb} is more than the device's {device.memory_bytes >> 20} MB")
    work = _Work.of(bundle, options, str(tensorrt.__version__), device)
    findings: tuple[Finding, ...] = ()
    target, exact = _target(version_of(tensorrt))
    reasons = {graph: work.why_build(graph) for graph in work.graphs}
    if any(reasons.values()):
        say(f"TensorRT {tensorrt.__version__} on {device.describe()}, lint as {target}{'' if exact else ', the nearest known'}")
        findings = _lint(bundle, target, [graph for graph, reason in reasons.items() if reason], say)
    work.prepare(builds=any(reasons.values()))
    stop, results = threading.Event(), []
    for graph, reason in reasons.items():
        results.append(work.reuse(graph, say) if reason is None else work.build(graph, reason, say, stop))
        if stop.is_set():
            raise KeyboardInterrupt
    for graph in sorted(OPTIONAL_GRAPHS & set(bundle.manifest.graphs) - set(work.graphs)):
        if not options.only:
            say(f"{graph}: left out, the host does its work: give --camera-size WxH for it")
    return BuildReport(work.directory, work.record, target, findings, tuple(results))


class _Work:
    """A build under way: the directory, the record as it is by now, and what each graph is to become."""

    def __init__(self, bundle: Bundle, options: BuildOptions, sizes: ProfileOptions, directory: Path) -> None:
        self.bundle, self.options, self.sizes, self.directory = bundle, options, sizes, directory
        self.graphs = _chosen(bundle, options)
        self.record: EngineRecord
        self._known: EngineRecord | None = None
        self._broken = False

    @staticmethod
    def of(bundle: Bundle, options: BuildOptions, tensorrt_version: str, device: Device) -> _Work:
        """Reads what there is; a record that cannot be read counts for nothing."""
        sizes = profile_options(
            bundle.manifest,
            context=options.context,
            tiles=options.profile_tiles,
            camera_px=options.camera_px,
            at_once=lambda graph: tiles_at_once(ir.load(bundle.path(bundle.manifest.graphs[graph].file))),
        )
        work = _Work(bundle, options, sizes, engines_directory(bundle, tensorrt_version, device))
        work.record = EngineRecord(bundle.id, tensorrt_version, device, work._choices(), {})
        if (work.directory / RECORD_NAME).is_file():
            try:
                known = read_record(work.directory)
            except BundleError:
                work._broken = True
            else:
                kept = set(bundle.manifest.graphs) if options.only else set(work.graphs)
                engines = {name: spec for name, spec in known.engines.items() if name in kept}
                work.record, work._known = replace(work.record, engines=engines), known
        return work

    def why_build(self, graph: str) -> str | None:
        """Says why a graph is to be built; None: what is there will do."""
        if self._broken:
            return f"{RECORD_NAME} cannot be read"
        if self.options.rebuild:
            return "--rebuild"
        if why := why_stale(self.directory, self.record, self.bundle.manifest, graph):
            return why
        spec = self.record.engines[graph]
        if why := _changed_options(spec.options, self._options_of(graph)) or _changed_profiles(spec, self._profiles_of(graph)):
            return why
        return None if sha256_of(self.directory / spec.file) == spec.sha256 else f"plan {spec.file} was altered"

    def prepare(self, *, builds: bool) -> None:
        """Makes sure, before hours of building, that the results can be written; forgets the engines that are not wanted.

        Where all is there already, nothing is written: the bundle may lie on a read-only system.

        Raises:
            OSError: they cannot.
        """
        if builds:
            self.directory.mkdir(parents=True, exist_ok=True)
            for directory in {self.directory, self._timing_cache.parent}:
                with tempfile.TemporaryFile(dir=directory):
                    pass
        if self._known is not None and self._known != self.record:
            write_record(self.directory, self.record)
            for name in set(self._known.engines) - set(self.record.engines):
                (self.directory / self._known.engines[name].file).unlink(missing_ok=True)

    def reuse(self, graph: str, say: Callable[[str], None]) -> GraphResult:
        """Takes what is there."""
        spec = self.record.engines[graph]
        say(f"{graph}: reused")
        return GraphResult(graph, built=False, reason="nothing changed", size_bytes=spec.size_bytes, seconds=spec.build_seconds)

    def build(self, graph: str, reason: str, say: Callable[[str], None], stop: threading.Event) -> GraphResult:
        """Builds a graph's engine and records it."""
        say(f"{graph}: building ({reason})")
        task, peak = self._task(graph), None
        if self.options.safe_memory:
            built, peak = build_in_child(task, stop)
        else:
            built = build_here(task, stop)
        self._enter(graph, task, built)
        for note in built.notes:
            say(note)
        took = f"{graph}: built in {built.build_seconds:,.1f} s, {built.size_bytes / 1e6:,.1f} MB"
        if peak is not None:
            took += (
                f", at its peak {peak.resident_bytes / 1e9:,.2f} GB resident, "
                f"{peak.machine_bytes / 1e9:,.2f} GB of the machine's memory"
            )
        say(took)
        return GraphResult(graph, True, reason, built.size_bytes, built.build_seconds, peak)

    def _enter(self, graph: str, task: EngineTask, built: BuiltPlan) -> None:
        spec = EngineSpec(
            file=Path(task.plan).name,
            size_bytes=built.size_bytes,
            sha256=built.sha256,
            sources=sources_of(self.bundle.manifest, graph),
            profiles=task.profiles,
            build_seconds=built.build_seconds,
            options=self._options_of(graph),
        )
        self.record = replace(self.record, engines={**self.record.engines, graph: spec})
        write_record(self.directory, self.record)

    def _task(self, graph: str) -> EngineTask:
        options = self._options_of(graph)
        return EngineTask(
            graph=graph,
            onnx=str(self.bundle.path(self.bundle.manifest.graphs[graph].file)),
            plan=str(self.directory / f"{graph}.plan"),
            timing_cache=str(self._timing_cache),
            renew_timing_cache=self.options.timing_cache is None,
            profiles=self._profiles_of(graph),
            opt_level=options["opt_level"],
            workspace_mb=options["workspace_mb"],
            tf32=options["tf32"],
        )

    @property
    def _timing_cache(self) -> Path:
        return self.options.timing_cache or self.directory / _TIMING_CACHE

    def _profiles_of(self, graph: str) -> tuple[Profile, ...]:
        return profiles_of(self.bundle.manifest, graph, self.sizes)

    def _options_of(self, graph: str) -> dict[str, Any]:
        """Returns what decides a plan beside its graph and its profiles."""
        return {
            "opt_level": self.options.opt_level,
            "workspace_mb": self.options.workspace_mb,
            "tf32": graph in _TF32_GRAPHS,
        }

    def _choices(self) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "context": sizes.context,
            "profile_tiles": {graph: list(tiles) for graph, tiles in sizes.tiles.items()},
            "camera_px": None if sizes.camera_px is None else list(sizes.camera_px),
            "opt_level": self.options.opt_level,
            "workspace_mb": self.options.workspace_mb,
        }


def _chosen(bundle: Bundle, options: BuildOptions) -> list[str]:
    """Returns the graphs to have engines of, in the order of the data.

    Raises:
        LeoEdgeError: a graph was asked for that is not there, or that needs an option more.
    """
    names = list(bundle.manifest.graphs)
    if unknown := sorted(set(options.only) - set(names)):
        raise LeoEdgeError(f"--only got {unknown[0]!r}: this bundle has {', '.join(names)}")
    if options.camera_px is None and TILES_GRAPH in options.only:
        raise LeoEdgeError(f"{TILES_GRAPH} is built for one size of image: give --camera-size WxH")
    left_out = {TILES_GRAPH} if options.camera_px is None else set()
    return [name for name in names if name not in left_out and (not options.only or name in options.only)]


def _target(version: tuple[int, ...]) -> tuple[str, bool]:
    """Returns the linter's target for a TensorRT, and whether it is that very release."""
    name = [name for since, name in _TARGETS if version >= since][-1]
    exact = tuple(int(number) for number in re.findall(r"\d+", target_named(name).tensorrt)) == version[:2]
    return name, exact


def _lint(bundle: Bundle, target: str, graphs: list[str], say: Callable[[str], None]) -> tuple[Finding, ...]:
    """Says what the linter finds in the graphs that are to be built.

    Raises:
        BundleError: TensorRT would refuse one of them.
    """
    found = [one for one in lint_bundle(bundle.directory, bundle.manifest, [target_named(target)]) if one.graph in graphs]
    refused = [finding for finding in found if finding.refused]
    if refused:
        more = f" (and {len(refused) - 1} more: `leo-edge lint` lists them)" if len(refused) > 1 else ""
        raise BundleError(f"TensorRT would refuse this bundle: {refused[0].line()}{more}")
    for finding in found:
        say(f"lint: {finding.line()}")
    return tuple(found)


def _changed_options(before: Any, now: dict[str, Any]) -> str | None:
    changed = [f"{name} {before.get(name)} -> {now.get(name)}" for name in now if before.get(name) != now.get(name)]
    return f"options changed: {', '.join(changed)}" if changed else None


def _changed_profiles(spec: EngineSpec, now: tuple[Profile, ...]) -> str | None:
    if spec.profiles == now:
        return None
    if len(spec.profiles) != len(now):
        return f"profiles changed: {len(spec.profiles)} -> {len(now)}"
    for before, after in zip(spec.profiles, now, strict=True):
        for name in sorted(set(before) | set(after)):
            if before.get(name) != after.get(name):
                return f"profiles changed: {name} {_shapes(before.get(name))} -> {_shapes(after.get(name))}"
    raise AssertionError("profiles differ, but in no input")


def _shapes(shapes: Any) -> str:
    return "none" if shapes is None else " ".join(str(list(shape)) for shape in shapes)
