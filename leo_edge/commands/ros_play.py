"""`leo-edge ros-play`: a recorded drive into ROS."""

from __future__ import annotations

import argparse
import os
import signal
import time
from typing import TYPE_CHECKING

from leo_edge.commands.drives import add_drive_arguments, source_options
from leo_edge.commands.progress import say
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.replay.source import Drive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_drive_arguments(parser.add_argument_group("drives"))
    parser.add_argument("--all-frames", action="store_true", help="every camera frame, not the keyframes alone")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="seconds of the drive in one (default 1)")
    parser.add_argument("--clock", action="store_true", help="publish /clock, for nodes with use_sim_time")
    parser.add_argument("--loop", type=int, default=1, metavar="N", help="play N times, 0: until it is stopped (default 1)")
    parser.add_argument("--transport", default="raw", choices=("raw", "compressed"), help="compressed: JPEG (default raw)")
    parser.add_argument("--prefix", default="/leo_edge/input", metavar="TOPIC", help="where the cameras' topics are")
    parser.add_argument(
        "--listeners", type=int, default=1, metavar="N", help="begin when so many listen to every camera (default 1)"
    )
    parser.add_argument("--wait-s", type=float, default=30.0, metavar="S", help="wait for them for so long (default 30)")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.replay.player import check_rate
    from leo_edge.ros_node.process import prepare_process

    check_rate(args.rate)
    if args.loop < 0:
        raise LeoEdgeError(f"--loop must be 0 or more, got {args.loop}")
    source = source_options(args, all_frames=args.all_frames).open()
    drives = [source.drive(name) for name in source.drive_names()]
    prepare_process()
    import rclpy  # after prepare_process: the middleware reads its profile when it is loaded
    from rclpy.signals import SignalHandlerOptions

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        _play(args, drives)
    finally:
        rclpy.try_shutdown()
    return 0


def _play(args: argparse.Namespace, drives: list[Drive]) -> None:
    from rclpy.node import Node

    from leo_edge.ros_node.player import Player, PlayOptions

    node = Node(f"leo_edge_player_{os.getpid()}")
    channels = list(dict.fromkeys(channel for drive in drives for channel in drive.channels))
    options = PlayOptions(args.prefix, args.rate, args.transport == "compressed", args.clock)
    player = Player(node, channels, options)
    if not player.wait_for_listeners(args.listeners, args.wait_s):
        say(f"fewer than {args.listeners} listen to every camera below {args.prefix}: playing all the same")
    rounds = 0
    while args.loop == 0 or rounds < args.loop:
        for drive in drives:
            began = time.monotonic()
            # A recording's frame belongs to every set that was asked about with it; it is published once.
            frames = list({(ref.channel, ref.stamp_ns): ref for ref in drive.frames}.values())
            num = sum(1 for _ in player.play(frames))
            print(f"{drive.name}: {num} frames in {time.monotonic() - began:.1f} s", flush=True)
        rounds += 1
    node.destroy_node()
