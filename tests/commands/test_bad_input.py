"""Bad input to the command line: one `error:` line with what was got and how to mend it, exit code 2, and nothing harmed."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leo_edge.cli import main
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from leo_edge.runtime.manifest import FORMAT_VERSION, MANIFEST_NAME
from tests.conftest import CommandLine, MadeOnce
from tests.real_data import NUSCENES_REAL, needs_real_frames
from tests.test_import_rule import PRELUDE, run_blocked

Json = dict[str, Any]

QUESTION = ("--question", "What is ahead?")


def contents(directory: Path) -> dict[str, bytes | None]:
    """Everything under a directory, hidden files and empty directories too."""
    paths = directory.rglob("*")
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in paths}


@contextmanager
def unharmed(directory: Path) -> Iterator[None]:
    """Nothing under a directory is changed, added or left behind."""
    before = contents(directory)
    yield
    assert contents(directory) == before


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundles: MadeOnce) -> Path:
    return shutil.copytree(tiny_bundles["leo-mini-tiny"], tmp_path / "bundle")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Arguments of six grey frames."""
    paths = {channel: tmp_path / f"{channel}.jpg" for channel in NUSCENES_CAMERAS}
    for path in paths.values():
        Image.fromarray(np.full((90, 160, 3), 128, np.uint8)).save(path)
    return [f"{channel}={path}" for channel, path in paths.items()]


@pytest.fixture
def run_error(error_line: CommandLine, tmp_path: Path, session_cache: Path) -> Callable[..., str]:  # noqa: ARG001
    """Asks a bundle and must fail; `--json` keeps stdout for the result, which there is none of."""

    def run(bundle: Path, images: list[str], *options: str) -> str:
        question = () if "--question" in options else QUESTION
        source = ["--images", *images] if images else []
        with unharmed(tmp_path):
            return error_line("run", bundle, "--json", *question, *options, *source)

    return run


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[Json], object]) -> None:
    """Changes a JSON file."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


class TestBundle:
    @pytest.mark.parametrize("name", ["llm.onnx", "vision.sam.onnx.data", "embedding.safetensors", "tokenizer.json"])
    def test_flipped_byte(self, bundle: Path, images: list[str], run_error: Callable[..., str], name: str) -> None:
        flip(bundle / name, 1000)
        line = run_error(bundle, images)
        assert re.search(rf"{name} has SHA-256 \w{{12}}\.\.\., expected \w{{12}}\.\.\.: it was altered; copy or export", line)

    def test_flipped_byte_after_the_bundle_was_opened(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What was verified is remembered, so this must be noticed all the same. The negative control of all cases here."""
        assert main(["run", str(bundle), "--json", *QUESTION, "--images", *images]) == 0
        assert json.loads(capsys.readouterr().out)["answers"]
        flip(bundle / "fuse.onnx", 1000)
        assert "fuse.onnx has SHA-256" in run_error(bundle, images)

    def test_missing_file(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        (bundle / "llm.onnx.data").unlink()
        assert "llm.onnx.data is missing from the bundle" in run_error(bundle, images)

    @pytest.mark.parametrize("place", ["../outside.onnx", "{root}/outside.onnx", "sub/../../outside.onnx"])
    def test_manifest_that_points_outside(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], place: str
    ) -> None:
        """The file is there, with the right size and hash."""
        place = place.format(root=bundle.parent)
        shutil.copyfile(bundle / "llm.onnx", bundle.parent / "outside.onnx")

        def redirect(raw: Json) -> None:
            raw["graphs"]["llm"]["file"] = place
            raw["files"][place] = raw["files"].pop("llm.onnx")

        edit(bundle / MANIFEST_NAME, redirect)
        assert f"file name '{place}' does not stay inside the bundle" in run_error(bundle, images)

    def test_link_out_of_the_bundle(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        (bundle / "llm.onnx").rename(bundle.parent / "outside.onnx")
        (bundle / "llm.onnx").symlink_to(bundle.parent / "outside.onnx")
        assert "llm.onnx is a link out of the bundle" in run_error(bundle, images)

    def test_newer_format(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        edit(bundle / MANIFEST_NAME, lambda raw: raw.update(format_version=FORMAT_VERSION + 1, a_new_field={}))
        wanted = f"the bundle has format version {FORMAT_VERSION + 1}, this leo_edge reads {FORMAT_VERSION}: update leo_edge"
        assert run_error(bundle, images) == f"error: {wanted}"

    def test_graph_of_another_bundle(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], tiny_bundles: MadeOnce
    ) -> None:
        """Whole and unaltered by its hashes, but not what the manifest says of its ports."""

        def swap(raw: Json) -> None:
            del raw["cpu_forms"]["llm"]
            for name in ("llm.onnx", "llm.onnx.data"):
                content = (tiny_bundles["leo-tiny"] / name).read_bytes()
                (bundle / name).write_bytes(content)
                raw["files"][name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        edit(bundle / MANIFEST_NAME, swap)
        assert "llm.onnx does not fit the manifest: their number differs" in run_error(bundle, images)

    @pytest.mark.parametrize(
        ("section", "field", "value"),
        [
            ("fuse", "num_tokens", 3),
            ("tiling", "tile_px", 56),
            ("decoder", "num_layers", 1),
            ("decoder", "head_dim", -1),
            ("decoder", "context_len", 0),
        ],
    )
    def test_manifest_that_contradicts_its_graphs(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], section: str, field: str, value: int
    ) -> None:
        """The hashes cover all files but the manifest itself."""
        edit(bundle / MANIFEST_NAME, lambda raw: raw[section].update({field: value}))
        assert run_error(bundle, images)

    @pytest.mark.parametrize("command", ["run", "verify", "inspect"])
    def test_no_bundle(self, error_line: CommandLine, tmp_path: Path, images: list[str], command: str) -> None:
        arguments: dict[str, list[object]] = {"run": [*QUESTION, "--images", *images], "verify": [tmp_path], "inspect": []}
        assert f"no bundle.json in {tmp_path}: expected a bundle" in error_line(command, tmp_path, *arguments[command])


class TestFrames:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"<html>404 Not Found</html>", "cannot identify image"), (b"", "0 bytes"), (None, "truncated")],
        ids=["html", "empty", "cut"],
    )
    def test_jpeg_that_is_not_one(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], content: bytes | None, reason: str
    ) -> None:
        path = Path(images[3].partition("=")[2])
        path.write_bytes(path.read_bytes()[:-200] if content is None else content)
        line = run_error(bundle, images)
        assert str(path) in line
        assert reason in line

    def test_image_that_is_not_there(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        Path(images[0].partition("=")[2]).unlink()
        assert "no image file" in run_error(bundle, images)

    def test_missing_camera(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        line = run_error(bundle, images[:4])
        assert line == (
            "error: missing cameras CAM_BACK_LEFT, CAM_BACK_RIGHT: give their images, or name those you have with "
            "--cameras CAM_FRONT CAM_FRONT_LEFT CAM_FRONT_RIGHT CAM_BACK"
        )

    def test_camera_twice(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        assert "got two frames of CAM_FRONT, expected one" in run_error(bundle, [*images, images[0]])

    def test_camera_that_was_not_asked_for(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        line = run_error(bundle, images, "--cameras", *NUSCENES_CAMERAS[:5])
        assert "got a frame of CAM_BACK_RIGHT, expected cameras are CAM_FRONT, " in line

    @pytest.mark.parametrize("entry", ["front.jpg", "=front.jpg", "CAM_FRONT="])
    def test_image_without_its_camera(self, bundle: Path, run_error: Callable[..., str], entry: str) -> None:
        assert run_error(bundle, [entry]) == (
            f"error: --images got '{entry}': expected CAMERA=FILE, such as CAM_FRONT=front.jpg"
        )


class TestQuestion:
    def test_longer_than_the_context(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        line = run_error(bundle, images, "--question", "Why? " * 1000, "--max-new-tokens", "8")
        found = re.search(
            r"prompt (\d+) \+ max_new_tokens 8 = (\d+) tokens, but this bundle was exported for (\d+): ask for fewer, "
            r"use fewer cameras or tiles, or export again with --context-len (\d+)$",
            line,
        )
        assert found, line
        prompt, needed, context_len, advised = map(int, found.groups())
        assert prompt > 5000 > context_len
        assert needed == advised == prompt + 8

    def test_answer_longer_than_the_context(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        assert "max_new_tokens 100000 = " in run_error(bundle, images, "--max-new-tokens", "100000")

    @pytest.mark.parametrize(
        ("question", "expected"),
        [
            ("  ", "the question is empty: ask something"),
            ("<image> what is this?", "the question has 1 <image> marks for 6 cameras: write one per camera, or none"),
            ("what is <IMG_CONTEXT>?", "the question holds <IMG_CONTEXT>, which "),
            ("wh\udcfft?", "the question"),
        ],
    )
    def test_that_is_none(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], question: str, expected: str
    ) -> None:
        assert run_error(bundle, images, "--question", question).startswith(f"error: {expected}")


class TestDrive:
    def test_dataset_that_is_not_there(self, bundle: Path, run_error: Callable[..., str]) -> None:
        assert "no folder" in run_error(bundle, [], "--nuscenes", str(bundle.parent / "absent"), "--scene", "scene-0061")

    def test_no_scene_named(self, bundle: Path, run_error: Callable[..., str]) -> None:
        assert "--nuscenes needs --scene NAME" in run_error(bundle, [], "--nuscenes", str(bundle))

    def test_scene_of_no_dataset(self, bundle: Path, images: list[str], run_error: Callable[..., str]) -> None:
        assert "--scene, --sample and --version go with --nuscenes" in run_error(bundle, images, "--scene", "scene-0061")

    @needs_real_frames
    def test_unknown_scene(self, bundle: Path, run_error: Callable[..., str]) -> None:
        line = run_error(bundle, [], "--nuscenes", str(NUSCENES_REAL), "--scene", "scene-9999")
        assert re.match(r"error: no scene 'scene-9999' in v1.0-mini, which has \d+: scene-\d{4}", line)

    @needs_real_frames
    def test_sample_beyond_the_scene(self, bundle: Path, run_error: Callable[..., str]) -> None:
        scene = ("--nuscenes", str(NUSCENES_REAL), "--scene", "scene-0061")
        assert re.search(r"no sample 999 in scene scene-0061: it has \d+", run_error(bundle, [], *scene, "--sample", "999"))


class TestUsage:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (("--max-new-tokens", "0"), "max_new_tokens must be at least 1, got 0"),
            (("--temperature", "-1"), "temperature must be 0 or more, got -1.0"),
            (("--temperature", "nan"), "temperature must be 0 or more, got nan"),
            (("--top-p", "0"), "top_p must be above 0 and at most 1, got 0.0"),
            (("--seed", "-1"), "seed must be 0 or more, got -1"),
            (("--deadline-ms", "0"), "deadline_ms must be above 0"),
            (("--deadline-ms", "nan"), "deadline_ms must be above 0"),
            (("--deadline-ms", "inf"), "deadline_ms must be"),
            (("--threads", "-1"), "threads must be"),
            (("--threads", "999999"), "threads must be"),
        ],
    )
    def test_impossible_number(
        self, bundle: Path, images: list[str], run_error: Callable[..., str], options: tuple[str, ...], expected: str
    ) -> None:
        assert expected in run_error(bundle, images, *options)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), "the following arguments are required: COMMAND (see leo-edge -h)"),
            (("fly",), "argument COMMAND: invalid choice: 'fly'"),
            (("inspect",), "the following arguments are required: BUNDLE (see leo-edge inspect -h)"),
            (("inspect", "b", "--colour"), "unrecognized arguments: --colour (see leo-edge -h)"),
            (("export", "c", "b", "--opset", "19"), "argument --opset: invalid choice: 19 (choose from 20, 24)"),
            (("export", "c", "b", "--max-tiles", "many"), "argument --max-tiles: invalid int value: 'many'"),
            (("export", "c", "b", "--max-tiles", "0"), "max_tiles must be at least 1, got 0"),
            (("export", "c", "b", "--context-len", "-5"), "context_len must be at least 1, got -5"),
            (("run", "b", "--question", "?"), "one of the arguments --images --nuscenes is required (see leo-edge run -h)"),
            (("run", "b", "--question", "?", "--images"), "argument --images: expected at least one argument"),
            (("run", "b", "--images", "A=b"), "the following arguments are required: --question"),
            (("verify", "b"), "the following arguments are required: REFERENCE (see leo-edge verify -h)"),
        ],
    )
    def test_wrong_use(self, error_line: CommandLine, arguments: tuple[str, ...], expected: str) -> None:
        assert error_line(*arguments).startswith(f"error: {expected}")

    @pytest.mark.parametrize(
        ("module", "arguments", "expected"),
        [
            ("onnxruntime", ("run", "b", *QUESTION, "--images", "A=b"), "run needs onnxruntime{}: pip install 'leo_edge[ort]'"),
            ("torch", ("export", "c", "b"), "export needs torch{}: pip install 'leo_edge[export]'"),
            ("torch", ("checkpoint", "leo-tiny", "c"), "checkpoint needs torch{}: pip install 'leo_edge[export]'"),
        ],
    )
    def test_package_that_is_not_installed_is_named_with_its_extra(
        self, module: str, arguments: tuple[str, ...], expected: str
    ) -> None:
        code = f"import leo_edge.cli; sys.exit(leo_edge.cli.main({list(arguments)}))"
        result = run_blocked(PRELUDE + code, frozenset({module}))
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr == "error: " + expected.format(", which is not installed") + "\n"

    @needs_real_frames
    def test_devkit_that_is_not_installed_is_named_with_its_extra(self) -> None:
        arguments = ["run", "b", *QUESTION, "--nuscenes", str(NUSCENES_REAL), "--scene", "scene-0061"]
        code = f"import leo_edge.cli; sys.exit(leo_edge.cli.main({arguments}))"
        result = run_blocked(PRELUDE + code, frozenset({"nuscenes"}))
        assert result.returncode == 2
        assert re.fullmatch(
            r"error: nuScenes drives need nuscenes-devkit .*: pip install 'leo_edge\[replay\]'\n", result.stderr
        )


def test_plain_scores_are_of_bundles(error_line: CommandLine) -> None:
    checkpoint = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
    assert f"--plain is for bundles, {checkpoint} is none: export it first" in error_line(
        "demo", "score", checkpoint, "--plain"
    )
