"""runtime/manifest.py: bundle.json reads back as it was written, and nothing but exactly that is read."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.manifest import (
    FORMAT_VERSION,
    BundleManifest,
    DecoderManifest,
    ExpertManifest,
    FileSpec,
    FuseManifest,
    GraphSpec,
    PromptManifest,
    TensorSpec,
    check_file_name,
    parse_manifest,
)
from leo_edge.runtime.tiles import TilingConfig

Path = tuple[str | int, ...]

# Names that a bundle may not give to its files.
HOSTILE_NAMES = (
    "",
    "/etc/passwd",
    "//server/share",
    "..",
    "../llm.onnx",
    "engines/../../llm.onnx",
    "engines/..",
    "./llm.onnx",
    "engines/./llm.onnx",
    "engines//llm.onnx",
    "engines/",
    "..\\llm.onnx",
    "C:\\llm.onnx",
    "llm.onnx\0.txt",
)


def graph(name: str, *, data: str | None = None) -> GraphSpec:
    port = TensorSpec("tiles", "uint8", ("T", 448, 448, 3))
    return GraphSpec(f"{name}.onnx", data, inputs=(port,), outputs=(TensorSpec("out", "float32", ()),), num_parameters=7)


def small_manifest(*, routed: bool = False) -> BundleManifest:
    """A manifest with every kind of field in it: one expert, one file of weights."""
    graphs = {name: graph(name) for name in ("tiles", "vision.clip", "fuse", *(["router"] if routed else []))}
    graphs["llm"] = graph("llm", data="llm.onnx.data")
    names = [
        "embedding.safetensors",
        "tokenizer.json",
        "llm.onnx.data",
        "llm.cpu.onnx",
        *(spec.file for spec in graphs.values()),
    ]
    return BundleManifest(
        family="leo_mini",
        float_type="float32",
        opset=20,
        experts=(ExpertManifest("clip", num_tokens=576, width=1024),),
        tiling=TilingConfig(336, min_tiles=2, max_tiles=4, use_thumbnail=False),
        fuse=FuseManifest("image", num_tokens=64, uses_text=True),
        prompt=PromptManifest("<s>", "</s>", "<img>", "<ctx>", "</img>", "{camera}: <image>\n", (2, 7), ("\n\n",)),
        decoder=DecoderManifest("prefix", 2, 2, 3, 6, 8, context_len=16, routed=routed),
        embedding="embedding.safetensors",
        tokenizer="tokenizer.json",
        graphs=graphs,
        cpu_forms={"llm": graph("llm.cpu", data="llm.onnx.data")},
        files={name: FileSpec(len(name), f"{index:064x}") for index, name in enumerate(names)},
        model={"nested": {"list": [1, 2.5, None, "ü"]}},
        provenance={},
    )


def as_json() -> dict[str, Any]:
    raw = json.loads(small_manifest().to_json())
    assert isinstance(raw, dict)
    return raw


def edited(path: Path, value: Any) -> str:
    """The text of a bundle.json in which the field at `path` is `value`."""
    raw: Any = as_json()
    place = raw
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(raw)


def fields(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all fields that are named by us, and not by a user's graph, file or model."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from fields(entry, (*path, index))
    elif isinstance(value, dict) and path not in (("model",), ("provenance",)):
        for name, entry in value.items():
            if path not in (("graphs",), ("cpu_forms",), ("files",)):
                yield (*path, name)
            yield from fields(entry, (*path, name))


# Found to be optional although "every field must be there": their dataclasses have defaults.
DEFAULTED = {
    ("tiling", "min_tiles"),
    ("tiling", "max_tiles"),
    ("tiling", "use_thumbnail"),
    ("prompt", "stop_strings"),
}
REQUIRED = [path for path in fields(as_json()) if path != ("format_version",) and path not in DEFAULTED]


def without(path: Path) -> str:
    raw: Any = as_json()
    place = raw
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return json.dumps(raw)


class TestRoundTrip:
    @pytest.mark.parametrize("routed", [False, True])
    def test_reads_what_was_written(self, routed: bool) -> None:
        manifest = small_manifest(routed=routed)
        assert parse_manifest(manifest.to_json()) == manifest

    def test_a_changed_number_is_another_manifest(self) -> None:
        assert parse_manifest(edited(("decoder", "context_len"), 17)) != small_manifest()

    def test_lists_come_back_as_tuples_and_whole_numbers_as_such(self) -> None:
        manifest = parse_manifest(small_manifest().to_json())
        assert manifest.graphs["fuse"].inputs[0].shape == ("T", 448, 448, 3)
        assert manifest.prompt.stop_ids == (2, 7)
        assert manifest.graphs["fuse"].outputs[0].shape == ()

    def test_text_is_json_for_people(self) -> None:
        text = small_manifest().to_json()
        assert text.endswith("}\n")
        assert '\n "float_type": "float32",' in text


class TestFields:
    def test_the_list_of_fields_reaches_into_every_part(self) -> None:
        assert {("opset",), ("experts", 0, "width"), ("graphs", "llm", "inputs", 0, "dtype")} <= set(REQUIRED)
        assert len(REQUIRED) > 50

    @pytest.mark.parametrize("path", REQUIRED, ids=str)
    def test_missing_field_is_named(self, path: Path) -> None:
        with pytest.raises(BundleError, match=rf"bundle\.json.* has missing fields \['{path[-1]}'\]"):
            parse_manifest(without(path))

    @pytest.mark.parametrize("path", sorted(DEFAULTED), ids=str)
    def test_missing_field_is_named_where_there_is_a_default(self, path: Path) -> None:
        with pytest.raises(BundleError, match=str(path[-1])):
            parse_manifest(without(path))

    @pytest.mark.parametrize(
        ("path", "where"),
        [
            (("speed",), r"bundle\.json has"),
            (("decoder", "speed"), r"bundle\.json\.decoder has"),
            (("experts", 0, "speed"), r"bundle\.json\.experts\[0\] has"),
            (("graphs", "llm", "outputs", 0, "speed"), r"bundle\.json\.graphs\.llm\.outputs\[0\] has"),
        ],
    )
    def test_unknown_field_is_named_with_its_place(self, path: Path, where: str) -> None:
        with pytest.raises(BundleError, match=rf"{where} missing fields \[\] and unknown fields \['speed'\]"):
            parse_manifest(edited(path, 1))

    @pytest.mark.parametrize(
        ("path", "value", "text"),
        [
            (("family",), None, r"bundle\.json\.family is None, expected str"),
            (("opset",), "20", r"bundle\.json\.opset is '20', expected int"),
            (("opset",), 20.0, r"bundle\.json\.opset is 20\.0, expected int"),
            (("opset",), True, r"bundle\.json\.opset is True, expected int"),
            (("fuse", "uses_text"), 1, r"bundle\.json\.fuse\.uses_text is 1, expected bool"),
            (("experts",), {}, r"bundle\.json\.experts is \{\}, expected a list"),
            (("experts", 0), "clip", r"bundle\.json\.experts\[0\] is 'clip', expected an object"),
            (("tiling",), [448], r"bundle\.json\.tiling is \[448\], expected an object"),
            (("graphs",), [], r"bundle\.json\.graphs is \[\], expected an object"),
            (("graphs", "llm"), None, r"bundle\.json\.graphs\.llm is None, expected an object"),
            (("graphs", "llm", "data"), 3, r"bundle\.json\.graphs\.llm\.data is 3, expected str or NoneType"),
            (("graphs", "llm", "inputs", 0, "shape", 1), 4.5, r"inputs\[0\]\.shape\[1\] is 4\.5, expected int or str"),
            (("prompt", "stop_ids"), 2, r"bundle\.json\.prompt\.stop_ids is 2, expected a list"),
            (("prompt", "stop_ids", 1), "2", r"bundle\.json\.prompt\.stop_ids\[1\] is '2', expected int"),
            (("files", "llm.onnx", "size_bytes"), "1", r"files\.llm\.onnx\.size_bytes is '1', expected int"),
            (("model",), "config.json", r"bundle\.json\.model is 'config\.json', expected an object"),
        ],
    )
    def test_wrong_type_is_named_with_its_place(self, path: Path, value: Any, text: str) -> None:
        with pytest.raises(BundleError, match=text):
            parse_manifest(edited(path, value))

    @pytest.mark.parametrize(
        ("path", "value", "text"),
        [
            (("fuse", "unit"), "pixel", "unit must be 'tile' or 'image', got 'pixel'"),
            (("decoder", "cache"), "ring", "cache must be 'prefix' or 'scatter', got 'ring'"),
            (("tiling", "max_tiles"), 1, "max_tiles must be at least min_tiles 2, got 1"),
        ],
    )
    def test_impossible_value(self, path: Path, value: Any, text: str) -> None:
        with pytest.raises(BundleError, match=rf"bundle\.json: {text}"):
            parse_manifest(edited(path, value))

    def test_impossible_float_type(self) -> None:
        with pytest.raises(BundleError, match="float_type"):
            parse_manifest(edited(("float_type",), "bfloat16"))


class TestFormat:
    def test_newer_format_asks_for_an_update(self) -> None:
        newer = FORMAT_VERSION + 1
        with pytest.raises(
            BundleError, match=rf"format version {newer}, this leo_edge reads {FORMAT_VERSION}: update leo_edge"
        ):
            parse_manifest(edited(("format_version",), newer))

    def test_newer_format_is_said_before_its_unknown_fields(self) -> None:
        raw = as_json() | {"format_version": FORMAT_VERSION + 1, "speed": 1}
        with pytest.raises(BundleError, match="update leo_edge"):
            parse_manifest(json.dumps(raw))

    @pytest.mark.parametrize("version", [0, -1, "1", None])
    def test_older_or_senseless_format_asks_for_a_new_export(self, version: Any) -> None:
        with pytest.raises(BundleError, match=rf"format version {version!r}, .*: export the bundle again"):
            parse_manifest(edited(("format_version",), version))

    def test_no_format(self) -> None:
        with pytest.raises(BundleError, match=r"format version None, .*: export the bundle again"):
            parse_manifest(without(("format_version",)))

    def test_not_json(self) -> None:
        with pytest.raises(BundleError, match=r"bundle\.json is not JSON: .*line 1"):
            parse_manifest("{format_version: 1}")

    @pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("null", "NoneType"), ('"bundle"', "str")])
    def test_not_an_object(self, text: str, kind: str) -> None:
        with pytest.raises(BundleError, match=rf"bundle\.json holds a {kind}, expected an object"):
            parse_manifest(text)


class TestFileNames:
    @pytest.mark.parametrize("name", ["llm.onnx", "vision.clip.onnx.data", "engines/8a7f/llm.plan", "..llm", "a b", "~"])
    def test_plain_relative_names_pass(self, name: str) -> None:
        check_file_name(name)

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_names_that_leave_the_bundle_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"file name '.*' does not stay inside the bundle"):
            check_file_name(name)

    @pytest.mark.parametrize("name", [".", "\ud800"], ids=ascii)
    def test_names_that_no_file_can_have_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="file name"):
            check_file_name(name)

    @pytest.mark.parametrize("path", [("embedding",), ("tokenizer",), ("graphs", "fuse", "file"), ("graphs", "llm", "data")])
    @pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if name])
    def test_every_field_that_names_a_file_is_checked(self, path: Path, name: str) -> None:
        raw = json.loads(edited(path, name))
        raw["files"][name] = {"size_bytes": 0, "sha256": "0" * 64}  # listed, so that only its name is wrong
        with pytest.raises(BundleError, match=r"bundle\.json: file name .* does not stay inside the bundle"):
            parse_manifest(json.dumps(raw))

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_the_list_of_files_is_checked(self, name: str) -> None:
        with pytest.raises(BundleError, match=r"bundle\.json: file name .* does not stay inside the bundle"):
            parse_manifest(edited(("files", name), {"size_bytes": 0, "sha256": "0" * 64}))

    @pytest.mark.parametrize("name", ["embedding.safetensors", "tokenizer.json", "fuse.onnx", "llm.onnx.data"])
    def test_a_file_without_size_and_hash(self, name: str) -> None:
        with pytest.raises(BundleError, match=f"files without size and hash: {name}"):
            parse_manifest(without(("files", name)))

    def test_files_that_no_graph_names_may_be_listed(self) -> None:
        manifest = parse_manifest(edited(("files", "calibration.json"), {"size_bytes": 1, "sha256": "0" * 64}))
        assert manifest.files["calibration.json"].size_bytes == 1


class TestGraphs:
    @pytest.mark.parametrize("name", ["tiles", "vision.clip", "fuse", "llm"])
    def test_a_graph_that_the_model_needs_is_missing(self, name: str) -> None:
        with pytest.raises(BundleError, match=f"no graph named {name}"):
            parse_manifest(without(("graphs", name)))

    def test_each_expert_needs_its_own_graph(self) -> None:
        second = copy.deepcopy(as_json()["experts"][0]) | {"name": "sam"}
        raw = as_json()
        raw["experts"].append(second)
        with pytest.raises(BundleError, match=r"no graph named vision\.sam$"):
            parse_manifest(json.dumps(raw))

    def test_a_routed_model_needs_its_router(self) -> None:
        with pytest.raises(BundleError, match="no graph named router"):
            parse_manifest(edited(("decoder", "routed"), True))


class TestFuse:
    @pytest.mark.parametrize(
        ("unit", "tiling", "tokens"),
        [
            ("tile", TilingConfig(448, max_tiles=6), 512 * 7),  # LEO, with a thumbnail
            ("tile", TilingConfig(448, max_tiles=6, use_thumbnail=False), 512 * 6),
            ("tile", TilingConfig(448, max_tiles=1), 512),  # one tile is the whole image
            ("image", TilingConfig(448, max_tiles=6), 512),
        ],
    )
    def test_counts_the_most_that_a_camera_can_take(self, unit: str, tiling: TilingConfig, tokens: int) -> None:
        fuse = FuseManifest(unit, num_tokens=512, uses_text=False)
        assert fuse.most_tokens(tiling) == tokens
