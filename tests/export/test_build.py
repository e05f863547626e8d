"""export/build.py on imaginary machines: what is built, what is reused, why, and what is left when something goes wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from leo_edge.export.build import BuildReport
from leo_edge.export.lint.graph import Found, Graph, Rule, Target
from leo_edge.runtime.bundle import Bundle, open_bundle, sha256_of
from leo_edge.runtime.engines import RECORD_NAME, Device, find_engines, read_record, write_record
from leo_edge.runtime.errors import BackendError, BundleError, LeoEdgeError
from leo_edge.runtime.manifest import MANIFEST_NAME
from tests.conftest import MadeOnce
from tests.doubles.fixtures import InstallMachine
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4
from tests.export.builds import Build, left, reasons

GRAPHS = ["tiles", "vision.vit", "fuse", "router", "llm"]
BUILT = GRAPHS[1:]
CAMERA = (320, 180)


def plan_of(report: BuildReport, graph: str) -> Any:
    """What the double wrote into a plan."""
    from tests.doubles.trt.plan import read_plan

    return read_plan((report.directory / report.record.engines[graph].file).read_bytes())


class TestFirstBuild:
    @pytest.mark.parametrize("release", [TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4])
    def test_every_graph_gets_a_plan_that_is_recorded(
        self, release: str, edge_machine: InstallMachine, build: Build, plain_bundle: Bundle
    ) -> None:
        machine = edge_machine(tensorrt=release)
        report = build()
        assert report.directory == plain_bundle.directory / "engines" / f"trt{release}-Orin-16mp-sm87"
        assert left(report.directory) == sorted([*(f"{name}.plan" for name in BUILT), RECORD_NAME, "timing.cache"])
        assert reasons(report) == dict.fromkeys(BUILT, "no engine yet")
        device = Device("Orin", "8.7", 16)
        assert find_engines(plain_bundle, release, device) == (report.directory, report.record)
        assert report.record.device.memory_bytes == 32 << 30
        assert report.record.bundle_id == plain_bundle.id
        for name, spec in report.record.engines.items():
            path = report.directory / spec.file
            assert (spec.size_bytes, spec.sha256) == (path.stat().st_size, sha256_of(path))
            graph = plain_bundle.manifest.graphs[name]
            assert spec.sources == {file: plain_bundle.manifest.files[file].sha256 for file in (graph.file, graph.data) if file}
            assert plan_of(report, name).strongly_typed
        assert {kind for kind in machine.live() if kind.startswith("tensorrt")} == set()

    def test_options_reach_tensorrt_and_float32_is_float32_but_where_tf32_is_exact(
        self, edge_machine: InstallMachine, build: Build
    ) -> None:
        edge_machine()
        report = build(opt_level=1, workspace_mb=512, camera_px=CAMERA)
        assert list(report.record.engines) == GRAPHS
        for name in GRAPHS:
            options = plan_of(report, name).options
            assert (options["level"], options["pools"]["WORKSPACE"], options["verbosity"]) == (1, 512 << 20, "DETAILED")
            assert options["flags"] == (["TF32"] if name == "tiles" else [])
            assert report.record.engines[name].options == {"opt_level": 1, "workspace_mb": 512, "tf32": name == "tiles"}

    def test_profiles_reach_tensorrt_with_one_for_each_length_of_the_past(
        self, edge_machine: InstallMachine, build: Build
    ) -> None:
        edge_machine()
        report = build(context=600, profile_tiles=(1, 2, 4), only=("llm", "vision.vit"))
        plan = plan_of(report, "llm")
        assert [profile["past_key.0"][2][0] for profile in plan.profiles] == [599, 256, 512, 600]
        assert [profile["embeds"][2][0] for profile in plan.profiles] == [512, 1, 1, 1]
        (vision,) = plan_of(report, "vision.vit").profiles
        assert [shape[0] for shape in vision["tiles"]] == [1, 2, 4]
        for name in ("llm", "vision.vit"):
            for recorded, built in zip(report.record.engines[name].profiles, plan_of(report, name).profiles, strict=True):
                assert recorded.items() <= built.items()

    @pytest.mark.parametrize("release", [TENSORRT_10_16, TENSORRT_11_4])
    def test_a_cache_that_is_updated_in_place_has_its_capacity_in_the_network(
        self, release: str, edge_machine: InstallMachine, build: Build, micro_bundles: MadeOnce, tmp_path: Path
    ) -> None:
        edge_machine(tensorrt=release)
        fused = open_bundle(shutil.copytree(micro_bundles["fused"], tmp_path / "fused"))
        plan = plan_of(build(fused, context=300), "llm")
        inputs = {value.name: value for value in onnx.load_model_from_string(plan.model).graph.input}
        assert inputs["past_key.0"].type.tensor_type.shape.dim[2].dim_value == 300
        assert plan.aliases == {"new_key.0": "past_key.0", "new_value.0": "past_value.0"}
        assert [profile["positions"] for profile in plan.profiles] == [((1,), (300,), (300,)), ((1,), (1,), (1,))]

    def test_what_was_measured_is_kept_and_used(self, edge_machine: InstallMachine, build: Build) -> None:
        edge_machine()
        report = build(only=("fuse",))
        cache = report.directory / "timing.cache"
        entries = json.loads(cache.read_text())["entries"]
        build(only=("llm",))
        assert entries.items() < json.loads(cache.read_text())["entries"].items()


class TestReuse:
    def test_what_is_there_is_reused_and_nothing_is_written(
        self, edge_machine: InstallMachine, build: Build, said: list[str]
    ) -> None:
        edge_machine()
        first = build()
        before = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
        edge_machine(faults=("build-fails",))
        again = build()
        assert reasons(again) == dict.fromkeys(BUILT)
        assert again.record == first.record
        assert {path: path.stat().st_mtime_ns for path in first.directory.iterdir()} == before
        assert said == [
            *(f"{name}: reused" for name in BUILT),
            "tiles: left out, the host does its work: give --camera-size WxH for it",
        ]

    @pytest.mark.parametrize(
        ("options", "changed"),
        [
            ({"rebuild": True}, dict.fromkeys(BUILT, "--rebuild")),
            ({"rebuild": True, "only": ("fuse",)}, {"fuse": "--rebuild"}),
            ({"opt_level": 5}, dict.fromkeys(BUILT, "options changed: opt_level 3 -> 5")),
            ({"workspace_mb": 64}, dict.fromkeys(BUILT, "options changed: workspace_mb None -> 64")),
            ({"timing_cache": "other.cache"}, {}),
            (
                {"profile_tiles": (1, 2, 2)},
                {"vision.vit": "profiles changed: tiles [1, 112, 112, 3] [18, 112, 112, 3] [18, 112, 112, 3] -> [1, 112"},
            ),
            (
                {"context": 300},
                {
                    "fuse": "profiles changed: text_embeds [1, 128] [32, 128]",
                    "router": "profiles changed: text_embeds [1, 128]",
                    "llm": "profiles changed: 5 -> 3",
                },
            ),
            ({"camera_px": CAMERA}, {"tiles": "no engine yet"}),
        ],
    )
    def test_only_what_an_option_changes_is_built_again(
        self, options: dict[str, Any], changed: dict[str, str], edge_machine: InstallMachine, build: Build, tmp_path: Path
    ) -> None:
        edge_machine()
        build()
        if "timing_cache" in options:
            options = {"timing_cache": tmp_path / options["timing_cache"]}
        found = {name: reason for name, reason in reasons(build(**options)).items() if reason is not None}
        assert found.keys() == changed.keys()
        assert {name: reason[: len(changed[name])] for name, reason in found.items()} == changed

    def test_plans_that_are_gone_or_altered_are_built_again(self, edge_machine: InstallMachine, build: Build) -> None:
        edge_machine()
        directory = build().directory
        (directory / "fuse.plan").unlink()
        (directory / "router.plan").write_bytes(b"short")
        altered = bytearray((directory / "llm.plan").read_bytes())
        altered[-1] ^= 1
        (directory / "llm.plan").write_bytes(altered)
        found = reasons(build())
        assert found["vision.vit"] is None
        assert found["fuse"] == "plan fuse.plan is missing"
        assert str(found["router"]).startswith("plan router.plan has 5 bytes, expected")
        assert found["llm"] == "plan llm.plan was altered"
        assert set(reasons(build()).values()) == {None}

    def test_a_graph_that_changed_is_built_again(
        self, edge_machine: InstallMachine, build: Build, plain_bundle: Bundle
    ) -> None:
        edge_machine()
        build()
        path = plain_bundle.directory / "fuse.onnx"
        model = onnx.load(path, load_external_data=False)
        model.doc_string = "changed"
        path.write_bytes(model.SerializeToString())
        manifest = json.loads((plain_bundle.directory / MANIFEST_NAME).read_text())
        manifest["files"]["fuse.onnx"] = {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        (plain_bundle.directory / MANIFEST_NAME).write_text(json.dumps(manifest))
        other = open_bundle(plain_bundle.directory)
        with pytest.raises(BackendError, match=r"fuse: graph changed since \(fuse\.onnx\)"):
            find_engines(other, TENSORRT_10_3, Device("Orin", "8.7", 16))
        found = reasons(build(other))
        assert {name: reason for name, reason in found.items() if reason} == {"fuse": "graph changed since (fuse.onnx)"}
        assert find_engines(other, TENSORRT_10_3, Device("Orin", "8.7", 16))[1].bundle_id == other.id

    @pytest.mark.parametrize("text", ["{", '{"format_version": 7}', '{"format_version": 1}'])
    def test_a_record_that_cannot_be_read_counts_for_nothing(
        self, text: str, edge_machine: InstallMachine, build: Build
    ) -> None:
        edge_machine()
        directory = build(only=("fuse",)).directory
        (directory / RECORD_NAME).write_text(text)
        assert reasons(build(only=("fuse",))) == {"fuse": "engines.json cannot be read"}
        assert list(read_record(directory).engines) == ["fuse"]

    def test_another_tensorrt_and_another_device_have_engines_of_their_own(
        self, edge_machine: InstallMachine, build: Build
    ) -> None:
        edge_machine()
        first = build(only=("fuse",))
        edge_machine(tensorrt=TENSORRT_10_16)
        second = build(only=("fuse",))
        edge_machine(device_name="NVIDIA GeForce RTX 4090", compute_capability=(8, 9))
        third = build(only=("fuse",))
        assert len({report.directory for report in (first, second, third)}) == 3
        assert all(reasons(report) == {"fuse": "no engine yet"} for report in (second, third))

    def test_only_leaves_the_others_as_they_are(self, edge_machine: InstallMachine, build: Build) -> None:
        edge_machine()
        first = build(camera_px=CAMERA)
        second = build(only=("fuse", "llm"), opt_level=2)
        assert reasons(second) == dict.fromkeys(("fuse", "llm"), "options changed: opt_level 3 -> 2")
        assert {name: second.record.engines[name] for name in ("tiles", "vision.vit", "router")} == {
            name: first.record.engines[name] for name in ("tiles", "vision.vit", "router")
        }

    def test_without_an_image_size_the_graph_that_cuts_tiles_goes(self, edge_machine: InstallMachine, build: Build) -> None:
        edge_machine()
        directory = build(camera_px=CAMERA).directory
        assert "tiles.plan" in left(directory)
        assert set(reasons(build()).values()) == {None}
        assert "tiles.plan" not in left(directory)
        assert list(read_record(directory).engines) == BUILT


class TestLint:
    def test_what_tensorrt_would_refuse_ends_it_before_anything_is_written(
        self, edge_machine: InstallMachine, build: Build, micro_bundles: MadeOnce, tmp_path: Path
    ) -> None:
        edge_machine(tensorrt=TENSORRT_10_3)
        fused = open_bundle(shutil.copytree(micro_bundles["fused"], tmp_path / "fused"))
        with pytest.raises(BundleError) as caught:
            build(fused)
        assert str(caught.value).startswith(
            "TensorRT would refuse this bundle: jetpack6.2: vision.vit: graph: opset 24, TensorRT 10.3 reads up to 20"
        )
        assert "[opset]" in str(caught.value)
        assert not (fused.directory / "engines").exists()

    def test_what_it_would_only_build_otherwise_is_said(
        self, edge_machine: InstallMachine, build: Build, said: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def check(graph: Graph, _: Target) -> Found:
            yield "node", f"is slow in {graph.name}"

        edge_machine()
        monkeypatch.setattr("leo_edge.export.lint.lint.RULES", (Rule("slow", check, refused=False),))
        report = build(only=("fuse",))
        assert "lint: jetpack6.2: fuse: node: is slow in fuse [slow]" in said
        assert [finding.graph for finding in report.findings] == ["fuse"]

    @pytest.mark.parametrize(
        ("release", "line"),
        [
            ("10.3.0", "TensorRT 10.3.0 on Orin (compute 8.7, 16 multiprocessors), lint as jetpack6.2"),
            ("10.7.0", "TensorRT 10.7.0 on Orin (compute 8.7, 16 multiprocessors), lint as jetpack6.2, the nearest known"),
            ("10.15.1", "TensorRT 10.15.1 on Orin (compute 8.7, 16 multiprocessors), lint as jetpack7.2, the nearest known"),
            ("10.16.1.11", "TensorRT 10.16.1.11 on Orin (compute 8.7, 16 multiprocessors), lint as jetpack7.2"),
            ("11.0.0", "TensorRT 11.0.0 on Orin (compute 8.7, 16 multiprocessors), lint as trt11, the nearest known"),
            ("11.1.0", "TensorRT 11.1.0 on Orin (compute 8.7, 16 multiprocessors), lint as trt11"),
        ],
    )
    def test_the_target_is_that_of_the_tensorrt_or_the_nearest_known(
        self, release: str, line: str, edge_machine: InstallMachine, build: Build, said: list[str]
    ) -> None:
        edge_machine(tensorrt=release)
        build(only=("router",))
        assert said[0] == line


class TestRefusals:
    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("parser", "fuse: TensorRT's parser says .*the machine's fault `parser`.*: `leo-edge lint` says what"),
            ("build-memory", "fuse: not enough memory: end what else takes memory, or build for less: fewer --profile-tiles"),
            ("build-fails", r"fuse: no kernel fits {ForeignNode\[.*: end what else"),
        ],
    )
    def test_a_refusal_is_one_line_and_what_was_finished_is_kept(
        self, fault: str, message: str, edge_machine: InstallMachine, build: Build, plain_bundle: Bundle
    ) -> None:
        edge_machine(faults=(f"{fault}:2",))
        with pytest.raises(BackendError, match=message):
            build()
        directory = plain_bundle.directory / "engines" / "trt10.3.0-Orin-16mp-sm87"
        assert list(read_record(directory).engines) == ["vision.vit"]
        assert set(left(directory)) == {"vision.vit.plan", RECORD_NAME, "timing.cache"}
        edge_machine()
        assert reasons(build()) == {"vision.vit": None} | dict.fromkeys(BUILT[1:], "no engine yet")

    def test_an_operator_that_the_parser_does_not_know(
        self, edge_machine: InstallMachine, build: Build, plain_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when the linter's tables are behind: it finds nothing, and TensorRT's parser does."""
        edge_machine()
        monkeypatch.setattr("leo_edge.export.lint.lint.RULES", ())
        path = plain_bundle.directory / "fuse.onnx"
        model = onnx.load(path, load_external_data=False)
        model.graph.node[0].op_type = "Mystery"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(BackendError, match="fuse: operator Mystery is not supported: `leo-edge lint` says what"):
            build(only=("fuse",))

    def test_options_that_fit_neither_bundle_nor_device(self, edge_machine: InstallMachine, build: Build) -> None:
        edge_machine(total_memory_bytes=8 << 30)
        with pytest.raises(LeoEdgeError, match="--workspace-mb 9000 is more than the device's 8192 MB"):
            build(workspace_mb=9000)
        with pytest.raises(LeoEdgeError, match="--context must be 2 to"):
            build(context=100_000)
        with pytest.raises(LeoEdgeError, match="--only got 'vision': this bundle has tiles, vision"):
            build(only=("vision",))
        with pytest.raises(LeoEdgeError, match="tiles is built for one size of image: give --camera-size"):
            build(only=("tiles",))


class TestTimingCache:
    @pytest.fixture
    def foreign(self, edge_machine: InstallMachine, build: Build, tmp_path: Path) -> Path:
        """One of another TensorRT."""
        edge_machine(tensorrt=TENSORRT_10_16)
        build(only=("fuse",), timing_cache=tmp_path / "foreign.cache")
        edge_machine()
        return tmp_path / "foreign.cache"

    def test_one_that_was_asked_for_must_fit_and_is_not_overwritten(self, foreign: Path, build: Build) -> None:
        before = foreign.read_bytes()
        with pytest.raises(BackendError, match=r"foreign\.cache is not of this TensorRT and device: give another"):
            build(only=("fuse",), timing_cache=foreign)
        assert foreign.read_bytes() == before

    @pytest.mark.parametrize("content", [None, b"no cache"])
    def test_the_one_beside_the_plans_begins_anew(
        self, content: bytes | None, foreign: Path, build: Build, plain_bundle: Bundle, said: list[str]
    ) -> None:
        directory = plain_bundle.directory / "engines" / "trt10.3.0-Orin-16mp-sm87"
        directory.mkdir()
        (directory / "timing.cache").write_bytes(foreign.read_bytes() if content is None else content)
        build(only=("fuse",))
        assert any("timing.cache is not of this TensorRT and device: it begins anew" in line for line in said)
        assert json.loads((directory / "timing.cache").read_text())["made_for"] == [TENSORRT_10_3, "8.7"]


def test_a_record_of_a_graph_that_is_no_more_is_dropped(edge_machine: InstallMachine, build: Build) -> None:
    edge_machine()
    first = build()
    engines = {**first.record.engines, "vision.old": first.record.engines["fuse"]}
    write_record(
        first.directory, replace(first.record, engines={**engines, "vision.old": replace(engines["fuse"], file="old.plan")})
    )
    (first.directory / "old.plan").write_bytes(b"old")
    assert set(reasons(build()).values()) == {None}
    assert list(read_record(first.directory).engines) == BUILT
    assert "old.plan" not in left(first.directory)
