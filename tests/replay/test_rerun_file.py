"""replay/rerun_file.py: recordings, read back with the Rerun SDK, hold what the run and the dataset's tables say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rerun as rr
from PIL import Image
from scipy.spatial.transform import Rotation

from leo_edge.replay.nuscenes_source import NuScenesOptions
from leo_edge.replay.player import SimulatedClock
from leo_edge.replay.replayer import PlayOptions, Replayer
from leo_edge.replay.rerun_file import write_rerun
from leo_edge.replay.run_files import Run
from leo_edge.replay.source import FrameSource
from leo_edge.runtime.errors import DatasetError
from tests.replay.drives import Asks, TimedPipeline, drive_of, ref
from tests.replay.folders import table
from tests.replay.test_report import Source


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scenes of two keyframes."""
    from leo_edge.demo.dataset.plan import DatasetOptions
    from leo_edge.demo.dataset.writer import write_dataset

    root = tmp_path_factory.mktemp("world") / "drawn"
    options = DatasetOptions(num_scenes=2, split="train", seconds=1.0, size_px=(960, 540), keyframes_only=True)
    write_dataset(root, options, processes=1)
    return root


def played(source: FrameSource, options: PlayOptions | None = None, ms: float = 100) -> Run:
    clock = SimulatedClock()
    replayer = Replayer(TimedPipeline(ms, ms, clock), Asks(2), options or PlayOptions(), clock)
    outcomes = [one for name in source.drive_names() for one in replayer.replay(source.drive(name))]
    return Run({}, tuple(a for one in outcomes for a in one.answers), tuple(one.timing for one in outcomes))


class Recording:
    """A recording's values at the moments of one of its timelines: those that are logged then, or, `held`, that hold then."""

    def __init__(self, path: Path, timeline: str = "replay", *, held: bool = False) -> None:
        view = rr.dataframe.load_recording(path).view(index=timeline, contents="/**")
        self._table = (view.fill_latest_at() if held else view).select().read_all()
        self.times = [value.value for value in self._table.column(timeline)]

    def column(self, entity: str, component: str) -> list[Any]:
        return [value.as_py() for value in self._table.column(f"/{entity}:{component}")]


@pytest.fixture(scope="module")
def drawn(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("recording") / "run.rrd"
    source = NuScenesOptions(world).open()
    write_rerun(path, played(source), source)
    return Recording(path)


def test_drives_follow_each_other(drawn: Recording) -> None:
    seconds = [time / 1e9 for time in drawn.times]
    assert seconds == pytest.approx([0, 0.5, 1.5, 2.0], abs=0.01)


def test_the_other_timeline_is_the_drives_own(world: Path, tmp_path: Path) -> None:
    source = NuScenesOptions(world).open()
    write_rerun(tmp_path / "run.rrd", played(source), source)
    stamps = sorted(record["timestamp"] * 1000 for record in table(world, "sample"))
    assert sorted(Recording(tmp_path / "run.rrd", "stamp").times) == stamps


def test_cameras_are_the_images_with_their_calibration_in_the_same_pixels(world: Path, drawn: Recording) -> None:
    sample = table(world, "sample")[0]["token"]
    sensors = {record["token"]: record["channel"] for record in table(world, "sensor")}
    calibrated = {record["token"]: record for record in table(world, "calibrated_sensor")}
    for record in (record for record in table(world, "sample_data") if record["sample_token"] == sample):
        calibration = calibrated[record["calibrated_sensor_token"]]
        if not calibration["camera_intrinsic"]:
            continue
        entity = f"ego/{sensors[calibration['sensor_token']]}"
        (raw,) = drawn.column(entity, "Blob")[0]
        image, original = Image.open(io.BytesIO(bytes(raw))), Image.open(world / record["filename"])
        assert image.size == (800, 450)
        reference = np.asarray(original.resize(image.size, Image.Resampling.LANCZOS), int)
        assert np.abs(np.asarray(image, int) - reference).mean() < 4
        intrinsic = np.array(calibration["camera_intrinsic"]) * [[800 / 960], [800 / 960], [1]]
        (matrix,) = drawn.column(entity, "PinholeProjection")[0]
        np.testing.assert_allclose(np.reshape(matrix, (3, 3)).T, intrinsic, rtol=1e-6)  # columns first
        (rotation,) = drawn.column(entity, "TransformMat3x3")[0]
        wxyz = calibration["rotation"]
        expected = Rotation.from_quat([*wxyz[1:], wxyz[0]]).as_matrix()
        np.testing.assert_allclose(np.reshape(rotation, (3, 3)).T, expected, atol=1e-6)
        np.testing.assert_allclose(drawn.column(entity, "Translation3D")[0][0], calibration["translation"], atol=1e-6)


def test_boxes_lie_where_the_tables_have_them(world: Path, drawn: Recording) -> None:
    samples = [record["token"] for record in table(world, "sample")]
    poses = {record["token"]: record for record in table(world, "ego_pose")}
    lidar = {
        record["sample_token"]: poses[record["ego_pose_token"]]
        for record in table(world, "sample_data")
        if "LIDAR_TOP" in record["filename"]
    }
    for i, sample in enumerate(samples):
        boxes = [record for record in table(world, "sample_annotation") if record["sample_token"] == sample]
        assert boxes
        wxyz, origin = lidar[sample]["rotation"], lidar[sample]["translation"]
        ego = Rotation.from_quat([*wxyz[1:], wxyz[0]]).inv()
        centers = drawn.column("ego/boxes", "PoseTranslation3D")[i]
        np.testing.assert_allclose(centers, ego.apply([np.subtract(b["translation"], origin) for b in boxes]), atol=1e-3)
        turned = Rotation.from_quat(drawn.column("ego/boxes", "PoseRotationQuat")[i])
        expected = ego * Rotation.from_quat([[*b["rotation"][1:], b["rotation"][0]] for b in boxes])
        assert (turned.inv() * expected).magnitude().max() < 1e-3
        widths = [[b["size"][1] / 2, b["size"][0] / 2, b["size"][2] / 2] for b in boxes]
        np.testing.assert_allclose(drawn.column("ego/boxes", "HalfSize3D")[i], widths, rtol=1e-6)
        assert set(drawn.column("ego/boxes", "Text")[i]) <= {record["name"] for record in table(world, "category")}


def made_up(*, missing: bool = False) -> Source:
    frames = [ref(channel, 1000 + 500 * i + 10 * j, f"k{i}") for i in range(4) for j, channel in enumerate("ABC")]
    return Source({"drive": drive_of(*(frames[:-1] if missing else frames))})


def test_answers_are_shown_with_their_verdict_and_no_markup(tmp_path: Path) -> None:
    source = made_up()
    run = played(source)
    run.answers[0].update(answer="yes", question="Is *this* <b>one</b>?")
    run.answers[1].update(truth=None)
    write_rerun(tmp_path / "run.rrd", run, source)
    texts = [value[0] for value in Recording(tmp_path / "run.rrd").column("answers", "Text")]
    stamp_ns = run.answers[1]["stamp_ns"]
    assert texts[0] == r"Is \*this\* \<b\>one\</b\>?" + f"\n\n**yes** (right)\n\nquestion 1?\n\n**at {stamp_ns}** "
    assert "(truth: yes)" in texts[1]


def test_drops_misses_and_missing_cameras_are_warnings(tmp_path: Path) -> None:
    source = made_up(missing=True)
    run = played(source, PlayOptions(rate=1.0, deadline_ms=300), ms=250)  # 750 ms a set: every other one is dropped
    write_rerun(tmp_path / "run.rrd", run, source)
    recording = Recording(tmp_path / "run.rrd")
    said = list(zip(recording.column("log", "TextLogLevel"), recording.column("log", "Text"), strict=True))
    warned = [text[0] for level, text in said if level == ["WARN"]]
    assert (
        sum("dropped, 2 questions unanswered" in text for text in warned)
        == sum(s["outcome"] == "dropped" for s in run.sets)
        > 0
    )
    assert sum("answers after the deadline" in text for text in warned) > 0
    encode = [value[0] for value in recording.column("latency/encode", "Scalar") if value]
    assert encode == pytest.approx([250.0] * sum(s["outcome"] != "dropped" for s in run.sets))


def test_a_camera_that_is_missing_is_no_longer_shown(tmp_path: Path) -> None:
    source = made_up(missing=True)
    write_rerun(tmp_path / "run.rrd", played(source), source)
    recording = Recording(tmp_path / "run.rrd", held=True)
    assert [bool(value) for value in recording.column("ego/C", "Blob")] == [True, True, True, False]
    assert [bool(value) for value in recording.column("ego/B", "Blob")] == [True] * 4
    assert recording.column("log", "Text")[-1] == ["set 3 has no image of C"]


def test_what_was_there_is_kept_when_an_image_is_gone(tmp_path: Path) -> None:
    source = made_up()
    run = played(source)
    (tmp_path / "run.rrd").write_bytes(b"before")

    def gone() -> Any:
        raise DatasetError("gone")

    frames = list(source.drives["drive"].frames)
    broken = [one if i != 5 else type(one)(one.channel, one.stamp_ns, gone, one.sample) for i, one in enumerate(frames)]
    with pytest.raises(DatasetError, match="gone"):
        write_rerun(tmp_path / "run.rrd", run, Source({"drive": drive_of(*broken)}))
    assert [path.name for path in tmp_path.iterdir()] == ["run.rrd"]
    assert (tmp_path / "run.rrd").read_bytes() == b"before"
