"""replay/nuscenes.py on real frames, against the devkit's own answers, and on tables that were broken on purpose."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leo_edge.replay.nuscenes import NuScenesDrives
from leo_edge.runtime.errors import DatasetError
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.real_data import NUSCENES_REAL, needs_real_frames

DRIVELM_SAMPLES = (
    "0dd14c14cea14dc1b0c0c9b0c9c7c4c3",
    "542eaf1fc9b34895a9e55fab57cb4cf4",
    "1b45a97a0e5e49fe9cd345dd4bd729c3",
    "d5e16062410f4e329d31a881b28e5c1c",
)


@pytest.fixture(scope="module")
def drives() -> NuScenesDrives:
    return NuScenesDrives(NUSCENES_REAL)


@pytest.fixture(scope="module")
def devkit() -> Any:
    from nuscenes.nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(NUSCENES_REAL), verbose=False)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A root with its own copy of the tables and links to the real images and maps."""
    shutil.copytree(NUSCENES_REAL / "v1.0-mini", tmp_path / "v1.0-mini")
    for folder in ("maps", "samples"):
        (tmp_path / folder).symlink_to(NUSCENES_REAL / folder)
    return tmp_path


def alter(root: Path, table: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    records = json.loads(path.read_text())
    change(records)
    path.write_text(json.dumps(records))


def set_all(root: Path, table: str, **values: object) -> None:
    def change(records: list[dict[str, Any]]) -> None:
        for record in records:
            record.update(values)

    alter(root, table, change)


@needs_real_frames
class TestRealDrives:
    def test_names_scenes_and_samples_in_order(self, drives: NuScenesDrives) -> None:
        assert drives.version == "v1.0-mini"
        assert drives.scene_names() == ("scene-0061", "scene-0103", "scene-drivelm-54cdaaae")
        assert drives.samples("scene-drivelm-54cdaaae") == DRIVELM_SAMPLES
        assert drives.sample_at("scene-drivelm-54cdaaae", 3) == DRIVELM_SAMPLES[3]

    def test_samples_run_forward_in_time(self, drives: NuScenesDrives) -> None:
        stamps = [drives.frame_set(token).stamp_ns for token in drives.samples("scene-0103")]
        assert stamps[1] - stamps[0] == pytest.approx(0.5e9, rel=0.01)

    def test_frames_equal_the_devkit_and_pil(self, drives: NuScenesDrives, devkit: Any) -> None:
        for token in (token for name in drives.scene_names() for token in drives.samples(name)):
            sample, frames = devkit.get("sample", token), drives.frame_set(token)
            assert frames.channels == NUSCENES_CAMERAS
            assert frames.missing == ()
            assert frames.stamp_ns == sample["timestamp"] * 1000
            for channel, frame in frames.frames.items():
                path, _, intrinsic = devkit.get_sample_data(sample["data"][channel])
                assert frame.stamp_ns == devkit.get("sample_data", sample["data"][channel])["timestamp"] * 1000
                assert f"__{frame.stamp_ns // 1000}.jpg" in path
                assert frame.intrinsic is not None
                np.testing.assert_array_equal(frame.intrinsic, intrinsic)
                with Image.open(path) as picture:
                    np.testing.assert_array_equal(frame.image, np.array(picture))

    def test_each_camera_has_its_own_stamp_and_intrinsic(self, drives: NuScenesDrives) -> None:
        frames = drives.frame_set(drives.sample_at("scene-0061", 0)).frames.values()
        assert len({frame.stamp_ns for frame in frames}) == 6
        assert len({np.asarray(frame.intrinsic).tobytes() for frame in frames}) == 6

    def test_sensor_from_ego_moves_boxes_as_the_devkit_does(self, drives: NuScenesDrives, devkit: Any) -> None:
        token = drives.sample_at("scene-0061", 0)
        checked = 0
        for channel, frame in drives.frame_set(token).frames.items():
            assert frame.sensor_from_ego is not None
            data = devkit.get("sample_data", devkit.get("sample", token)["data"][channel])
            pose = devkit.get("ego_pose", data["ego_pose_token"])
            _, boxes, _ = devkit.get_sample_data(data["token"])
            for box in boxes:
                in_global = devkit.get_box(box.token)
                in_global.translate(-np.array(pose["translation"]))
                in_global.rotate(type(in_global.orientation)(pose["rotation"]).inverse)
                ego = np.append(in_global.center, 1.0)
                np.testing.assert_allclose((frame.sensor_from_ego @ ego)[:3], box.center, atol=1e-9)
                assert np.abs((np.linalg.inv(frame.sensor_from_ego) @ ego)[:3] - box.center).max() > 1
                checked += 1
        assert checked > 10

    def test_channels_choose_and_order_the_cameras(self, drives: NuScenesDrives) -> None:
        frames = drives.frame_set(DRIVELM_SAMPLES[0], channels=("CAM_BACK", "CAM_FRONT"))
        assert frames.channels == ("CAM_BACK", "CAM_FRONT")
        assert frames.missing == ()

    def test_prints_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        NuScenesDrives(str(NUSCENES_REAL), "v1.0-mini")
        assert capfd.readouterr() == ("", "")


@needs_real_frames
class TestWrongUse:
    def test_no_such_scene(self, drives: NuScenesDrives) -> None:
        with pytest.raises(DatasetError, match=r"^no scene 'scene-9' in v1.0-mini, which has 3: scene-0061, scene-0103, "):
            drives.samples("scene-9")

    @pytest.mark.parametrize("index", [-1, 4])
    def test_sample_index_out_of_range(self, drives: NuScenesDrives, index: int) -> None:
        with pytest.raises(DatasetError, match=rf"^no sample {index} in scene scene-drivelm-\w+: it has 4, counted from 0$"):
            drives.sample_at("scene-drivelm-54cdaaae", index)

    def test_no_such_sample(self, drives: NuScenesDrives) -> None:
        with pytest.raises(DatasetError, match=r"^no sample 'abc' in v1.0-mini under .*: is the token from another version"):
            drives.frame_set("abc")

    @pytest.mark.parametrize("channel", ["CAM_FORNT", "LIDAR_TOP"])
    def test_not_a_camera(self, drives: NuScenesDrives, channel: str) -> None:
        with pytest.raises(DatasetError, match=f"^no camera {channel} in v1.0-mini: its cameras are .*CAM_FRONT"):
            drives.frame_set(DRIVELM_SAMPLES[0], channels=("CAM_FRONT", channel))

    def test_no_such_version(self) -> None:
        with pytest.raises(DatasetError, match=r"^no version 'v1.0-trainval' under .*: there is v1.0-mini$"):
            NuScenesDrives(NUSCENES_REAL, "v1.0-trainval")

    def test_version_folder_as_root(self) -> None:
        with pytest.raises(DatasetError, match=r"there is attribute.json, .*: give the folder that holds the version folder"):
            NuScenesDrives(NUSCENES_REAL / "v1.0-mini")

    def test_devkit_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nuscenes.nuscenes", None)
        with pytest.raises(DatasetError, match=r"need nuscenes-devkit .*: pip install 'leo_edge\[replay\]'"):
            NuScenesDrives(NUSCENES_REAL)


class TestNoTables:
    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"^no folder .*nowhere: give the nuScenes root"):
            NuScenesDrives(tmp_path / "nowhere")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"^no nuScenes tables under .*; there is nothing: give"):
            NuScenesDrives(tmp_path)

    def test_several_versions(self, tmp_path: Path) -> None:
        for version in ("v1.0-mini", "v1.0-test"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "scene.json").write_text("[]")
        with pytest.raises(DatasetError, match=r"holds several versions, v1.0-mini, v1.0-test: name the one to open$"):
            NuScenesDrives(tmp_path)


@needs_real_frames
class TestBrokenTables:
    def test_the_copy_opens_unbroken(self, broken: Path) -> None:
        assert NuScenesDrives(broken).samples("scene-drivelm-54cdaaae") == DRIVELM_SAMPLES

    def test_missing_tables_are_all_named(self, broken: Path) -> None:
        (broken / "v1.0-mini" / "log.json").unlink()
        (broken / "v1.0-mini" / "ego_pose.json").unlink()
        with pytest.raises(DatasetError, match=r"v1.0-mini lacks ego_pose.json, log.json: nuScenes needs all 13 tables"):
            NuScenesDrives(broken)

    @pytest.mark.parametrize("table", ["sample_data", "map", "category"])
    def test_truncated_table_is_named(self, broken: Path, table: str) -> None:
        path = broken / "v1.0-mini" / f"{table}.json"
        path.write_text(path.read_text()[:200])
        with pytest.raises(DatasetError, match=rf"^cannot read table .*/{table}\.json \(.*: it is truncated") as error:
            NuScenesDrives(broken)
        assert "\n" not in str(error.value)

    def test_table_of_another_form_is_named(self, broken: Path) -> None:
        (broken / "v1.0-mini" / "sensor.json").write_text('{"token": 1}')
        with pytest.raises(DatasetError, match=r"sensor.json must be a list of records, got another JSON value"):
            NuScenesDrives(broken)

    def test_dangling_token(self, broken: Path) -> None:
        alter(broken, "sample_data", lambda records: records[0].update(calibrated_sensor_token="gone"))
        with pytest.raises(DatasetError, match=r"the tables do not fit together \(KeyError: 'gone'\): get the version"):
            NuScenesDrives(broken)

    def test_missing_map_file(self, broken: Path) -> None:
        (broken / "maps").unlink()
        with pytest.raises(DatasetError, match=r"no map file .*\.png, which map.json names: get maps/ again"):
            NuScenesDrives(broken)

    def test_teaser_tables(self, broken: Path) -> None:
        alter(broken, "map", lambda records: records[0].pop("log_tokens"))
        with pytest.raises(DatasetError, match=r"map.json has no log_tokens: the teaser's tables are not supported"):
            NuScenesDrives(broken)

    def test_scene_with_more_samples_than_it_says(self, broken: Path) -> None:
        alter(broken, "scene", lambda records: records[2].update(nbr_samples=3))
        with pytest.raises(DatasetError, match=r"should have 3 samples \(nbr_samples\), its chain has more"):
            NuScenesDrives(broken).samples("scene-drivelm-54cdaaae")

    def test_scene_with_fewer_samples_than_it_says(self, broken: Path) -> None:
        alter(broken, "scene", lambda records: records[2].update(nbr_samples=40))
        with pytest.raises(DatasetError, match=r"should have 40 samples .*, its chain has 4: sample.json and scene.json"):
            NuScenesDrives(broken).samples("scene-drivelm-54cdaaae")

    def test_sample_chain_that_leads_nowhere(self, broken: Path) -> None:
        set_all(broken, "sample", next="gone")
        with pytest.raises(DatasetError, match=r"^scene scene-0103: the tables do not fit together \(KeyError: 'gone'\)"):
            NuScenesDrives(broken).samples("scene-0103")

    def test_camera_without_keyframe_is_missing_not_an_error(self, broken: Path) -> None:
        def drop(records: list[dict[str, Any]]) -> None:
            records[:] = [r for r in records if not ("/CAM_BACK/" in r["filename"] and r["sample_token"] == DRIVELM_SAMPLES[0])]

        alter(broken, "sample_data", drop)
        drives = NuScenesDrives(broken)
        assert drives.frame_set(DRIVELM_SAMPLES[0]).missing == ("CAM_BACK",)
        with pytest.raises(DatasetError, match="has no image of CAM_BACK: ask for other channels"):
            drives.frame_set(DRIVELM_SAMPLES[0], channels=("CAM_BACK",))

    def test_missing_image_file(self, broken: Path) -> None:
        (broken / "samples").unlink()
        with pytest.raises(DatasetError, match=r"^CAM_FRONT of sample 0dd14\w+: no image file .*\.jpg: check the path$"):
            NuScenesDrives(broken).frame_set(DRIVELM_SAMPLES[0])

    def test_image_of_another_size(self, broken: Path) -> None:
        set_all(broken, "sample_data", width=800)
        with pytest.raises(DatasetError, match=r"\.jpg is 1600 x 900, sample_data.json says 800 x 900: its intrinsic"):
            NuScenesDrives(broken).frame_set(DRIVELM_SAMPLES[0])

    def test_camera_without_intrinsic(self, broken: Path) -> None:
        set_all(broken, "calibrated_sensor", camera_intrinsic=[])
        with pytest.raises(DatasetError, match=r"CAM_FRONT: intrinsic must be float64 \[3, 3\] or None, got float64 \[0\]"):
            NuScenesDrives(broken).frame_set(DRIVELM_SAMPLES[0])
