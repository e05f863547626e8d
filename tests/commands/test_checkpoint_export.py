"""`leo-edge checkpoint` and `leo-edge export`: what is written is complete, standard, the same each time and no one's path."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from leo_edge.cli import main
from leo_edge.export.checkpoint import INDEX_NAME, SINGLE_NAME, Checkpoint
from leo_edge.export.config import parse_config
from leo_edge.export.presets import PRESETS
from leo_edge.export.random_checkpoint import write_random_checkpoint
from leo_edge.export.stages import Stage, StageOptions, build_stages
from leo_edge.export.trace import trace
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.manifest import MANIFEST_NAME, TensorSpec
from leo_edge.runtime.tokenizer import Tokenizer
from tests.conftest import MadeOnce

BUNDLES = ("leo-tiny", "leo-mini-tiny", "plain", "fused")
GRAPHS = {
    "leo-tiny": {"tiles", "vision.internvit", "vision.sam", "fuse", "llm"},
    "leo-mini-tiny": {"tiles", "vision.clip", "vision.sam", "fuse", "router", "llm"},
    "plain": {"tiles", "vision.vit", "fuse", "router", "llm"},
    "fused": {"tiles", "vision.vit", "fuse", "router", "llm"},
}
PAGE_BYTES, LINE_BYTES, LARGE_BYTES = 4096, 64, 1 << 16
# What an exporter's notes would give away: folders of this machine, and source files.
LOCAL = (b"/work", b"/tmp", b"/root", b"/home", b"site-packages", b".py", os.fsencode(Path.cwd()), os.fsencode(sys.prefix))


@pytest.fixture
def bundle(request: pytest.FixtureRequest, tiny_bundles: MadeOnce, micro_bundles: MadeOnce) -> Bundle:
    name = request.param
    return open_bundle(tiny_bundles[name] if name in PRESETS else micro_bundles[name])


every_bundle = pytest.mark.parametrize("bundle", BUNDLES, indirect=True)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those inside of If, Loop and Scan too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from nodes(inner)


def models(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    """Every graph, without its weights."""
    graphs = bundle.manifest.graphs.items()
    return {name: onnx.load(bundle.path(spec.file), load_external_data=False) for name, spec in graphs}


def port(value: onnx.ValueInfoProto) -> TensorSpec:
    """A graph's input or output in the words of the manifest."""
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim))


class TestCheckpoint:
    def test_a_seed_gives_the_same_bytes_and_another_seed_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seeds = {"a": (), "b": ("--seed", "0"), "c": ("--seed", "1")}
        made = {}
        for name, options in seeds.items():
            assert main(["checkpoint", "leo-mini-tiny", str(tmp_path / name), *options]) == 0
            made[name] = files(tmp_path / name)
        assert made["a"] == made["b"]
        assert {name for name in made["a"] if made["a"][name] != made["c"][name]} == {SINGLE_NAME}
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].startswith(f"{tmp_path / 'a'}: random-weight checkpoint leo-mini-tiny, ")

    def test_another_seed_changes_every_tensor(self, tmp_path: Path, tiny_checkpoints: MadeOnce) -> None:
        write_random_checkpoint("leo-tiny", tmp_path / "c", seed=1)
        one, other = Checkpoint.open(tiny_checkpoints["leo-tiny"]), Checkpoint.open(tmp_path / "c")
        assert not [key for key in one.shapes if torch.equal(one.read(key), other.read(key))]

    def test_shards_hold_the_same_tensors_as_one_file(self, tmp_path: Path, tiny_checkpoints: MadeOnce) -> None:
        write_random_checkpoint("leo-tiny", tmp_path / "c", shard_bytes=500_000)
        whole, sharded = Checkpoint.open(tiny_checkpoints["leo-tiny"]), Checkpoint.open(tmp_path / "c")
        assert (tmp_path / "c" / INDEX_NAME).is_file()
        assert len(set(sharded.shards.values())) > 4
        assert sharded.shapes == whole.shapes
        assert all(torch.equal(sharded.read(key), whole.read(key)) for key in whole.shapes)

    def test_no_shard_is_larger_than_asked_for(self, tmp_path: Path) -> None:
        write_random_checkpoint("leo-tiny", tmp_path / "c", shard_bytes=500_000)
        for path in (tmp_path / "c").glob("*.safetensors"):
            checkpoint = Checkpoint.open(tmp_path / "c")
            held = [key for key, shard in checkpoint.shards.items() if shard == path]
            assert len(held) == 1 or sum(checkpoint.read(key).nbytes for key in held) <= 500_000

    @pytest.mark.parametrize("preset", ["leo-tiny", "leo-mini-tiny"])
    def test_tokenizer_has_a_token_for_every_text(self, tiny_checkpoints: MadeOnce, preset: str) -> None:
        tokenizer = Tokenizer(tiny_checkpoints[preset] / "tokenizer.json")
        text = "Überholen? 前方に歩行者 <img>\n"
        assert tokenizer.decode(tokenizer.encode(text.replace("<img>", ""), special=False)) == text.replace("<img>", "")
        assert max(tokenizer.encode(text, special=True)) < PRESETS[preset]["llm_config"]["vocab_size"]


class TestBundle:
    @every_bundle
    def test_is_complete(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        assert set(manifest.graphs) == GRAPHS[bundle.directory.name]
        assert set(files(bundle.directory)) == {MANIFEST_NAME, *manifest.files}
        assert manifest.tokenizer in manifest.files
        assert manifest.embedding in manifest.files

    @every_bundle
    def test_graphs_are_valid_onnx(self, bundle: Bundle) -> None:
        for spec in bundle.manifest.graphs.values():
            onnx.checker.check_model(str(bundle.path(spec.file)), full_check=True)

    @every_bundle
    def test_bytes_are_read_by_casts_only(self, bundle: Bundle) -> None:
        """TensorRT 10.3 takes UINT8 in Cast alone."""
        for expert in bundle.manifest.experts:
            spec = bundle.manifest.graphs[f"vision.{expert.name}"]
            graph = onnx.load(bundle.path(spec.file), load_external_data=False).graph
            assert {node.op_type for node in graph.node if "tiles" in node.input} == {"Cast"}, expert.name
        graph = onnx.load(bundle.path(bundle.manifest.graphs["tiles"].file)).graph
        assert {node.op_type for node in graph.node if "image" in node.input or "tiles" in node.output} == {"Cast"}

    @every_bundle
    def test_tiles_have_no_weights_and_are_float32_in_every_bundle(self, bundle: Bundle) -> None:
        spec = bundle.manifest.graphs["tiles"]
        assert (spec.data, spec.num_parameters) == (None, 0)
        assert {port.dtype for port in (*spec.inputs, *spec.outputs)} == {"uint8", "float32"}
        px = bundle.manifest.tiling.tile_px
        assert [port.shape for port in spec.inputs] == [("H", "W", 3), ("W", "X"), ("W", "X"), ("Y", "H"), ("Y", "H")]
        assert spec.outputs == (TensorSpec("tiles", "uint8", ("T", px, px, 3)),)

    @every_bundle
    def test_graphs_hold_only_operators_of_the_standard_domain(self, bundle: Bundle) -> None:
        for name, model in models(bundle).items():
            assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", bundle.manifest.opset)], name
            assert {node.domain for node in nodes(model.graph)} == {""}, name
            assert not model.functions, name

    @every_bundle
    def test_ports_are_those_of_the_manifest(self, bundle: Bundle) -> None:
        for name, model in models(bundle).items():
            spec = bundle.manifest.graphs[name]
            assert tuple(map(port, model.graph.input)) == spec.inputs, name
            assert tuple(map(port, model.graph.output)) == spec.outputs, name
            assert all(dim for entry in (*spec.inputs, *spec.outputs) for dim in entry.shape), f"{name}: a nameless dimension"

    @every_bundle
    def test_nothing_tells_of_the_machine_that_wrote_it(self, bundle: Bundle) -> None:
        for name in [*(spec.file for spec in bundle.manifest.graphs.values()), MANIFEST_NAME]:
            content = (bundle.directory / name).read_bytes()
            assert any(word in content for word in (b"embeds", b"tokens", b"tiles")), "a search that would find nothing"
            assert [word for word in LOCAL if word in content] == [], name

    @every_bundle
    def test_weights_lie_aligned_and_apart_in_the_data_file(self, bundle: Bundle) -> None:
        for name, model in models(bundle).items():
            places = []
            for tensor in model.graph.initializer:
                if not uses_external_data(tensor):
                    continue
                info = ExternalDataInfo(tensor)
                assert info.location == f"{name}.onnx.data"
                offset, length = info.offset or 0, info.length or 0
                assert offset % (PAGE_BYTES if length >= LARGE_BYTES else LINE_BYTES) == 0, tensor.name
                places.append((offset, offset + length))
            places.sort()
            if not places:
                assert bundle.manifest.graphs[name].data is None
                assert name == "tiles"
                continue
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places)), name
            assert places[-1][1] == (bundle.directory / f"{name}.onnx.data").stat().st_size, name

    @every_bundle
    def test_parameters_are_counted_as_they_lie_in_the_graph(self, bundle: Bundle) -> None:
        for name, model in models(bundle).items():
            held = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
            counted = sum(int(torch.Size(tensor.dims).numel()) for tensor in held)
            assert counted == bundle.manifest.graphs[name].num_parameters, name

    def test_choices_are_in_the_manifest(self, micro_bundles: MadeOnce) -> None:
        plain, fused = (open_bundle(micro_bundles[name]).manifest for name in ("plain", "fused"))
        assert (plain.opset, plain.float_type, plain.decoder.cache) == (20, "float32", "prefix")
        assert (fused.opset, fused.float_type, fused.decoder.cache) == (24, "float16", "scatter")
        assert (plain.tiling.max_tiles, fused.tiling.max_tiles) == (6, 2)
        # Six cameras of 16 tokens each, and 1,024 of text.
        assert (plain.decoder.context_len, fused.decoder.context_len) == (6 * 16 + 1024, 640)

    def test_float16_halves_the_weights(self, micro_bundles: MadeOnce) -> None:
        plain, fused = (open_bundle(micro_bundles[name]).manifest.files["llm.onnx.data"] for name in ("plain", "fused"))
        assert fused.size_bytes == pytest.approx(plain.size_bytes / 2, rel=0.05)

    def test_another_process_exports_the_same_bytes(
        self, micro_checkpoint: Path, micro_bundles: MadeOnce, tmp_path: Path
    ) -> None:
        """From another folder, with another order of sets, by `python -m leo_edge`, relative paths."""
        arguments = ["export", os.path.relpath(micro_checkpoint, tmp_path), "plain"]
        command = [sys.executable, "-m", "leo_edge", *arguments]
        env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("plain: leo_mini bundle, 5 graphs, opset 20, float32, context 1120, ")
        assert files(tmp_path / "plain") == files(micro_bundles["plain"])
        assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def full_size_stages(preset: str) -> Iterator[Stage]:
    return build_stages(parse_config(PRESETS[preset]), StageOptions(torch.float16, context_len=2048, fused=False))


@pytest.mark.parametrize(("preset", "name"), [("leo-7b", "fuse"), ("leo-mini-8b", "router")])
def test_tracing_a_full_size_stage_touches_no_weight(preset: str, name: str) -> None:
    stage = next(stage for stage in full_size_stages(preset) if stage.name == name)
    traced = trace(stage, 20)
    assert sum(parameter.numel() for parameter in stage.module.parameters()) > 50_000_000
    assert {parameter.device.type for parameter in stage.module.parameters()} == {"meta"}
    assert traced.recipes
    assert all(traced.model.graph.initializers[key].const_value is None for key in traced.recipes)


@pytest.mark.parametrize("preset", ["leo-7b", "leo-mini-8b"])
def test_a_full_size_model_is_built_without_memory_for_its_weights(preset: str) -> None:
    for stage in full_size_stages(preset):
        assert {parameter.device.type for parameter in stage.module.parameters()} == {"meta"}, stage.name
