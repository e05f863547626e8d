"""replay/bag_cameras.py: whose images a topic has, and their pixels and intrinsics, against what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from leo_edge.replay.bag_cameras import camera_of
from leo_edge.replay.bag_source import BagOptions
from leo_edge.runtime.errors import DatasetError, LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, decode_image
from tests.replay.bags import (
    INTRINSIC,
    MS,
    SIZE,
    BagWriter,
    frame,
    given,
    jpeg,
    node_topic,
    open_drive,
    picture,
    rounds,
    shape,
    write_bag,
    write_drive_bag,
)


class TestCameras:
    @pytest.mark.parametrize(
        ("topic", "camera"),
        [
            ("/leo_edge/input/CAM_FRONT/image", "CAM_FRONT"),
            ("/leo_edge/input/CAM_FRONT/image/compressed", "CAM_FRONT"),
            ("/sensing/camera/front/image_raw", "front"),
            ("/sensing/camera/front/image_raw/compressed", "front"),
            ("/front/image_rect", "front"),
            ("/front/image_rect_color", "front"),
            ("/front/image_color/compressed", "front"),
            ("front/image", "front"),
            ("/image_raw", None),
            ("/front/image_depth", None),
            ("/front/image/compressedDepth", None),
            ("/front/image_raw/theora", None),
            ("/front/my_image", None),
        ],
    )
    def test_are_named_by_their_topics(self, topic: str, camera: str | None) -> None:
        assert camera_of(topic) == camera

    def test_are_in_nuscenes_order_and_then_by_name(self, tmp_path: Path) -> None:
        channels = ("b", "CAM_BACK", "a", "CAM_FRONT")
        path = write_drive_bag(tmp_path / "d", [frame(channel, 1) for channel in channels])
        assert open_drive(path).channels == ("CAM_FRONT", "CAM_BACK", "a", "b")
        assert channels[1] in NUSCENES_CAMERAS

    def test_are_chosen_and_ordered(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", rounds())
        assert open_drive(path, channels=("B", "A")).channels == ("B", "A")
        assert {ref.channel for ref in open_drive(path, channels=("B",)).frames} == {"B"}
        with pytest.raises(
            DatasetError, match=r"no camera C, D in bag .*/d: its cameras are A, B; name others with --camera-top"
        ):
            BagOptions((path,), channels=("A", "C", "D")).open()

    def test_are_given_topics_in_place_of_those_that_name_them(self, tmp_path: Path) -> None:
        topics = {"A": "/one", "B": "/rig/B/image_raw", "X": "/two"}
        path = write_drive_bag(tmp_path / "d", [frame("A", 1), frame("B", 2), frame("X", 3)], topic=topics.__getitem__)
        assert open_drive(path).channels == ("B",)
        drive = open_drive(path, topics={"CAM_FRONT": "/one", "front": "/rig/B/image_raw"})
        assert drive.channels == ("CAM_FRONT", "front")
        np.testing.assert_array_equal(drive.frames[0].load().image, picture(1))
        moved = open_drive(path, topics={"B": "/two"})  # the name that its own topic had
        assert shape(moved) == [("B", 3, None)]

    def test_with_raw_and_compressed_images_have_the_raw_ones(self, tmp_path: Path) -> None:
        def write(bag: BagWriter) -> None:
            bag.compressed("/A/image_raw/compressed", jpeg(picture(1)), MS)
            bag.image("/A/image_raw", picture(1), MS)

        path = write_bag(tmp_path / "d", write)
        np.testing.assert_array_equal(open_drive(path).frames[0].load().image, picture(1))
        other = open_drive(path, topics={"A": "/A/image_raw/compressed"})
        assert not np.array_equal(other.frames[0].load().image, picture(1))

    def test_without_messages_are_none(self, tmp_path: Path) -> None:
        def write(bag: BagWriter) -> None:
            bag.image("/A/image", picture(1), MS)
            bag.writer.add_connection("/B/image", "sensor_msgs/msg/Image", typestore=bag.types)

        assert open_drive(write_bag(tmp_path / "d", write)).channels == ("A",)

    @pytest.mark.parametrize("topic", ["/rig/A/image_raw", "/rig/A/image_raw/compressed"])
    @pytest.mark.parametrize("size", [SIZE[::-1], (0, 0)])  # 0: it is not said
    def test_have_the_intrinsic_that_is_beside_their_images(self, tmp_path: Path, topic: str, size: tuple[int, int]) -> None:
        def write(bag: BagWriter) -> None:
            for stamp_ns in (1, 2):
                bag.compressed(topic, jpeg(picture(1)), stamp_ns) if "comp" in topic else bag.image(topic, picture(1), stamp_ns)
                bag.camera_info("/rig/A/camera_info", INTRINSIC * float(stamp_ns), size, stamp_ns)
            bag.camera_info("/rig/camera_info", np.eye(3), SIZE[::-1], 1)

        for ref in open_drive(write_bag(tmp_path / "d", write)).frames:
            intrinsic = ref.load().intrinsic
            assert intrinsic is not None
            np.testing.assert_array_equal(intrinsic, INTRINSIC)

    @pytest.mark.parametrize(("intrinsic", "size"), [(np.zeros((3, 3)), (8, 6)), (INTRINSIC, (16, 12))])
    def test_that_are_uncalibrated_or_calibrated_for_another_size_have_none(
        self, tmp_path: Path, intrinsic: npt.NDArray[np.float64], size: tuple[int, int]
    ) -> None:
        def write(bag: BagWriter) -> None:
            bag.image("/A/image", picture(1), MS)
            bag.camera_info("/A/camera_info", intrinsic, size, MS)

        assert open_drive(write_bag(tmp_path / "d", write)).frames[0].load().intrinsic is None


class TestImages:
    def test_of_compressed_topics_are_decoded_as_files_are(self, tmp_path: Path) -> None:
        data = jpeg(picture(1))
        path = write_bag(tmp_path / "d", lambda bag: bag.compressed("/rig/A/image_raw/compressed", data, 100 * MS))
        np.testing.assert_array_equal(open_drive(path).frames[0].load().image, decode_image(data, "A"))

    def test_in_other_encodings_are_converted(self, tmp_path: Path) -> None:
        image = picture(1)
        padded = np.concatenate([image[..., ::-1].reshape(6, 24), np.zeros((6, 3), np.uint8)], axis=1)
        fields = {"encoding": "bgr8", "step": 27, "data": padded.reshape(-1)}
        path = write_bag(tmp_path / "d", lambda bag: bag.image("/A/image", image, 100 * MS, **fields))
        np.testing.assert_array_equal(open_drive(path).frames[0].load().image, image)


class TestRefused:
    def test_a_topic_that_is_not_there(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", [frame("A", 1, intrinsic=INTRINSIC)])
        listed = f"its image topics are {node_topic('A')}$"
        with pytest.raises(DatasetError, match=f"no images of topic /nothing in bag .*/d: {listed}"):
            BagOptions((path,), topics={"B": "/nothing"}).open()
        with pytest.raises(DatasetError, match=f"no images of topic /leo_edge/input/A/camera_info in bag .*/d: {listed}"):
            BagOptions((path,), topics={"B": "/leo_edge/input/A/camera_info"}).open()

    def test_one_topic_for_two_cameras(self, tmp_path: Path) -> None:
        path = write_drive_bag(tmp_path / "d", rounds())
        with pytest.raises(DatasetError, match="two cameras have one topic: C=/leo_edge/input/A/image, D=/leo_edge/input/A/im"):
            BagOptions((path,), topics={"C": node_topic("A"), "D": node_topic("A")}).open()

    def test_several_topics_for_a_camera_that_is_wanted(self, tmp_path: Path) -> None:
        def write(bag: BagWriter) -> None:
            for topic in ("/left/color/image_raw", "/right/color/image_raw", "/A/image"):
                bag.image(topic, picture(1), MS)

        path = write_bag(tmp_path / "d", write)
        with pytest.raises(
            DatasetError,
            match=r"bag .*/d has several topics for camera color: /left/color/image_raw, /right/color/image_raw; "
            r"choose with --camera-topics color=/left/color/image_raw, or leave it out with --cameras",
        ):
            BagOptions((path,)).open()
        assert open_drive(path, channels=("A",)).channels == ("A",)
        named = open_drive(path, topics={"left": "/left/color/image_raw", "right": "/right/color/image_raw"})
        assert named.channels == ("A", "left", "right")

    def test_a_bag_without_images(self, tmp_path: Path) -> None:
        path = write_bag(tmp_path / "d", lambda bag: bag.answer(given(1, 1, 1)))
        with pytest.raises(DatasetError, match=r"no camera in bag .*/d: its image topics are none, expected names such as "):
            BagOptions((path,)).open()

    def test_images_whose_topic_names_no_camera(self, tmp_path: Path) -> None:
        path = write_bag(tmp_path / "d", lambda bag: bag.image("/front", picture(1), MS))
        with pytest.raises(DatasetError, match=r"its image topics are /front, .*; name them with --camera-topics CAMERA=TOPIC"):
            BagOptions((path,)).open()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"encoding": "16UC1"}, "A at 1000000 ns in bag .*/d: got image encoding '16UC1', expected one of rgb8, "),
            ({"height": 7}, r"A at 1000000 ns in bag .*/d: image data has 144 bytes, expected 168"),
        ],
    )
    def test_an_image_that_is_none(self, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
        path = write_bag(tmp_path / "d", lambda bag: bag.image("/A/image", picture(1), MS, **fields))
        with pytest.raises(LeoEdgeError, match=f"^{message}"):
            open_drive(path).frames[0].load()

    def test_a_jpeg_that_is_none(self, tmp_path: Path) -> None:
        path = write_bag(tmp_path / "d", lambda bag: bag.compressed("/A/image/compressed", jpeg(picture(1))[:-50], MS))
        with pytest.raises(
            LeoEdgeError,
            match=r"^cannot decode image A at 1000000 ns in bag .*/d, .*: leave its camera out with --cameras, or rec",
        ):
            open_drive(path).frames[0].load()
