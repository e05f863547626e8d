"""`leo-edge run`: image files or a drive, and questions, to answers that say how good they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from leo_edge.cli import main
from leo_edge.demo.training.drawing import frame_set_of
from leo_edge.demo.world.observe import observe
from leo_edge.demo.world.scene import make_scene
from leo_edge.replay.nuscenes import NuScenesDrives
from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.conftest import MadeOnce
from tests.real_data import NUSCENES_REAL, needs_real_frames
from tests.test_import_rule import HEAVY, PRELUDE, run_blocked

Json = dict[str, Any]

AHEAD, NEXT = "What is ahead?", "What should the vehicle do next?"
SAMPLED = ("--question", AHEAD, "--temperature", "0.8", "--max-new-tokens", "24")
# A tile of 112 px gives 16 tokens by LEO-MINI's reduction whatever the number of tiles.
TOKENS_PER_CAMERA = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six drawn frames, some JPEG and some PNG."""
    home = tmp_path_factory.mktemp("images")
    paths = {}
    for index, (channel, frame) in enumerate(frame_set_of(observe(make_scene(0, 5), 3)).frames.items()):
        paths[channel] = home / f"{channel}.{('jpg', 'png')[index % 2]}"
        Image.fromarray(frame.image).resize((320, 180)).save(paths[channel])
    return paths


@pytest.fixture
def run(tiny_bundles: MadeOnce, images: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Asks about the drawn frames and returns what is printed."""

    def ask(*options: str, preset: str = "leo-mini-tiny", cameras: tuple[str, ...] = NUSCENES_CAMERAS) -> str:
        entries = [f"{camera}={images[camera]}" for camera in cameras]
        capsys.readouterr()
        assert main(["run", str(tiny_bundles[preset]), *options, "--images", *entries]) == 0
        return capsys.readouterr().out

    return ask


@pytest.fixture
def answers(run: Callable[..., str]) -> Callable[..., list[Json]]:
    def ask(*options: str, **arguments: Any) -> list[Json]:
        found: list[Json] = json.loads(run("--json", *options, **arguments))["answers"]
        return found

    return ask


def texts(printed: str) -> list[str]:
    """The answers in what is printed for people."""
    return re.findall(r"^A: (.*?)\n   \(\d+ tokens", printed, re.DOTALL | re.MULTILINE)


def shown(text: str) -> str:
    """A text as a terminal gets it."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


class TestJson:
    @pytest.mark.parametrize("preset", ["leo-tiny", "leo-mini-tiny"])
    def test_answers_say_what_they_are_worth(
        self, run: Callable[..., str], tiny_bundles: MadeOnce, images: dict[str, Path], preset: str
    ) -> None:
        report = json.loads(run("--json", "--question", AHEAD, "--max-new-tokens", "4", preset=preset))
        (answer,) = report["answers"]
        bundle = open_bundle(tiny_bundles[preset])
        assert report["cameras"] == list(images)
        assert answer["bundle_id"] == bundle.id
        assert answer["backend"].startswith("onnxruntime ")
        assert answer["question"] == AHEAD
        assert answer["finish"] in ("length", "stop_token")
        assert 0 < len(answer["token_ids"]) <= 4
        assert answer["missing"] == []
        assert answer["deadline_met"] is None
        assert answer["stamp_ns"] == report["stamp_ns"] == 0
        assert answer["camera_stamps_ns"] == dict.fromkeys(images, 0)
        assert answer["age_ms"] == dict.fromkeys(images, 0.0)
        assert answer["num_prompt_tokens"] > answer["num_visual_tokens"] > 0
        assert answer["first_token_ms"] > 0

    @pytest.mark.parametrize(
        ("preset", "encode", "ask"),
        [
            ("leo-tiny", ["tiles", "vision.internvit", "vision.sam", "fuse"], ["prompt", "prefill", "decode"]),
            (
                "leo-mini-tiny",
                ["tiles", "vision.clip", "vision.sam"],
                ["prompt", "fuse", "router", "prefill", "decode"],
            ),
        ],
    )
    def test_spans_cover_every_stage_in_order(
        self, run: Callable[..., str], preset: str, encode: list[str], ask: list[str]
    ) -> None:
        report = json.loads(run("--json", "--question", AHEAD, "--max-new-tokens", "2", preset=preset))
        assert [span["name"] for span in report["encode_spans"]] == encode
        spans = report["answers"][0]["spans"]
        assert [span["name"] for span in spans] == ask
        for part in (report["encode_spans"], spans):
            ends = [span["start_ms"] + span["duration_ms"] for span in part]
            assert part[0]["start_ms"] == 0
            assert all(end <= after["start_ms"] + 1e-6 for end, after in zip(ends, part[1:], strict=False))

    def test_one_answer_per_question_in_order(self, answers: Callable[..., list[Json]]) -> None:
        both = answers("--question", AHEAD, "--question", NEXT)
        assert [answer["question"] for answer in both] == [AHEAD, NEXT]
        assert both[0]["token_ids"] != both[1]["token_ids"]
        assert [answer["token_ids"] for answer in answers("--question", NEXT)] == [both[1]["token_ids"]]

    def test_some_cameras_in_the_order_asked_for(self, run: Callable[..., str]) -> None:
        chosen = ("CAM_BACK", "CAM_FRONT")
        report = json.loads(run("--json", "--question", AHEAD, "--cameras", *chosen, cameras=("CAM_FRONT", "CAM_BACK")))
        (answer,) = report["answers"]
        assert report["cameras"] == list(answer["camera_stamps_ns"]) == list(chosen)
        assert answer["num_visual_tokens"] == 2 * TOKENS_PER_CAMERA

    def test_the_order_of_cameras_is_the_order_of_the_prompt(self, answers: Callable[..., list[Json]]) -> None:
        cameras = ("CAM_FRONT", "CAM_BACK")
        one = answers("--question", AHEAD, "--cameras", *cameras, cameras=cameras)
        same = answers("--question", AHEAD, "--cameras", *cameras, cameras=cameras[::-1])
        other = answers("--question", AHEAD, "--cameras", *cameras[::-1], cameras=cameras)
        assert one[0]["token_ids"] == same[0]["token_ids"] != other[0]["token_ids"]


class TestText:
    def test_what_is_printed_while_decoding_is_the_answer(
        self, run: Callable[..., str], answers: Callable[..., list[Json]]
    ) -> None:
        options = (*SAMPLED, "--question", NEXT, "--seed", "3")
        wanted = [answer["text"] for answer in answers(*options)]
        assert all(re.search(r"\w", text) for text in wanted), "too little text to compare"
        assert texts(run(*options)) == [shown(text) for text in wanted]

    def test_control_characters_do_not_reach_the_terminal(
        self, run: Callable[..., str], answers: Callable[..., list[Json]]
    ) -> None:
        options = (*SAMPLED, "--max-new-tokens", "256")
        (answer,) = answers(*options)
        assert any(not character.isprintable() and character != "\n" for character in answer["text"]), "none to hide"
        assert all(character.isprintable() or character == "\n" for character in run(*options))

    def test_the_table_names_every_stage_once(self, run: Callable[..., str]) -> None:
        printed = run("--question", AHEAD, "--question", NEXT)
        table = printed[printed.index("stage ") :]
        rows = re.findall(r"(\S+) +\d+\.\d$", table, re.MULTILINE)
        assert rows == ["tiles", "vision.clip", "vision.sam", "prompt", "fuse", "router", "prefill", "decode", "answer"]
        assert [line for line in printed.splitlines() if line.startswith("Q: ")] == [f"Q: {AHEAD}", f"Q: {NEXT}"]

    def test_stderr_says_what_runs(
        self, tiny_bundles: MadeOnce, images: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle, channel = tiny_bundles["leo-mini-tiny"], "CAM_FRONT"
        image = ["--cameras", channel, "--images", f"{channel}={images[channel]}"]
        assert main(["run", str(bundle), "--question", AHEAD, *image]) == 0
        err = capsys.readouterr().err
        assert re.search(rf"^onnxruntime \S+ cpu, bundle {open_bundle(bundle).id}$", err, re.MULTILINE)


class TestChoices:
    def test_a_seed_gives_the_same_answer_and_another_seed_another(self, answers: Callable[..., list[Json]]) -> None:
        first, again, other = (answers(*SAMPLED, "--seed", seed)[0] for seed in ("3", "3", "4"))
        assert (first["token_ids"], first["text"]) == (again["token_ids"], again["text"])
        assert first["token_ids"] != other["token_ids"]

    def test_hardly_any_temperature_is_none(self, answers: Callable[..., list[Json]]) -> None:
        (cold,), (greedy,) = answers("--question", AHEAD, "--temperature", "1e-320"), answers("--question", AHEAD)
        assert cold["token_ids"] == greedy["token_ids"]

    def test_a_deadline_ends_the_answer_and_is_marked_as_missed(self, answers: Callable[..., list[Json]]) -> None:
        (late,) = answers("--question", AHEAD, "--deadline-ms", "0.001")
        assert (late["finish"], late["deadline_met"], len(late["token_ids"])) == ("deadline", False, 1)
        assert late["per_token_ms"] is None

    def test_a_deadline_that_is_far_changes_nothing(self, answers: Callable[..., list[Json]]) -> None:
        (met,), (free,) = answers("--question", AHEAD, "--deadline-ms", "1e6"), answers("--question", AHEAD)
        assert met["deadline_met"] is True
        assert (met["finish"], met["token_ids"]) == (free["finish"], free["token_ids"])

    @pytest.mark.parametrize("count", [1, 7])
    def test_no_more_tokens_than_asked_for(self, answers: Callable[..., list[Json]], count: int) -> None:
        (answer,) = answers("--question", AHEAD, "--max-new-tokens", str(count))
        assert len(answer["token_ids"]) == count
        assert answer["finish"] == "length"

    def test_threads_change_no_token(self, answers: Callable[..., list[Json]]) -> None:
        one, two = (answers("--question", AHEAD, "--threads", threads)[0] for threads in ("1", "2"))
        assert one["token_ids"] == two["token_ids"]


def test_runs_where_no_heavy_package_is(tiny_bundles: MadeOnce, images: dict[str, Path]) -> None:
    """As on the vehicle: no torch, no onnx, no safetensors package."""
    entries = [f"{camera}={path}" for camera, path in images.items()]
    arguments = ["run", str(tiny_bundles["leo-mini-tiny"]), "--json", "--question", AHEAD, "--images", *entries]
    code = f"import leo_edge.cli; sys.exit(leo_edge.cli.main({arguments}))"
    result = run_blocked(PRELUDE + code, HEAVY | {"onnx_ir", "onnxscript", "safetensors", "tqdm"})
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["answers"][0]["token_ids"]


@needs_real_frames
class TestDrive:
    def test_frames_and_stamps_are_those_of_the_keyframe(
        self, tiny_bundles: MadeOnce, capsys: pytest.CaptureFixture[str]
    ) -> None:
        drive = ["--nuscenes", str(NUSCENES_REAL), "--scene", "scene-0061"]
        assert main(["run", str(tiny_bundles["leo-mini-tiny"]), "--json", *drive, "--question", AHEAD]) == 0
        report = json.loads(capsys.readouterr().out)
        drives = NuScenesDrives(NUSCENES_REAL)
        frame_set = drives.frame_set(drives.sample_at("scene-0061", 0))
        (answer,) = report["answers"]
        assert report["cameras"] == list(NUSCENES_CAMERAS)
        assert answer["stamp_ns"] == report["stamp_ns"] == frame_set.stamp_ns
        assert answer["camera_stamps_ns"] == {channel: frame.stamp_ns for channel, frame in frame_set.frames.items()}
        for channel, frame in frame_set.frames.items():
            assert answer["age_ms"][channel] == pytest.approx((frame_set.stamp_ns - frame.stamp_ns) / 1e6)
        assert any(answer["age_ms"].values()), "all cameras fired at once: nothing was tested"

    def test_another_keyframe_gives_another_answer(self, tiny_bundles: MadeOnce, capsys: pytest.CaptureFixture[str]) -> None:
        found = []
        for sample in ("0", "1"):
            drive = ["--nuscenes", str(NUSCENES_REAL), "--scene", "scene-0103", "--sample", sample]
            front = ["--cameras", "CAM_FRONT", "--question", AHEAD]
            assert main(["run", str(tiny_bundles["leo-mini-tiny"]), "--json", *drive, *front]) == 0
            found.append(json.loads(capsys.readouterr().out)["answers"][0])
        assert found[0]["stamp_ns"] < found[1]["stamp_ns"]
        assert found[0]["token_ids"] != found[1]["token_ids"]
