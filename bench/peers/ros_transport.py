"""Cameras into the node over DDS, without a model: `python bench/peers/ros_transport.py`, see -h.

One process publishes camera images and camera_info, another one takes them in with the node's own subscriptions, synchroniser,
worker and conversion to RGB; in place of the model is a pipeline that does nothing. What is measured is what it costs to have
frame sets, and how old they are then. Three setups take turns in one run:

- leo_edge: both processes are prepared as the node prepares itself (Fast DDS profile, malloc's settings), best effort;
- defaults: the middleware as it is, best effort;
- defaults, reliable: the same with reliable publishers and subscriptions.

Cameras fire together, six images one right after another, which is the most work at once that they can make.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree

import numpy as np

from leo_edge.ros_node.process import prepare_process, share_path
from leo_edge.runtime.answer import Answer
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.frames import NUSCENES_CAMERAS, FrameSet
from leo_edge.runtime.tokens import CameraTokens, VisualTokens

if TYPE_CHECKING:
    from leo_edge.ros_node.outlet import AnswerReport, SetReport
    from leo_edge.runtime.pipeline import Pipeline

WARM_UP_S = 2.0
START_S = 30.0  # how long the processes may take to find each other
DEPTH = 5
# Above those that tests take, and below the ports that Linux lends out.
DOMAIN = 215 + os.getpid() % 18


@dataclass(frozen=True)
class Setup:
    """A way to run both processes."""

    name: str
    prepared: bool
    reliable: bool


SETUPS = (
    Setup("leo_edge", prepared=True, reliable=False),
    Setup("defaults", prepared=False, reliable=False),
    Setup("defaults, reliable", prepared=False, reliable=True),
)
# What leo_edge should come to: row of the table, bound, whether it is a lower one.
TARGETS = (("least", 11.5, True), ("p95", 40.0, False), ("subscriber", 40.0, False))


@dataclass(frozen=True)
class Stream:
    """What the cameras send, and for how long after the warm-up."""

    cameras: int
    hz: float
    width: int
    height: int
    transport: str
    seconds: float

    @property
    def channels(self) -> tuple[str, ...]:
        """The cameras' names."""
        return NUSCENES_CAMERAS[: self.cameras]


@dataclass(frozen=True)
class Received:
    """What the subscriber saw after its warm-up. Ages are from a set's stamp: at the start of work, and after conversion."""

    frames: list[int]
    seconds: float
    ages_ms: list[tuple[float, float]]
    cpu_s: float
    resident_mb: float


class Cpu:
    """Counts this process's time on processors."""

    def __init__(self) -> None:
        self._before, self._began = os.times(), time.perf_counter()

    def used(self) -> tuple[float, float]:
        """Returns seconds of processor time, and of the clock on the wall."""
        now = os.times()
        return now.user + now.system - self._before.user - self._before.system, time.perf_counter() - self._began


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits for the other process."""
    end = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"got no {what} in {START_S:.0f} s, expected some")
        time.sleep(0.01)


# The cameras' process.


def picture(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns an image [H, W, 3] whose JPEG is about as large as that of a street: soft shapes under a sensor's noise."""
    from PIL import Image

    random = np.random.default_rng(0)
    shapes = Image.fromarray(random.integers(0, 256, (height // 30 + 2, width // 30 + 2, 3), np.uint8))
    soft = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return np.clip(soft + random.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)


def camera_message(stream: Stream) -> Any:
    """Returns an image message to be sent again and again; an `array` is what rclpy takes without going over every byte."""
    from sensor_msgs.msg import CompressedImage, Image

    image = picture(stream.width, stream.height)
    if stream.transport == "compressed":
        from PIL import Image as PilImage

        buffer = io.BytesIO()
        PilImage.fromarray(image).save(buffer, "JPEG", quality=90)
        message, content = CompressedImage(format="bgr8; jpeg compressed bgr8"), buffer.getvalue()
    else:
        message = Image(height=stream.height, width=stream.width, encoding="bgr8", step=3 * stream.width)
        content = image.tobytes()
    message.data = array("B", content)
    return message


def publish(stream: Stream, reliable: bool) -> dict[str, float]:
    """Plays the cameras; returns the process's use of a core, in percent, and the rate that it kept."""
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CameraInfo

    from leo_edge.ros_node.messages import header

    rclpy.init()
    node = Node("cameras")
    qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
    message = camera_message(stream)
    info = CameraInfo(height=stream.height, width=stream.width, k=[1000.0, 0.0, 800.0, 0.0, 1000.0, 450.0, 0.0, 0.0, 1.0])
    suffix = "/compressed" if stream.transport == "compressed" else ""
    bases = [f"/leo_edge/input/{channel}" for channel in stream.channels]
    images: list[Any] = [node.create_publisher(type(message), f"{base}/image{suffix}", qos) for base in bases]
    infos: list[Any] = [node.create_publisher(CameraInfo, f"{base}/camera_info", qos) for base in bases]
    wait_for(lambda: all(publisher.get_subscription_count() for publisher in (*images, *infos)), "subscribers")
    start, warm, cpu = time.monotonic(), round(WARM_UP_S * stream.hz), Cpu()
    num_sets = warm + round((stream.seconds + 1.0) * stream.hz)  # a second more than the subscriber counts
    for number in range(num_sets):
        time.sleep(max(0.0, start + number / stream.hz - time.monotonic()))
        if number == warm:
            cpu = Cpu()
        message.header = info.header = header(time.time_ns(), "camera")
        for image_publisher, info_publisher in zip(images, infos, strict=True):
            info_publisher.publish(info)
            image_publisher.publish(message)
    time.sleep(max(0.0, start + num_sets / stream.hz - time.monotonic()))
    used_s, seconds = cpu.used()
    node.destroy_node()
    rclpy.shutdown()
    return {"cpu": 100 * used_s / seconds, "hz": (num_sets - warm) / seconds, "kilobytes": len(message.data) / 1e3}


# The node's process.


class NoModel:
    """Stands in for a pipeline: notes when frames are there to be encoded, and does nothing with them."""

    def __init__(self) -> None:
        self.encoded_ns = 0

    def encode(self, frame_set: FrameSet, **_: Any) -> VisualTokens:
        """Returns no tokens."""
        self.encoded_ns = time.time_ns()
        cameras = tuple(CameraTokens(channel, frame.stamp_ns, {}) for channel, frame in frame_set.frames.items())
        return VisualTokens(cameras, frame_set.missing, frame_set.stamp_ns, ())

    def ask(self, tokens: VisualTokens, question: str, *_: Any, **__: Any) -> Answer:
        """Returns an empty answer."""
        stamp_ns, missing = tokens.stamp_ns, tokens.missing
        return Answer(question, "", (), Finish.LENGTH, stamp_ns, {}, {}, missing, 0, 0, None, 0.0, None, (), "", "none")


class Log:
    """An outlet that keeps the ages of the sets, and what goes wrong."""

    def __init__(self, model: NoModel) -> None:
        self._model = model
        self.ages_ms: list[tuple[float, float]] = []
        self.errors: list[str] = []

    def wanted(self) -> bool:
        """Somebody listens."""
        return True

    def on_answer(self, report: AnswerReport) -> None:
        """Is of no interest."""

    def on_piece(self, stamp_ns: int, question_id: str, index: int, text: str, *, last: bool) -> None:
        """Is of no interest."""

    def on_set(self, report: SetReport) -> None:
        """Notes how old the set was when work began, and when it was converted; all is on the clock of the stamps."""
        stamp_ns = report.encoded.stamp_ns
        self.ages_ms.append(((report.taken_ns - stamp_ns) / 1e6, (self._model.encoded_ns - stamp_ns) / 1e6))

    def on_degrade(self, level: int, steps: tuple[str, ...], reason: str) -> None:
        """Cannot be: there is no deadline."""

    def on_camera_error(self, channel: str, message: str) -> None:
        """Notes an image that could not be read."""
        self.errors.append(f"{channel}: {message}")

    def on_error(self, message: str) -> None:
        """Notes another trouble."""
        self.errors.append(message)


def receive(stream: Stream, reliable: bool) -> Received:
    """Takes the cameras in as the node does, and counts from their first frame and a warm-up on."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    from leo_edge.ros_node.cameras import CameraInputs
    from leo_edge.ros_node.health import Health, resident_mb
    from leo_edge.ros_node.ladder import Ladder
    from leo_edge.ros_node.questions import StandingQuestion
    from leo_edge.ros_node.synchronizer import SyncRules, Taken
    from leo_edge.ros_node.worker import Settings, Worker

    rclpy.init()
    node, log = Node("leo_edge"), Log(model := NoModel())
    settings = Settings((StandingQuestion("what", "What is ahead?"),))
    rules = SyncRules(stream.channels, anchor=stream.channels[0])
    worker = Worker(cast("Pipeline", model), rules, Ladder(()), settings, log, clock=time.time_ns)
    health = Health(stream.channels, time.perf_counter_ns())
    CameraInputs(node, worker, health, stream.transport, "reliable" if reliable else "best_effort")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    worker.start()
    wait_for(lambda: bool(worker.counts.frames), "frames")
    time.sleep(WARM_UP_S)
    before, num_before, cpu = worker.counts.frames.copy(), len(log.ages_ms), Cpu()
    time.sleep(stream.seconds)
    (used_s, seconds), ages = cpu.used(), log.ages_ms[num_before:]
    frames = [worker.counts.frames[c, Taken.NEWEST] - before[c, Taken.NEWEST] for c in stream.channels]
    if errors := log.errors + [camera.last_error for camera in health.cameras.values() if camera.errors]:
        raise SystemExit(f"got errors, expected none: {errors[:3]}")
    held_mb = resident_mb()
    executor.shutdown()
    spinning.join(5)
    worker.stop(5)
    node.destroy_node()
    rclpy.shutdown()
    return Received(frames, seconds, ages, used_s, held_mb)


# The benchmark.


def environment() -> dict[str, str]:
    """Returns the environment of both processes: a domain of their own on loopback, and no profile from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_DEFAULT_PROFILES_FILE")}
    return kept | {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": "1"}


def run(setup: Setup, stream: Stream) -> tuple[Received, dict[str, float]]:
    """Runs both processes once; returns what the subscriber and the publisher say."""
    command = [sys.executable, __file__, json.dumps(asdict(setup)), json.dumps(asdict(stream)), "--role"]
    roles = ("receive", "publish")
    processes = [subprocess.Popen([*command, role], env=environment(), stdout=subprocess.PIPE, text=True) for role in roles]
    try:
        received, published = (one.communicate(timeout=2 * START_S + WARM_UP_S + stream.seconds)[0] for one in processes)
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise SystemExit(f"{setup.name}: one of the two processes failed")
    return Received(**json.loads(received)), json.loads(published)


def play_role(role: str, setup: Setup, stream: Stream) -> None:
    """Is one of the two processes, and prints its result. Both end in order: a killed one leaves its shared memory behind."""
    if setup.prepared:
        prepare_process()
    result = publish(stream, setup.reliable) if role == "publish" else asdict(receive(stream, setup.reliable))
    print(json.dumps(result))


def row(runs: list[tuple[Received, dict[str, float]]]) -> dict[str, float]:
    """Returns what a setup came to in all of its rounds."""
    received, cameras = [run[0] for run in runs], [run[1] for run in runs]
    seconds = sum(one.seconds for one in received)
    hz = [sum(counts) / seconds for counts in zip(*(one.frames for one in received), strict=True)]
    pairs = [pair for one in received for pair in one.ages_ms] or [(math.nan, math.nan)]
    ages, converted = zip(*pairs, strict=True)
    return {
        "least": min(hz),
        "mean": sum(hz) / len(hz),
        "sets": sum(len(one.ages_ms) for one in received) / seconds,
        **{f"p{percent}": float(np.percentile(ages, percent)) for percent in (50, 95)},
        "max": max(ages),
        "converted": float(np.percentile(converted, 95)),
        "subscriber": 100 * sum(one.cpu_s for one in received) / seconds,
        "publisher": sum(one["cpu"] for one in cameras) / len(cameras),
        "resident": max(one.resident_mb for one in received),
    }


TITLES = {
    "least": "Hz of a camera, least",
    "mean": "Hz of a camera, mean",
    "sets": "frame sets a second",
    "p50": "age when work starts, p50, ms",
    "p95": "age when work starts, p95, ms",
    "max": "age when work starts, max, ms",
    "converted": "age when all is RGB, p95, ms",
    "subscriber": "subscriber, % of a core",
    "publisher": "publisher, % of a core",
    "resident": "subscriber's memory, MB",
}


def show(rows: dict[str, dict[str, float]]) -> None:
    """Prints the setups beside each other, and how the others stand to the first: their value divided by its own."""
    first, *others = rows
    print(f"\n{'':<32}{first:>12}" + "".join(f"{name:>22}{'ratio':>8}" for name in others))
    for key, title in TITLES.items():
        cells = "".join(f"{rows[name][key]:>22.1f}{rows[name][key] / rows[first][key]:>8.2f}" for name in others)
        print(f"{title:<32}{rows[first][key]:>12.1f}{cells}")


def machine() -> str:
    """Names processor, load and versions."""
    cpus = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    versions = {"Python": platform.python_version(), "numpy": np.__version__, "OpenCV": "absent"}
    with suppress(ImportError):
        versions["OpenCV"] = importlib.import_module("cv2").__version__
    for package in ("rclpy", "rmw_fastrtps_cpp"):
        path = share_path(package) / "package.xml"
        versions[package] = (ElementTree.parse(path).findtext("version") if path.is_file() else None) or "unknown"
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    device = f"{(cpus or [platform.machine()])[0]}, {os.cpu_count()} cores, load {load} before the start"
    return f"{device}\n{', '.join(f'{name} {version}' for name, version in versions.items())}"


def size(text: str) -> tuple[int, int]:
    """Reads a width and a height in pixels, such as 1600x900."""
    width, height = text.split("x")
    return int(width), int(height)


def parse() -> tuple[Stream, int]:
    """Reads the command line; returns the stream and the number of rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each setup in a round, after a warm-up")
    parser.add_argument("--rounds", type=int, default=2, help="in each of which every setup runs once")
    parser.add_argument("--cameras", type=int, default=6, choices=range(1, 7))
    parser.add_argument("--hz", type=float, default=12)
    parser.add_argument("--size", type=size, default=(1600, 900), metavar="WxH", help="default: 1600x900")
    parser.add_argument("--transport", choices=("raw", "compressed"), default="raw", help="bgr8 images, or JPEGs")
    args = parser.parse_args()
    width, height = args.size
    return Stream(args.cameras, args.hz, width, height, args.transport, args.seconds), args.rounds


def main() -> None:
    """Runs the benchmark."""
    if sys.argv[3:4] == ["--role"]:
        play_role(sys.argv[4], Setup(**json.loads(sys.argv[1])), Stream(**json.loads(sys.argv[2])))
        return
    stream, rounds = parse()
    print(machine())
    runs: dict[str, list[tuple[Received, dict[str, float]]]] = defaultdict(list)
    for number in range(rounds):
        for setup in SETUPS:
            runs[setup.name].append(run(setup, stream))
            said = runs[setup.name][-1][1]
            sent = f"{stream.cameras} cameras, {said['kilobytes']:.0f} kB an image, {said['hz']:.1f} Hz"
            print(f"round {number + 1} of {rounds}, {setup.name}: published {sent}", flush=True)
    rows = {name: row(those) for name, those in runs.items()}
    show(rows)
    ours = rows[SETUPS[0].name]
    for key, bound, is_least in TARGETS:
        met = ours[key] >= bound if is_least else ours[key] < bound
        target = f"target {'at least' if is_least else 'below'} {bound:g}"
        print(f"{TITLES[key]}: {ours[key]:.1f}, {target}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
