"""The tables fit together: tokens, chains, stamps, files. Each check is run on the devkit's own reading of them."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leo_edge.demo.dataset.names import LIDAR, VERSION, token
from leo_edge.demo.dataset.plan import scene_start_us
from leo_edge.demo.dataset.poses import map_position
from leo_edge.demo.dataset.record import ANNOTATED_M
from leo_edge.demo.dataset.taxonomy import CATEGORIES
from leo_edge.demo.world.observe import SMALL_SIZE_PX, keyframe_time, shot
from leo_edge.demo.world.rig import RIG
from tests.demo.dataset.conftest import Written

Record = dict[str, Any]

# Columns that are tokens, and the table that they lead to where the name does not say it.
_LEADS_TO = {
    "first_sample_token": "sample",
    "last_sample_token": "sample",
    "first_annotation_token": "sample_annotation",
    "last_annotation_token": "sample_annotation",
    "attribute_tokens": "attribute",
    "log_tokens": "log",
}


@pytest.fixture(scope="module")
def tables(written: Written) -> dict[str, list[Record]]:
    """The tables as they are on the disk."""
    return {path.stem: json.loads(path.read_text()) for path in (written.root / VERSION).iterdir()}


def chain(rows: list[Record]) -> list[Record]:
    """Follows `next` from the row without `prev`; every row must be met once, and `prev` must lead back."""
    by_token = {row["token"]: row for row in rows}
    (row,) = [row for row in rows if row["prev"] == ""]
    followed = [row]
    while row["next"]:
        assert by_token[row["next"]]["prev"] == row["token"]
        row = by_token[row["next"]]
        followed.append(row)
    assert len(followed) == len(rows)
    return followed


def channel_of(row: Record, devkit: Any) -> str:
    sensor = devkit.get("calibrated_sensor", row["calibrated_sensor_token"])["sensor_token"]
    return str(devkit.get("sensor", sensor)["channel"])


class TestTokens:
    def test_there_are_thirteen_tables(self, tables: dict[str, list[Record]]) -> None:
        assert len(tables) == 13
        assert all(tables.values())

    def test_are_unique_and_lead_somewhere(self, tables: dict[str, list[Record]]) -> None:
        known = {table: {row["token"] for row in rows} for table, rows in tables.items()}
        assert {table: len(tokens) for table, tokens in known.items()} == {table: len(rows) for table, rows in tables.items()}
        followed = 0
        for table, rows in tables.items():
            for row in rows:
                for column, value in row.items():
                    if column in ("prev", "next"):
                        leads_to = {value} - {""} <= known[table]
                    elif column.endswith(("_token", "_tokens")):
                        target = _LEADS_TO.get(column, column.removesuffix("_token"))
                        leads_to = set([value] if isinstance(value, str) else value) <= known[target]
                    else:
                        continue
                    assert leads_to, (table, column, value)
                    followed += 1
        assert followed > 1000

    def test_all_of_nuscenes_categories_in_the_devkits_colours(self, tables: dict[str, list[Record]], devkit: Any) -> None:
        names = [row["name"] for row in tables["category"]]
        assert names == list(CATEGORIES)
        assert len(names) == 23
        assert set(names) <= set(devkit.colormap)

    def test_columns_are_nuscenes(self, tables: dict[str, list[Record]]) -> None:
        assert {table: set(rows[0]) - {"token"} for table, rows in tables.items()} == {
            "category": {"name", "description"},
            "attribute": {"name", "description"},
            "visibility": {"level", "description"},
            "sensor": {"channel", "modality"},
            "calibrated_sensor": {"sensor_token", "translation", "rotation", "camera_intrinsic"},
            "ego_pose": {"timestamp", "translation", "rotation"},
            "log": {"logfile", "vehicle", "date_captured", "location"},
            "map": {"log_tokens", "category", "filename"},
            "scene": {"name", "description", "log_token", "nbr_samples", "first_sample_token", "last_sample_token"},
            "sample": {"timestamp", "scene_token", "prev", "next"},
            "sample_data": {
                *("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "fileformat"),
                *("is_key_frame", "width", "height", "filename", "prev", "next"),
            },
            "instance": {"category_token", "nbr_annotations", "first_annotation_token", "last_annotation_token"},
            "sample_annotation": {
                *("sample_token", "instance_token", "visibility_token", "attribute_tokens", "translation", "size"),
                *("rotation", "num_lidar_pts", "num_radar_pts", "prev", "next"),
            },
        }


class TestChains:
    def test_samples_follow_every_half_second(self, devkit: Any) -> None:
        samples = chain(devkit.sample)
        assert [after["timestamp"] - before["timestamp"] for before, after in pairwise(samples)] == [500_000] * 2
        scene = devkit.scene[0]
        assert (scene["first_sample_token"], scene["last_sample_token"]) == (samples[0]["token"], samples[-1]["token"])
        assert scene["nbr_samples"] == len(samples) == 3

    @pytest.mark.parametrize("channel", RIG)
    def test_images_of_a_camera_follow_through_samples_and_sweeps(self, channel: str, devkit: Any) -> None:
        images = chain([row for row in devkit.sample_data if row["channel"] == channel])
        assert [row["is_key_frame"] for row in images] == [True] + [*[False] * 5, True] * 2
        for before, after in pairwise(images):
            assert after["timestamp"] - before["timestamp"] in (83_333, 83_334)
            if not before["is_key_frame"]:
                assert before["sample_token"] == after["sample_token"], "a sweep belongs to the keyframe that follows it"
        assert [row["filename"].split("/")[0] for row in images] == [
            "samples" if row["is_key_frame"] else "sweeps" for row in images
        ]

    def test_lidar_is_there_with_every_keyframe_at_its_stamp(self, devkit: Any) -> None:
        rows = chain([row for row in devkit.sample_data if row["channel"] == LIDAR])
        assert [row["timestamp"] for row in rows] == [sample["timestamp"] for sample in chain(devkit.sample)]

    def test_annotations_of_an_instance_follow_in_time(self, devkit: Any) -> None:
        stamps = {sample["token"]: sample["timestamp"] for sample in devkit.sample}
        lengths: Counter[int] = Counter()
        for instance in devkit.instance:
            rows = chain([row for row in devkit.sample_annotation if row["instance_token"] == instance["token"]])
            assert rows[0]["token"] == instance["first_annotation_token"]
            assert rows[-1]["token"] == instance["last_annotation_token"]
            assert len(rows) == instance["nbr_annotations"]
            times = [stamps[row["sample_token"]] for row in rows]
            assert times == sorted(set(times))
            lengths[len(rows)] += 1
        assert lengths[3] > 20

    def test_a_broken_chain_would_be_noticed(self, devkit: Any) -> None:
        rows = [dict(row) for row in devkit.sample]
        rows[2]["prev"] = rows[0]["token"]
        with pytest.raises(AssertionError):
            chain(rows)


class TestImages:
    def test_are_the_files_that_the_rows_say(self, written: Written, devkit: Any) -> None:
        files = {row["filename"] for row in devkit.sample_data} | {row["filename"] for row in devkit.map}
        on_disk = {str(path.relative_to(written.root)) for path in written.root.rglob("*") if path.is_file()}
        assert {name for name in on_disk if name.startswith(("samples/", "sweeps/", "maps/"))} == files
        for row in devkit.sample_data:
            _, channel, name = row["filename"].split("/")
            assert channel == row["channel"] == name.split("__")[1]
            assert int(name.split("__")[2].split(".")[0]) == row["timestamp"]
            if channel != LIDAR:
                with Image.open(written.root / row["filename"]) as image:
                    assert (image.size, image.format) == ((row["width"], row["height"]), "JPEG")

    def test_show_what_is_there_at_their_own_stamp(self, written: Written, devkit: Any) -> None:
        """The image of a moment 0.25 s later differs more than JPEG does."""
        rows = [row for row in devkit.sample_data if row["channel"] == "CAM_FRONT_LEFT"][3:6]
        for row in rows:
            time_s = (row["timestamp"] - scene_start_us(written.scene.index)) * 1e-6 - RIG[row["channel"]].delay_us * 1e-6
            stored = np.asarray(Image.open(written.root / row["filename"])).astype(float)
            here, later = (
                shot(written.scene, time_s + wait_s, RIG[row["channel"]], written.options.size_px).image
                for wait_s in (0.0, 0.25)
            )
            assert np.abs(stored - here).mean() < 2.5
            assert np.abs(stored - later).mean() > 5

    def test_intrinsics_are_those_of_the_size(self, written: Written, devkit: Any) -> None:
        for row in devkit.sample_data:
            intrinsic = devkit.get("calibrated_sensor", row["calibrated_sensor_token"])["camera_intrinsic"]
            if row["channel"] == LIDAR:
                assert intrinsic == []
            else:
                np.testing.assert_array_equal(intrinsic, RIG[row["channel"]].intrinsic(written.options.size_px))


class TestPoses:
    def test_ego_pose_is_that_of_the_images_own_stamp(self, written: Written, devkit: Any) -> None:
        for row in devkit.sample_data:
            pose = devkit.get("ego_pose", row["ego_pose_token"])
            assert pose["timestamp"] == row["timestamp"]
            moment = written.scene.at((row["timestamp"] - scene_start_us(written.scene.index)) * 1e-6)
            np.testing.assert_allclose(pose["translation"], map_position(written.scene, moment.ego_x, 0.0), atol=1e-4)

    def test_ego_vehicle_moves_between_the_six_shots(self, devkit: Any) -> None:
        data = devkit.sample[1]["data"]
        order = ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", LIDAR]
        poses = [devkit.get("ego_pose", devkit.get("sample_data", data[channel])["ego_pose_token"]) for channel in order]
        stamps = [pose["timestamp"] for pose in poses]
        assert stamps == sorted(set(stamps))
        way = np.diff([pose["translation"] for pose in poses], axis=0)
        speeds = np.linalg.norm(way, axis=1) / (np.diff(stamps) * 1e-6)
        assert speeds.min() > 3
        np.testing.assert_allclose(speeds, speeds[0], rtol=0.05)


class TestAnnotations:
    def test_everything_near_or_seen_is_annotated(self, written: Written, devkit: Any) -> None:
        scene = written.scene
        for number, sample in enumerate(chain(devkit.sample)):
            moment = scene.at(keyframe_time(number))
            near = {i for i in range(len(scene.actors)) if np.hypot(moment.x[i], moment.y[i]) <= ANNOTATED_M}
            views = [shot(scene, keyframe_time(number), camera, SMALL_SIZE_PX).objects for camera in RIG.values()]
            seen = {int(i) for view in views for i in np.unique(view) if 0 <= i < len(scene.actors)}
            expected = {token("instance", scene.seed, scene.index, i): i in seen for i in near | seen}
            rows = [devkit.get("sample_annotation", name) for name in sample["anns"]]
            assert {row["instance_token"]: row["num_lidar_pts"] > 0 for row in rows} == expected
            assert len(seen) > 10
            assert near - seen

    def test_attributes_and_visibility(self, devkit: Any) -> None:
        attribute_of = {
            "vehicle.bicycle": "cycle",
            "human.pedestrian.adult": "pedestrian",
            "movable_object.trafficcone": None,
            "movable_object.barrier": None,
        }
        for row in devkit.sample_annotation:
            attributes = [devkit.get("attribute", name)["name"].split(".")[0] for name in row["attribute_tokens"]]
            expected = attribute_of.get(row["category_name"], "vehicle")
            assert attributes == ([] if expected is None else [expected])
        assert {row["visibility_token"] for row in devkit.sample_annotation} == {"1", "2", "3", "4"}
