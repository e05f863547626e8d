"""nuscenes-devkit takes the dataset for one of its own, and its boxes lie on what is drawn."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from nuscenes.utils.geometry_utils import BoxVisibility, view_points
from PIL import Image
from pyquaternion import Quaternion

from leo_edge.demo.dataset.names import LIDAR, VERSION, token
from leo_edge.demo.world.draw import Drawn
from leo_edge.demo.world.observe import keyframe_time, shot
from leo_edge.demo.world.rig import RIG
from leo_edge.demo.world.scene import Scene
from leo_edge.replay.nuscenes import NuScenesDrives
from leo_edge.runtime.frames import NUSCENES_CAMERAS
from tests.demo.dataset.conftest import Written

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module", autouse=True)
def _no_window() -> None:
    import matplotlib

    matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _closed_figures() -> Any:
    from matplotlib import pyplot

    yield
    pyplot.close("all")


class TestRendering:
    def test_a_sample_with_its_map_boxes_and_cameras(self, devkit: Any, tmp_path: Path) -> None:
        devkit.render_sample(devkit.sample[1]["token"], out_path=str(tmp_path / "sample.png"), verbose=False)
        assert np.asarray(Image.open(tmp_path / "sample.png")).std() > 20

    def test_a_sweep_with_boxes_between_two_keyframes(self, devkit: Any, tmp_path: Path) -> None:
        sweep = next(row for row in devkit.sample_data if row["channel"] == "CAM_BACK" and not row["is_key_frame"])
        devkit.render_sample_data(sweep["token"], out_path=str(tmp_path / "sweep.png"), verbose=False)
        assert np.asarray(Image.open(tmp_path / "sweep.png")).std() > 20

    def test_an_instance_where_it_is_nearest(self, devkit: Any, tmp_path: Path) -> None:
        seen = next(row for row in devkit.sample_annotation if row["num_lidar_pts"] > 500)
        devkit.render_instance(seen["instance_token"], out_path=str(tmp_path / "instance.png"))
        assert (tmp_path / "instance.png").stat().st_size > 10_000

    def test_lists(self, devkit: Any, capsys: pytest.CaptureFixture[str]) -> None:
        devkit.list_scenes()
        devkit.list_categories()
        devkit.list_attributes()
        devkit.list_sample(devkit.sample[0]["token"])
        out = capsys.readouterr().out
        assert "scene-0000" in out
        assert "vehicle.car" in out


class TestItsOwnChecks:
    def test_assert_download(self, devkit: Any) -> None:
        from nuscenes.tests.assert_download import verify_setup

        verify_setup(devkit)

    def test_test_nuscenes(self, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its test loads a version of a fixed name."""
        from nuscenes.tests.test_nuscenes import TestNuScenes

        (tmp_path / "maps").symlink_to(written.root / "maps")
        shutil.copytree(written.root / VERSION, tmp_path / "v1.0-mini")
        monkeypatch.setenv("NUSCENES", str(tmp_path))
        TestNuScenes().test_load()


def test_box_velocity_is_the_speed_of_the_simulation(written: Written, devkit: Any) -> None:
    moment, scene = written.scene.at(keyframe_time(1)), written.scene
    actors = {token("sample_annotation", scene.seed, scene.index, 1, i): i for i in range(len(scene.actors))}
    speeds = []
    for name in devkit.sample[1]["anns"]:
        velocity = devkit.box_velocity(name)
        if np.isnan(velocity).any():
            continue
        speed = moment.speed_mps[actors[name]]
        assert np.linalg.norm(velocity) == pytest.approx(speed, abs=0.4)
        if speed > 2:
            ahead = devkit.get_box(name).orientation.rotate(np.array([1.0, 0, 0]))
            assert velocity @ ahead == pytest.approx(np.linalg.norm(velocity), rel=0.01)
        speeds.append(speed)
    assert max(speeds) > 4
    assert min(speeds) == 0


@dataclass(frozen=True)
class Views:
    """The keyframes' images once more, with the object and the depth behind every pixel."""

    scene: Scene
    drawn: dict[tuple[int, str], Drawn]


@pytest.fixture(scope="module")
def views(written: Written) -> Views:
    scene, size_px = written.scene, written.options.size_px
    drawn = {(n, channel): shot(scene, keyframe_time(n), camera, size_px) for n in range(3) for channel, camera in RIG.items()}
    return Views(scene, drawn)


@dataclass(frozen=True)
class Seen:
    """An object in an image: the devkit's box in the camera's frame, the pixels (u, v) that show it, and their depth."""

    box: Any
    intrinsic: Floats
    pixels: Floats  # [N, 2]
    depth_m: Floats  # [N]


def seen_objects(views: Views, devkit: Any, channels: Iterable[str], *, moving: bool) -> Iterator[Seen]:
    """Yields every object of which a keyframe's image shows at least 40 pixels; without `moving`, if it stands."""
    scene = views.scene
    for number, sample in enumerate(devkit.sample):
        actors = {token("sample_annotation", scene.seed, scene.index, number, i): i for i in range(len(scene.actors))}
        speeds = scene.at(keyframe_time(number)).speed_mps
        for channel in channels:
            drawn = views.drawn[number, channel]
            _, boxes, intrinsic = devkit.get_sample_data(sample["data"][channel], BoxVisibility.NONE)
            for box in boxes:
                rows, columns = np.nonzero(drawn.objects == actors[box.token])
                if len(rows) >= 40 and (moving or speeds[actors[box.token]] == 0):
                    yield Seen(box, intrinsic, np.stack([columns, rows], axis=1), 1 / drawn.inverse_depth[rows, columns])


@contextmanager
def shifted_ego(devkit: Any, channels: Iterable[str], aside_m: float | None) -> Iterator[None]:
    """Moves the ego poses of the keyframes' images to the left, or with None to the keyframe's own."""
    kept = {}
    for sample in devkit.sample:
        of_keyframe = devkit.get("ego_pose", devkit.get("sample_data", sample["data"][LIDAR])["ego_pose_token"])
        for channel in channels:
            pose = devkit.get("ego_pose", devkit.get("sample_data", sample["data"][channel])["ego_pose_token"])
            kept[pose["token"]] = pose["translation"]
            left = Quaternion(pose["rotation"]).rotate(np.array([0.0, aside_m or 0.0, 0.0]))
            start = of_keyframe["translation"] if aside_m is None else pose["translation"]
            pose["translation"] = (start + left).tolist()
    yield
    for name, translation in kept.items():
        devkit.get("ego_pose", name)["translation"] = translation


def outside_m(seen: Seen) -> float:
    """Returns how far the points of an object lie outside of its box, at their 98th percentile, in metres."""
    return float(np.percentile(np.maximum(beyond_faces_m(seen), 0), 98))


def beyond_faces_m(seen: Seen) -> Floats:
    """Returns by pixel how far its point lies beyond the nearest face of the object's box: negative inside, [N]."""
    rays = np.column_stack([seen.pixels, np.ones(len(seen.pixels))]) @ np.linalg.inv(seen.intrinsic).T
    local = (rays * seen.depth_m[:, None] - seen.box.center) @ seen.box.rotation_matrix  # [N, 3] in the box's axes
    w, length, h = seen.box.wlh
    beyond: Floats = (np.abs(local) - np.array([length, w, h]) / 2).max(axis=1)
    return beyond


def covered(seen: Seen) -> float:
    """Returns which part of an object's pixels lies in the outline of its projected box, a pixel wider all round."""
    if seen.box.corners()[2].min() < 0.5:
        return 1.0  # reaches behind the camera: it has no outline
    corners = view_points(seen.box.corners(), seen.intrinsic, normalize=True)[:2].T
    outline = cv2.convexHull(corners.astype(np.float32))
    some = seen.pixels[:: max(1, len(seen.pixels) // 100)].tolist()
    inside = [cv2.pointPolygonTest(outline, (float(u), float(v)), measureDist=True) > -1.0 for u, v in some]
    return float(np.mean(inside))


class TestBoxesOnPixels:
    """Each pixel's depth gives a point in space: those of an object must lie in the box that the devkit makes of its rows."""

    def test_boxes_of_what_stands_hold_the_pixels_that_show_it(self, views: Views, devkit: Any) -> None:
        errors = [outside_m(one) for one in seen_objects(views, devkit, RIG, moving=False)]
        assert len(errors) > 30
        assert max(errors) < 0.03

    def test_boxes_are_no_larger_than_what_they_hold(self, views: Views, devkit: Any) -> None:
        """What is seen of an object touches a face of its box."""
        gaps = [-float(beyond_faces_m(one).max()) for one in seen_objects(views, devkit, RIG, moving=False)]
        assert max(gaps) < 0.2

    def test_boxes_of_what_moves_too_where_the_camera_fires_with_the_keyframe(self, views: Views, devkit: Any) -> None:
        errors = [outside_m(one) for one in seen_objects(views, devkit, ["CAM_BACK_LEFT"], moving=True)]
        assert len(errors) > 3
        assert max(errors) < 0.05

    def test_a_wrong_ego_pose_is_noticed(self, views: Views, devkit: Any) -> None:
        with shifted_ego(devkit, RIG, 1.0):
            errors = [outside_m(one) for one in seen_objects(views, devkit, RIG, moving=False)]
        assert np.median(errors) > 0.5

    def test_even_that_of_the_keyframe_in_place_of_the_images_own(self, views: Views, devkit: Any) -> None:
        channels = ["CAM_FRONT_LEFT", "CAM_FRONT"]
        right = [outside_m(one) for one in seen_objects(views, devkit, channels, moving=False)]
        with shifted_ego(devkit, channels, None):
            wrong = [outside_m(one) for one in seen_objects(views, devkit, channels, moving=False)]
        assert np.mean(wrong) > 5 * np.mean(right)

    def test_projected_boxes_cover_the_pixels(self, views: Views, devkit: Any) -> None:
        right = [covered(one) for one in seen_objects(views, devkit, RIG, moving=False)]
        with shifted_ego(devkit, RIG, 1.5):
            wrong = [covered(one) for one in seen_objects(views, devkit, RIG, moving=False)]
        assert min(right) > 0.97
        assert np.median(wrong) < 0.7


class TestReplay:
    def test_opens_it_and_reads_every_keyframe(self, written: Written, views: Views) -> None:
        drives = NuScenesDrives(written.root)
        assert (drives.version, drives.scene_names()) == (VERSION, ("scene-0000",))
        for number, name in enumerate(drives.samples("scene-0000")):
            frames = drives.frame_set(name)
            assert frames.channels == NUSCENES_CAMERAS
            assert frames.missing == ()
            for channel, frame in frames.frames.items():
                assert frame.stamp_ns - frames.stamp_ns == RIG[channel].delay_us * 1000
                assert np.abs(frame.image.astype(int) - views.drawn[number, channel].image).mean() < 2.5

    def test_sensor_from_ego_is_the_cameras_mount(self, written: Written) -> None:
        drives = NuScenesDrives(written.root)
        for channel, frame in drives.frame_set(drives.sample_at("scene-0000", 0)).frames.items():
            assert frame.sensor_from_ego is not None
            np.testing.assert_allclose(frame.sensor_from_ego[:3, :3], RIG[channel].ego_from_camera().T, atol=1e-12)
            np.testing.assert_allclose(frame.sensor_from_ego @ [*RIG[channel].position_m, 1], [0, 0, 0, 1], atol=1e-12)
