"""`leo-edge ros-record OUT`: cameras and answers to a rosbag2."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path

from leo_edge.commands.progress import say
from leo_edge.runtime.errors import LeoEdgeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the new bag")
    parser.add_argument(
        "--topics", nargs="+", metavar="REGEX", help="whole names (default: inputs and outputs of /leo_edge, diagnostics, time)"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after so long (default: when interrupted)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.ros_node.process import prepare_process

    if args.seconds is not None and args.seconds <= 0:
        raise LeoEdgeError(f"--seconds must be above 0, got {args.seconds:g}")
    prepare_process()
    import rclpy  # after prepare_process: the middleware reads its profile when it is loaded
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        _record(args)
    finally:
        rclpy.try_shutdown()
    return 0


def _record(args: argparse.Namespace) -> None:
    """Records until it is time or interrupted, and closes the bag whatever happens."""
    from rclpy.node import Node

    from leo_edge.ros_node.recorder import DEFAULT_TOPICS, Recorder

    node = Node(f"leo_edge_recorder_{os.getpid()}", start_parameter_services=False)
    recorder = Recorder(node, args.out, args.topics or DEFAULT_TOPICS)
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: interrupted.set())
    end = None if args.seconds is None else time.monotonic() + args.seconds
    say(f"recording to {args.out}" + (", until interrupted" if end is None else f", for {args.seconds:g} s"))
    try:
        recorder.run_until(lambda: interrupted.is_set() or (end is not None and time.monotonic() >= end))
    finally:
        recorder.close()
        node.destroy_node()
    for topic, recorded in sorted(recorder.topics.items()):
        print(f"{recorded.count:>8}  {topic}" + (f", {recorded.lost} lost" if recorded.lost else ""))
    print(f"bag: {args.out}", flush=True)
