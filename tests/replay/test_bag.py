"""replay/bag.py: messages of bags of all kinds, and what is said of those that are not whole."""

from __future__ import annotations

import sqlite3
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from leo_edge.replay import bag as bag_module
from leo_edge.replay.bag import Bag
from leo_edge.replay.bag_source import BagOptions
from leo_edge.runtime.errors import DatasetError, LeoEdgeError
from leo_edge.runtime.frames import CameraFrame
from tests.replay.bags import (
    INTRINSIC,
    MS,
    SIZE,
    given,
    node_topic,
    open_drive,
    picture,
    rounds,
    shape,
    write_drive_bag,
)


class TestImages:
    @pytest.mark.parametrize(
        ("storage", "compression"),
        [(StoragePlugin.MCAP, mode) for mode in CompressionMode]
        + [(StoragePlugin.SQLITE3, mode) for mode in CompressionMode if mode is not CompressionMode.STORAGE],
    )
    def test_are_those_that_were_written(self, tmp_path: Path, storage: StoragePlugin, compression: CompressionMode) -> None:
        frames = rounds()
        drive = open_drive(write_drive_bag(tmp_path / "d", frames, storage=storage, compression=compression))
        assert (drive.name, drive.channels, drive.notes) == ("d", ("A", "B"), ())
        assert [(ref.channel, ref.stamp_ns) for ref in drive.frames] == [(one.channel, one.stamp_ns) for one in frames]
        for ref, written in reversed(list(zip(drive.frames, frames, strict=True))):  # in another order than they were recorded
            read = ref.load()
            assert (read.channel, read.stamp_ns, read.intrinsic) == (written.channel, written.stamp_ns, None)
            np.testing.assert_array_equal(read.image, written.image)

    def test_are_read_from_one_file_of_a_bag_too(self, tmp_path: Path) -> None:
        (file,) = write_drive_bag(tmp_path / "d", rounds()).glob("*.mcap")
        drive = open_drive(file.rename(tmp_path / "other.mcap"))
        assert (drive.name, len(drive.frames)) == ("other", 6)
        np.testing.assert_array_equal(drive.frames[5].load().image, rounds()[5].image)

    def test_are_read_from_a_ros_1_bag(self, tmp_path: Path) -> None:
        store = get_typestore(Stores.ROS1_NOETIC)
        types: dict[str, Any] = store.types
        with Writer1(tmp_path / "old.bag") as writer:
            connection = writer.add_connection("/A/image_raw", "sensor_msgs/msg/Image", typestore=store)
            info = writer.add_connection("/A/camera_info", "sensor_msgs/msg/CameraInfo", typestore=store)
            stamp = types["builtin_interfaces/msg/Time"](sec=2, nanosec=5)
            header = types["std_msgs/msg/Header"](seq=1, stamp=stamp, frame_id="")
            roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
            k = INTRINSIC.reshape(-1)
            said = types["sensor_msgs/msg/CameraInfo"](header, *SIZE, "", np.zeros(0), k, k, np.zeros(12), 0, 0, roi)
            message = types["sensor_msgs/msg/Image"](header, *SIZE, "bgr8", 0, 24, picture(0)[..., ::-1].reshape(-1))
            for to, one in ((connection, message), (info, said)):
                writer.write(to, 7, store.serialize_ros1(one, to.msgtype))
        drive = open_drive(tmp_path / "old.bag")
        assert (drive.name, shape(drive)) == ("old", [("A", 2000.000005, None)])
        read = drive.frames[0].load()
        np.testing.assert_array_equal(read.image, picture(0))
        assert read.intrinsic is not None
        np.testing.assert_array_equal(read.intrinsic, INTRINSIC)

    def test_are_read_without_definitions_in_the_bag(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As ROS 2 before Iron records: ros2 bag of Humble with SQLite."""
        answers = [given(100, 100, 120)]
        path = write_drive_bag(tmp_path / "d", rounds(), answers, storage=StoragePlugin.SQLITE3)
        _forget_definitions(next(path.glob("*.db3")))
        assert [sample for _, _, sample in shape(open_drive(path))] == ["d-100000000"] * 2
        monkeypatch.setattr(bag_module, "_DEFINITIONS", tmp_path / "nothing")
        bag_module._known_types.cache_clear()
        try:
            with pytest.raises(DatasetError, match=r"cannot read bag .*SceneAnswer"):
                open_drive(path)
        finally:
            bag_module._known_types.cache_clear()

    def test_are_read_by_several_threads_at_once(self, tmp_path: Path) -> None:
        frames = rounds(20)
        drive = open_drive(write_drive_bag(tmp_path / "d", frames))
        start = threading.Barrier(8)

        def read(number: int) -> bool:
            start.wait()
            return all(np.array_equal(drive.frames[i].load().image, frames[i].image) for i in range(number, 40, 3))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))

    def test_are_read_when_they_are_wanted(self, tmp_path: Path) -> None:
        """The drive of a bag that does not fit into the memory does."""
        big = [CameraFrame("A", np.zeros((500, 1000, 3), np.uint8), (i + 1) * MS) for i in range(40)]
        path = write_drive_bag(tmp_path / "d", big)
        tracemalloc.start()
        drive = open_drive(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < sum(one.image.nbytes for one in big) / 4
        (file,) = path.glob("*.mcap")
        with file.open("r+b") as content:
            content.truncate(file.stat().st_size // 2)
        drive.frames[0].load()
        with pytest.raises(DatasetError, match=r"^cannot read bag .*/d \(Truncated record"):
            drive.frames[-1].load()


class TestRefused:
    def test_no_bag(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"^no bag .*/nothing: check the path$"):
            BagOptions((tmp_path / "nothing",)).open()

    @pytest.mark.parametrize("name", ["folder", "notes.txt", "a.mcap", "a.db3", "a.bag"])
    def test_something_else(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        path.mkdir() if name == "folder" else path.write_text("not a bag\n" * 20)
        with pytest.raises(
            DatasetError, match=rf"^cannot read bag .*{name} \(.+\): give a whole rosbag2 folder, .*reindex"
        ) as error:
            BagOptions((path,)).open()
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("storage", StoragePlugin)
    @pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.FILE])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95])
    def test_a_recording_that_was_cut_off(
        self, tmp_path: Path, storage: StoragePlugin, compression: CompressionMode, share: float
    ) -> None:
        path = write_drive_bag(tmp_path / "d", rounds(30), storage=storage, compression=compression)
        file = next(one for one in path.iterdir() if one.suffix != ".yaml")
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        with pytest.raises(DatasetError, match=r"^cannot read bag .*/d \(.+\): give a whole"):
            [ref.load() for ref in open_drive(path).frames]

    @pytest.mark.parametrize("storage", StoragePlugin)
    @pytest.mark.parametrize("compression", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE])
    def test_bytes_that_were_altered_anywhere_are_one_line_or_other_pixels(
        self, tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
    ) -> None:
        path = write_drive_bag(tmp_path / "d", rounds(), storage=storage, compression=compression)
        file = next(one for one in path.iterdir() if one.suffix != ".yaml")
        whole, random, errors = file.read_bytes(), np.random.default_rng(0), list[str]()
        for _ in range(60):
            altered = bytearray(whole)
            altered[random.integers(len(whole))] ^= 1 << random.integers(8)
            file.write_bytes(altered)
            try:
                [ref.load() for ref in open_drive(path).frames]
            except LeoEdgeError as error:
                errors.append(str(error))
        assert errors
        assert not any("\n" in error for error in errors)

    @pytest.mark.parametrize(("received_ms", "stamp_ms"), [(7, 100), (103, 101)])
    def test_a_message_that_is_no_longer_there(self, tmp_path: Path, received_ms: int, stamp_ms: int) -> None:
        bag = Bag(write_drive_bag(tmp_path / "d", rounds()))
        assert bag.read(node_topic("A"), 103 * MS, 100 * MS).stamp_ns == 100 * MS
        with pytest.raises(
            DatasetError, match=r"no longer has the message of /leo_edge/input/A/image at \d+ ns: it was altered"
        ):
            bag.read(node_topic("A"), received_ms * MS, stamp_ms * MS)


def _forget_definitions(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
        database.execute("UPDATE topics SET type_description_hash = ''")
