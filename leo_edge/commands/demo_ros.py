"""`leo-edge demo ros`: the node and a player in processes of their own, on a drawn drive."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leo_edge.commands.demo_parts import draw_drive, export_shipped
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.ros_node.listener import Heard

NODE = "/leo_edge"
_START_S, _END_S, _QUIET_S = 60.0, 10.0, 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle (default: the shipped tiny model, exported)")
    parser.add_argument("--nuscenes", type=Path, metavar="ROOT", help="a drive (default: one is drawn)")
    parser.add_argument("--work", type=Path, default=Path("out/ros-demo"), metavar="DIR", help="for what is made and logs")
    parser.add_argument("--drive-seconds", type=float, default=20.0, metavar="S", help="of the drawn drive (default 20)")
    parser.add_argument("--deadline-ms", type=float, default=400.0, metavar="MS", help="of every answer (default 400)")


def run(args: argparse.Namespace) -> int:
    """Runs the demo; 1 if nothing was answered, or otherwise than offline."""
    from leo_edge.ros_node.process import prepare_process

    args.work.mkdir(parents=True, exist_ok=True)
    bundle, drive = args.bundle or args.work / "bundle", args.nuscenes or args.work / "drive"
    if args.bundle is None and not bundle.exists():
        export_shipped(bundle)
    if args.nuscenes is None and not drive.exists():
        draw_drive(drive, args.drive_seconds)
    # The demo keeps to itself: a domain of its own, on this machine alone.
    os.environ |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": "1"}
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    prepare_process()
    heard = _drive_through(args, bundle, drive)
    print("\n" + _summary(heard))
    equal, total = agreement(heard, bundle, drive)
    print(f"{equal} of {total} answers equal those of the same frames without ROS, token for token")
    return 0 if total and equal == total else 1


def agreement(heard: Heard, bundle: Path, drive: Path) -> tuple[int, int]:
    """Asks the same questions of the same frames, read from the drive; returns how many answers are equal, and of how many.

    Answers that were given under pressure, with something given up or cut off at the deadline, are not compared.
    """
    from leo_edge.replay.nuscenes_source import NuScenesOptions
    from leo_edge.ros_node.messages import to_ns
    from leo_edge.runtime.frames import FrameSet
    from leo_edge.runtime.pipeline import AskOptions, open_pipeline

    source = NuScenesOptions(drive, all_frames=True).open()
    frames = {(ref.channel, ref.stamp_ns): ref for name in source.drive_names() for ref in source.drive(name).frames}
    pipeline, equal, total = open_pipeline(bundle), 0, 0
    encoded: dict[tuple[tuple[str, int], ...], Any] = {}
    for answer in heard.answers:
        if answer.degrade_level or answer.finish == "deadline":
            continue
        used = tuple((camera.name, to_ns(camera.stamp)) for camera in answer.cameras if camera.name not in answer.missing)
        if used not in encoded:
            loaded = [frames[one].load() for one in used]
            encoded[used] = pipeline.encode(FrameSet.of(loaded, expected_channels=[channel for channel, _ in used]))
        again = pipeline.ask(encoded[used], answer.question, AskOptions())
        equal, total = equal + (list(again.token_ids) == list(answer.token_ids)), total + 1
    return equal, total


def _drive_through(args: argparse.Namespace, bundle: Path, drive: Path) -> Heard:
    """Runs node and player, prints answers as they come, and returns all that was heard."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from leo_edge.ros_node.listener import listen, one_line

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    ears = Node(f"leo_edge_demo_{os.getpid()}")
    last = [time.monotonic()]

    def show(answer: Any) -> None:
        last[0] = time.monotonic()
        print(one_line(answer), flush=True)

    heard = listen(ears, NODE, show)
    executor = SingleThreadedExecutor()
    executor.add_node(ears)
    options, started = ["--set", f"deadline_ms={args.deadline_ms}"], time.monotonic()
    try:
        with _process(args.work / "node.log", "ros", str(bundle), *options) as node:
            while "node" not in heard.statuses or heard.value("node", "state") != "active":
                _check_alive(node, args.work / "node.log", heard, started)
                executor.spin_once(timeout_sec=0.1)
            with _process(args.work / "player.log", "ros-play", "--nuscenes", str(drive)) as player:
                while player.poll() is None or time.monotonic() - last[0] < _QUIET_S:
                    executor.spin_once(timeout_sec=0.1)
    finally:  # in this order also after an error: what is left to the interpreter's end may be destroyed while it is in use
        executor.shutdown()
        ears.destroy_node()
        rclpy.try_shutdown()
    return heard


@contextmanager
def _process(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a leo-edge command beside this one, and ends it."""
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "leo_edge", *arguments], stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _check_alive(process: subprocess.Popen[bytes], log: Path, heard: Heard, started: float) -> None:
    """Checks that the node is on its way.

    Raises:
        LeoEdgeError: it ended, cannot become active, or takes too long.
    """
    status = heard.statuses.get("node")
    if status is not None and status.message.startswith("cannot "):
        raise LeoEdgeError(f"the node {status.message}")
    if process.poll() is not None or time.monotonic() - started > _START_S:
        lines = log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"]
        raise LeoEdgeError(f"the node did not become active: {lines[-1]} (see {log})")


def _summary(heard: Heard) -> str:
    import numpy as np

    after, ages = [], []
    for answer in heard.answers:
        after.append(answer.since_set_ms)
        ages.append(max((camera.age_ms for camera in answer.cameras if camera.name not in answer.missing), default=np.nan))
    late = sum(not answer.deadline_met for answer in heard.answers)
    whole = sum(not answer.missing for answer in heard.answers)
    lines = [f"{len(heard.answers)} answers, {whole} of them about all cameras, {late} late"]
    for name, values in (("answer, since set", after), ("age of the oldest camera", ages)):
        if values:
            p50, p90, p99 = np.percentile(values, (50, 90, 99))
            lines.append(f"{name:<26}p50 {p50:6.1f}   p90 {p90:6.1f}   p99 {p99:6.1f} ms")
    sets = ", ".join(f"{heard.value('frame sets', key)} {key}" for key in ("ready", "answered", "dropped", "partial"))
    memory = heard.value("process", "memory_mb")
    return "\n".join([*lines, f"frame sets: {sets}; the node held {memory} MB"])
