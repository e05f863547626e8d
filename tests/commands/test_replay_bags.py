"""`leo-edge replay --bags`: a scene as a bag is answered as the dataset that it is from, and as when it was recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leo_edge.cli import main
from leo_edge.replay.nuscenes_source import NuScenesOptions
from leo_edge.replay.source import Drive, plan_sets
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.commands.conftest import Replay
from tests.conftest import CommandLine
from tests.replay.bags import BagWriter, Given, jpeg, picture, write_bag, write_drive_bag
from tests.replay.folders import scene_as_images, scene_frames, write_drive
from tests.test_import_rule import PRELUDE, run_blocked

SCENE = "scene-0000"
Json = dict[str, Any]
MakeBag = Callable[..., Path]


def said(out: Path) -> list[Json]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


def what_was_said(out: Path) -> list[tuple[int, str, str]]:
    return [(line["stamp_ns"], line["question"], line["answer"]) for line in said(out)]


@pytest.fixture(scope="package")
def scene(world: Path) -> Drive:
    return NuScenesOptions(world, scenes=(SCENE,), all_frames=True).open().drive(SCENE)


def as_recorded(scene: Drive, lines: list[Json]) -> list[Given]:
    """The answers of a run as the node would have given them."""
    stamps = {one.sample: {ref.channel: ref.stamp_ns for ref in one.frames} for one in plan_sets(scene)}
    return [
        Given(
            line["stamp_ns"],
            {channel: stamps[line["sample"]][channel] for channel in NUSCENES_CAMERAS},
            line["answer"],
            line["question"],
            line["kind"],
            line["finish"],
        )
        for line in lines
    ]


@pytest.fixture
def of_the_dataset(replay: Replay, tmp_path: Path) -> list[Json]:
    replay(tmp_path / "dataset", "--scenes", SCENE)
    return said(tmp_path / "dataset")


@pytest.fixture
def recorded(scene: Drive, of_the_dataset: list[Json], tmp_path: Path) -> Path:
    """A bag of a scene and of the answers that it was given."""
    frames = [ref.load() for ref in scene.frames]
    return write_drive_bag(tmp_path / "bags" / "first", frames, as_recorded(scene, of_the_dataset))


def test_what_was_recorded_is_answered_again(
    replay: Replay, recorded: Path, tmp_path: Path, of_the_dataset: list[Json]
) -> None:
    summary = replay(tmp_path / "run", "--bags", recorded, "--questions", f"recorded:{recorded}")
    count = len(of_the_dataset)
    assert count > 5
    assert summary["scores"]["recorded"]["asked"] == summary["scores"]["recorded"]["equal"] == count
    assert summary["sets"]["there"] == len({line["sample"] for line in of_the_dataset})
    assert summary["notes"] == {}
    assert what_was_said(tmp_path / "run") == what_was_said(tmp_path / "dataset")
    assert [(line["num_tokens"], line["finish"]) for line in said(tmp_path / "run")] == [
        (line["num_tokens"], line["finish"]) for line in of_the_dataset
    ]
    assert "answers equal to the recorded ones" in (tmp_path / "run" / "report.html").read_text()


def test_other_images_or_answers_are_seen(
    replay: Replay, scene: Drive, recorded: Path, tmp_path: Path, of_the_dataset: list[Json]
) -> None:
    """The negative control."""
    frames = [ref.load() for ref in scene.frames]
    count = len(of_the_dataset)
    black = [replace(frame, image=np.zeros_like(frame.image)) for frame in frames]
    dark = write_drive_bag(tmp_path / "dark" / "first", black, as_recorded(scene, of_the_dataset))
    scores = replay(tmp_path / "a", "--bags", dark, "--questions", f"recorded:{recorded}")["scores"]["recorded"]
    assert (scores["asked"], scores["equal"] < count) == (count, True)
    changed = [of_the_dataset[0] | {"answer": "something else"}, *of_the_dataset[1:]]
    other = write_drive_bag(tmp_path / "other" / "first", frames, as_recorded(scene, changed))
    scores = replay(tmp_path / "b", "--bags", recorded, "--questions", f"recorded:{other}")["scores"]["recorded"]
    assert (scores["asked"], scores["equal"]) == (count, count - 1)


def test_a_bag_without_answers_is_played_as_its_images_in_folders_are(
    replay: Replay, world: Path, scene: Drive, tmp_path: Path
) -> None:
    folder = scene_as_images(world, SCENE, tmp_path / "folder")
    write_drive(folder, json.loads((folder / "drive.json").read_text())["cameras"])
    bag = write_drive_bag(tmp_path / "bag", [ref.load() for ref in scene.frames])
    asking = ("--questions", "builtin:driving", "--cameras", "CAM_FRONT", "CAM_BACK")
    for name, source in (("f", ("--folders", folder)), ("b", ("--bags", bag))):
        summary = replay(tmp_path / name, *source, *asking)
        assert summary["sets"]["there"] == 3 * 6 + 1
    assert what_was_said(tmp_path / "b") == what_was_said(tmp_path / "f")


def test_compressed_images_on_a_rigs_own_topics(
    replay: Replay, world: Path, scene: Drive, tmp_path: Path, of_the_dataset: list[Json]
) -> None:
    """The files of the dataset as they are, with topics whose names are not the cameras'."""
    topics = {channel: f"/sensing/camera/{number}/image_raw/compressed" for number, channel in enumerate(NUSCENES_CAMERAS)}

    def write(bag: BagWriter) -> None:
        for channel, records in scene_frames(world, SCENE).items():
            for record in records:
                bag.compressed(topics[channel], (world / record["filename"]).read_bytes(), record["timestamp"] * 1000)
        for answer in as_recorded(scene, of_the_dataset):
            bag.answer(answer, "/front/leo_edge/output/answer")

    bag = write_bag(tmp_path / "rig", write)
    given = ("--bags", bag, "--questions", f"recorded:{bag}", "--camera-topics")
    summary = replay(tmp_path / "run", *given, *(f"{channel}={topic}" for channel, topic in topics.items()))
    assert summary["scores"]["recorded"]["equal"] == len(of_the_dataset)
    assert what_was_said(tmp_path / "run") == what_was_said(tmp_path / "dataset")


def test_what_a_bag_lacks_is_said(
    scene: Drive, bundle: Path, tmp_path: Path, of_the_dataset: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    answers = as_recorded(scene, of_the_dataset)
    lost = answers[0].cameras["CAM_BACK"]
    frames = [ref.load() for ref in scene.frames if (ref.channel, ref.stamp_ns) != ("CAM_BACK", lost)]
    bag = write_drive_bag(tmp_path / "d", frames, answers)
    given = ["--bags", str(bag), "--questions", f"recorded:{bag}", "--out", str(tmp_path / "run"), "--max-new-tokens", "3"]
    assert main(["replay", str(bundle), *given]) == 0
    out, _ = capsys.readouterr()
    note = "d: frames of CAM_BACK that were asked about and are not in it: 1"
    assert note in out.splitlines()
    assert note in (tmp_path / "run" / "report.html").read_text()
    missing = {line["stamp_ns"]: line["missing"] for line in said(tmp_path / "run")}
    assert missing.pop(answers[0].stamp_ns) == ["CAM_BACK"]
    assert set(map(tuple, missing.values())) == {()}


def test_two_sets_of_one_stamp_are_told_apart(replay: Replay, scene: Drive, tmp_path: Path, of_the_dataset: list[Json]) -> None:
    """As when a drive was played twice, and other frames were at hand the second time."""
    answers = as_recorded(scene, of_the_dataset)
    again = replace(answers[0], cameras={**answers[0].cameras, "CAM_BACK": None}, question_id="ask", question="What is behind?")
    bag = write_drive_bag(tmp_path / "twice" / "first", [ref.load() for ref in scene.frames], [*answers, again])
    given = ("--bags", bag, "--questions", f"recorded:{bag}")
    assert replay(tmp_path / "run", *given)["scores"]["recorded"]["by_question"]["ask"]["asked"] == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("What is behind?") == 1
    assert [(line["missing"], line["sample"]) for line in said(tmp_path / "run") if line["kind"] == "ask"] == [
        (["CAM_BACK"], f"first-{again.stamp_ns}-2")
    ]


def test_a_run_goes_on_where_it_stopped(replay: Replay, recorded: Path, tmp_path: Path) -> None:
    given = ("--bags", recorded, "--questions", f"recorded:{recorded}")
    replay(tmp_path / "run", *given)
    whole = (tmp_path / "run" / "answers.jsonl").read_bytes()
    timing = (tmp_path / "run" / "timing.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "timing.jsonl").write_text("".join(timing[:1]))
    replay(tmp_path / "run", *given)
    assert (tmp_path / "run" / "answers.jsonl").read_bytes() == whole


BAD_OPTIONS = [
    (["--bags", "b", "--folders", "d"], "not allowed with argument"),
    (
        ["--bags", "b", "--split", "val"],
        "--split chooses from a --nuscenes dataset: leave it out and name the --folders or --b",
    ),
    (["--bags", "nothing"], "no bag nothing: check the path"),
    (["--nuscenes", "n", "--camera-topics", "A=/a"], "--camera-topics names topics of --bags: leave it out, or give the bags"),
    (["--bags", "b", "--camera-topics", "/a"], "--camera-topics got '/a': expected CAMERA=TOPIC, such as CAM_FRONT=/sensing"),
    (["--bags", "b", "--camera-topics", "A="], "--camera-topics got 'A=': expected"),
    (["--bags", "b", "--camera-topics", "A=/a", "A=/b"], "--camera-topics names A twice, with /a and /b: leave one out"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_OPTIONS)
def test_bad_options(bundle: Path, tmp_path: Path, error_line: CommandLine, arguments: list[str], message: str) -> None:
    given = ["--out", tmp_path / "run", "--questions", "builtin:driving", *arguments]
    assert message in error_line("replay", bundle, *given)
    assert not (tmp_path / "run").exists()


class TestBadBag:
    @pytest.fixture
    def error(self, bundle: Path, tmp_path: Path, error_line: CommandLine) -> Callable[..., str]:
        """Replays a bag with other arguments and returns the error."""

        def run(*arguments: object, questions: object = "builtin:driving") -> str:
            return error_line("replay", bundle, "--out", tmp_path / "run", "--questions", questions, "--bags", *arguments)

        return run

    def test_something_else(self, tmp_path: Path, error: Callable[..., str]) -> None:
        (tmp_path / "d").mkdir()
        assert f"error: cannot read bag {tmp_path}/d (" in error(tmp_path / "d")
        (tmp_path / "d" / "metadata.yaml").write_text("{")
        assert f"error: cannot read bag {tmp_path}/d (" in error(tmp_path / "d")

    def test_a_recording_that_was_cut_off(self, tmp_path: Path, error: Callable[..., str]) -> None:
        bag = write_bag(tmp_path / "d", lambda bag: bag.image("/A/image", picture(1), 1))
        (file,) = bag.glob("*.mcap")
        file.write_bytes(file.read_bytes()[:-20])
        assert "(File end magic is invalid.): give a whole rosbag2 folder" in error(bag)
        assert not (tmp_path / "run").exists()

    def test_no_camera(self, tmp_path: Path, error: Callable[..., str]) -> None:
        bag = write_bag(tmp_path / "d", lambda bag: bag.answer(Given(1, {"A": 1}, "yes")))
        assert f"error: no camera in bag {bag}: its image topics are none" in error(bag)

    def test_a_camera_that_is_not_there(self, tmp_path: Path, error: Callable[..., str]) -> None:
        bag = write_bag(tmp_path / "d", lambda bag: bag.image("/A/image", picture(1), 1))
        assert f"error: no camera B in bag {bag}: its cameras are A; name others with" in error(bag, "--cameras", "B")
        assert "error: no images of topic /x in bag" in error(bag, "--camera-topics", "B=/x")

    def test_no_answers(self, tmp_path: Path, error: Callable[..., str]) -> None:
        bag = write_bag(tmp_path / "d", lambda bag: bag.image("/A/image", picture(1), 1))
        assert f"error: no answers in bag {bag}, expected a topic of leo_edge_msgs/msg/SceneAnswer" in error(
            bag, questions=f"recorded:{bag}"
        )

    def test_answers_about_another_bag(self, tmp_path: Path, error: Callable[..., str]) -> None:
        def write(bag: BagWriter) -> None:
            bag.image("/A/image", picture(1), 1)
            bag.answer(Given(1, {"A": 1}, "yes"))

        bags = [write_bag(tmp_path / name, write) for name in ("d", "e")]
        line = error(bags[0], questions=f"recorded:{bags[1]}")
        assert f"none of the 1 keyframes that recorded:{bags[1]} asks about is in the drives d: give the questions of" in line

    def test_a_jpeg_that_is_none(self, tmp_path: Path, error: Callable[..., str]) -> None:
        bag = write_bag(tmp_path / "d", lambda bag: bag.compressed("/A/image/compressed", jpeg(picture(1))[:-40], 1))
        assert f"error: cannot decode image A at 1 ns in bag {bag}, expected a whole JPEG or PNG" in error(bag)

    def test_an_unknown_encoding(self, tmp_path: Path, error: Callable[..., str]) -> None:
        bag = write_bag(tmp_path / "d", lambda bag: bag.image("/A/image", picture(1), 1, encoding="32FC1"))
        assert f"error: A at 1 ns in bag {bag}: got image encoding '32FC1', expected one of rgb8, bgr8" in error(bag)


@pytest.mark.parametrize("arguments", [["--bags", "b", "--questions", "q"], ["--nuscenes", "n", "--questions", "recorded:b"]])
def test_rosbags_that_are_not_installed(bundle: Path, world: Path, tmp_path: Path, arguments: list[str]) -> None:
    given = ["replay", str(bundle), "--out", str(tmp_path / "run"), *(str(world) if one == "n" else one for one in arguments)]
    ran = run_blocked(PRELUDE + f"from leo_edge.cli import main\nraise SystemExit(main({given!r}))", frozenset({"rosbags"}))
    last = ran.stderr.splitlines()[-1]
    assert (ran.returncode, last) == (2, "error: replay needs rosbags, which is not installed: pip install 'leo_edge[replay]'")
