"""`leo-edge ros BUNDLE`: the ROS 2 node, without a ROS launch."""

from __future__ import annotations

import argparse
from pathlib import Path

from leo_edge.runtime.errors import LeoEdgeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="parameters, as ROS reads them")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="parameters; they win over the file's")
    parser.add_argument("--namespace", default="", metavar="NS", help="of the node's topics")
    parser.add_argument("--use-sim-time", action="store_true", help="time comes from /clock")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warn", "error", "fatal"))
    parser.add_argument("--remap", nargs="+", default=[], metavar="FROM:=TO", help="other names for topics and services")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from leo_edge.ros_node.main import main

    return main(ros_arguments(args))


def ros_arguments(args: argparse.Namespace) -> list[str]:
    """Returns the node's command line. A parameter is named with its node: else an entry for the node in a file would win.

    Raises:
        LeoEdgeError: an option is not as ROS wants it.
    """
    given = ["leo-edge", "--ros-args", "--log-level", args.log_level]
    if args.params_file is not None:
        if not args.params_file.is_file():
            raise LeoEdgeError(f"no parameter file {args.params_file}: check the path")
        given += ["--params-file", str(args.params_file)]
    pairs = [("bundle", str(args.bundle.absolute())), *(_pair(entry) for entry in args.set)]
    if args.use_sim_time:
        pairs.append(("use_sim_time", "true"))
    for name, value in pairs:
        given += ["-p", f"leo_edge:{name}:={value}"]
    if args.namespace:
        given += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
    for rule in args.remap:
        if ":=" not in rule:
            raise LeoEdgeError(f"--remap got {rule!r}: expected FROM:=TO")
        given += ["-r", rule]
    return given


def _pair(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not (name and equals):
        raise LeoEdgeError(f"--set got {entry!r}: expected NAME=VALUE, such as deadline_ms=500")
    return name, value
