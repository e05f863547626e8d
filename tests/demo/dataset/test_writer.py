"""demo/dataset/writer.py: whole or absent, the same bytes whatever draws them, and questions beside the tables."""

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leo_edge.demo.dataset import writer
from leo_edge.demo.dataset.names import sample_token
from leo_edge.demo.dataset.plan import DatasetOptions
from leo_edge.demo.dataset.record import Job
from leo_edge.demo.dataset.writer import write_dataset
from leo_edge.demo.questions.ask import ANSWERS
from leo_edge.demo.scoring import SplitOptions, draw_split
from leo_edge.demo.training.drawing import asking_of
from leo_edge.demo.world.observe import SMALL_SIZE_PX, observe
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import make_scene
from leo_edge.replay.nuscenes import NuScenesDrives
from leo_edge.replay.question_set import read_question_set
from leo_edge.runtime.errors import DatasetError
from tests.demo.dataset.conftest import Written

TINY = DatasetOptions(num_scenes=1, seed=3, seconds=0.5, keyframes_only=True, size_px=(64, 36))


def digests(root: Path) -> dict[str, str]:
    """Every file under a directory, and its hash."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def die(_: Job) -> None:
    """What a process does that the system ends."""
    os._exit(1)


class TestSameBytes:
    def test_whatever_the_number_of_processes(self, written: Written, tmp_path: Path) -> None:
        report = write_dataset(tmp_path / "again", written.options, processes=2)
        assert digests(tmp_path / "again") == digests(written.root)
        assert replace(report, seconds=0, images_per_s=0, processes=1) == replace(written.report, seconds=0, images_per_s=0)

    def test_another_seed_is_another_world(self, tmp_path: Path) -> None:
        for seed in (3, 4):
            write_dataset(tmp_path / str(seed), replace(TINY, seed=seed), processes=1)
        ours, theirs = digests(tmp_path / "3"), digests(tmp_path / "4")
        image_hashes = [{h for name, h in found.items() if name.endswith(".jpg")} for found in (ours, theirs)]
        assert len(image_hashes[0]) == len(image_hashes[1]) == 6
        assert not image_hashes[0] & image_hashes[1]

    def test_tokens_and_questions_do_not_depend_on_how_it_is_drawn(self, written: Written, tmp_path: Path) -> None:
        write_dataset(tmp_path / "d", replace(TINY, seconds=written.options.seconds), processes=1)
        same = ("questions/train.json", "v1.0-drawn/sample.json", "v1.0-drawn/sample_annotation.json")
        assert [(tmp_path / "d" / name).read_bytes() for name in same] == [(written.root / name).read_bytes() for name in same]


class TestWholeOrAbsent:
    def test_an_existing_directory_is_refused(self, written: Written, tmp_path: Path) -> None:
        before = digests(written.root)
        with pytest.raises(DatasetError, match=rf"^{re.escape(str(written.root))} exists already: remove it, or write to"):
            write_dataset(written.root, TINY, processes=1)
        assert digests(written.root) == before
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        with pytest.raises(DatasetError, match="link exists already"):
            write_dataset(tmp_path / "link", TINY, processes=1)

    def test_a_parent_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DatasetError, match=r"^cannot write to .*file: "):
            write_dataset(tmp_path / "file" / "d", TINY, processes=1)

    def test_nothing_is_left_of_what_fails_midway(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            assert len(list(tmp_path.rglob("*.jpg"))) == 6
            raise OSError("No space left on device")

        monkeypatch.setattr(writer, "scene_rows", fail)
        with pytest.raises(OSError, match="No space left"):
            write_dataset(tmp_path / "d", TINY, processes=1)
        assert not list(tmp_path.iterdir())

    def test_nor_by_processes_that_are_still_drawing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(writer, "scene_rows", fail)
        with pytest.raises(OSError, match="No space left"):
            write_dataset(tmp_path / "d", replace(TINY, num_scenes=8), processes=2)
        assert not list(tmp_path.iterdir())

    def test_a_process_that_dies_is_one_error_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(writer, "record", die)
        with pytest.raises(DatasetError, match=r"^a drawing process was killed: run it again, with fewer --processes if"):
            write_dataset(tmp_path / "d", TINY, processes=2)
        assert not list(tmp_path.iterdir())

    def test_no_process_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"^--processes must be at least 1, got 0$"):
            write_dataset(tmp_path / "d", TINY, processes=0)


def test_lossless_small_images_are_what_the_questions_were_judged_on(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", replace(TINY, size_px=SMALL_SIZE_PX, lossless=True), processes=1)
    drawn = observe(make_scene(TINY.seed, 0), 0).drawn
    for channel in RIG:
        (path,) = (tmp_path / "d" / "samples" / channel).iterdir()
        assert path.suffix == ".png"
        np.testing.assert_array_equal(np.asarray(Image.open(path)), drawn[channel].image)
    assert not (tmp_path / "d" / "sweeps").exists()


@pytest.fixture(scope="module")
def asked(written: Written) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((written.root / "questions" / "train.json").read_text())
    return found


class TestQuestions:
    def test_are_those_of_every_keyframe(self, written: Written, asked: dict[str, Any]) -> None:
        for number in range(3):
            expected = asking_of(observe(written.scene, number)).questions
            name = sample_token(written.scene.seed, written.scene.index, number)
            mine = [one for one in asked["questions"] if one["sample_token"] == name]
            assert [one["answer"] for one in mine] == [one.answer for one in expected]
            assert [one["template_type"] for one in mine] == [one.kind for one in expected]
            assert [one["num_hop"] for one in mine] == [one.num_hop for one in expected]

    def test_have_the_schema_of_nuscenes_qa(self, asked: dict[str, Any]) -> None:
        keys = {"sample_token", "question", "answer", "template_type", "num_hop"}
        assert all(set(one) == keys for one in asked["questions"])
        assert all(one["answer"] in ANSWERS for one in asked["questions"])

    def test_are_put_in_several_ways(self, asked: dict[str, Any]) -> None:
        counts = {one["question"].split()[0] for one in asked["questions"] if one["template_type"] == "count"}
        assert counts == {"How", "What"}

    def test_say_how_many_were_left_out(self, written: Written, asked: dict[str, Any]) -> None:
        in_doubt = sum(asking_of(observe(written.scene, number)).in_doubt for number in range(3))
        assert asked["info"] == {
            "world": {"seed": 3, "split": "train", "scenes": ["scene-0000"]},
            "num_keyframes": 3,
            "num_questions": len(asked["questions"]),
            "num_left_out_in_doubt": in_doubt,
        }
        assert in_doubt > 0
        assert written.report.num_in_doubt == in_doubt
        assert written.report.num_questions == {"train": len(asked["questions"]), "dev": 0, "val": 0}

    def test_each_split_has_a_file(self, tmp_path: Path) -> None:
        write_dataset(tmp_path / "d", replace(TINY, split="val"), processes=1)
        found = {split: json.loads((tmp_path / "d" / "questions" / f"{split}.json").read_text()) for split in ("dev", "val")}
        assert found["dev"]["questions"] == []
        assert found["val"]["info"]["world"]["scenes"] == ["scene-0009"]
        assert {one["sample_token"] for one in found["val"]["questions"]} == {sample_token(3, 9, 0)}


class TestScoredOnly:
    """What `leo-edge demo score` asks about, as a dataset: images, keyframes and questions to the last bit."""

    def test_holds_what_the_score_is_counted_on(self, tmp_path: Path) -> None:
        options = DatasetOptions(2, split="val", keyframes_only=True, scored_only=True, size_px=SMALL_SIZE_PX, lossless=True)
        report = write_dataset(tmp_path / "val", options, processes=1)
        split = draw_split(SplitOptions(scenes=2), processes=1)
        assert read_question_set(tmp_path / "val" / "questions" / "val-scored.json").questions == split.questions
        assert (report.num_keyframes, report.num_images) == (8, 48)
        drives = NuScenesDrives(tmp_path / "val")
        samples = [sample for name in drives.scene_names() for sample in drives.samples(name)]
        for sample, frames in zip(samples, split.frames, strict=True):
            written = drives.frame_set(sample)
            for channel, frame in frames.frames.items():
                np.testing.assert_array_equal(written.frames[channel].image, frame.image)
        assert {question.sample_token for question in split.questions} <= set(samples)

    def test_is_refused_for_parts_of_scenes(self) -> None:
        with pytest.raises(DatasetError, match="--scored-only takes a --split, keyframes alone and whole scenes"):
            DatasetOptions(1, split="val", keyframes_only=True, scored_only=True, seconds=2)
        with pytest.raises(DatasetError, match="--scored-only takes a --split"):
            DatasetOptions(1, keyframes_only=True, scored_only=True)
