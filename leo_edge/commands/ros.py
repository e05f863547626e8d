"""`leo-edge ros BUNDLE`: the ROS 2 node, without a ROS launch."""

from __future__ import annotations

import argparse
import json
import tempfile
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

    with tempfile.TemporaryDirectory(prefix="leo_edge_") as folder:
        return main(ros_arguments(args, Path(folder) / "options.param.yaml"))


def ros_arguments(args: argparse.Namespace, options_file: Path) -> list[str]:
    """Returns the node's command line.

    Parameters go by a file under the node's whole name: only so they win over an entry for the node in the user's file, and
    reach a node in a namespace.

    Raises:
        LeoEdgeError: an option is not as ROS wants it.
    """
    given = ["leo-edge", "--ros-args", "--log-level", args.log_level]
    if args.params_file is not None:
        if not args.params_file.is_file():
            raise LeoEdgeError(f"no parameter file {args.params_file}: check the path")
        given += ["--params-file", str(args.params_file)]
    namespace = args.namespace.strip("/")
    pairs = [("bundle", json.dumps(str(args.bundle.absolute()))), *(_pair(entry) for entry in args.set)]
    if args.use_sim_time:
        pairs.append(("use_sim_time", "true"))
    lines = [f"/{namespace}/leo_edge:" if namespace else "/leo_edge:", "  ros__parameters:"]
    lines += [f"    {name}: {value}" for name, value in pairs]
    options_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    given += ["--params-file", str(options_file)]
    if namespace:
        given += ["-r", f"__ns:=/{namespace}"]
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
