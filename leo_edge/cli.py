"""The command line: `leo-edge COMMAND`.

Exit codes: 0 done and passed, 1 a check failed, 2 wrong use or bad input. An expected failure prints one `error:` line. What
only one command needs is imported when that command runs: the vehicle has no torch.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from leo_edge import __version__
from leo_edge.commands import (
    bench,
    budget,
    budget_self_test,
    build,
    calibrate,
    checkpoint,
    demo,
    device_check,
    export,
    inspect_bundle,
    lint,
    plan,
    quantize,
    replay,
    replay_diff,
    ros,
    ros_play,
    ros_record,
    run,
    sensitivity,
    verify,
)
from leo_edge.runtime.errors import LeoEdgeError


class Command(Protocol):
    """What a module of `leo_edge.commands` has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Runs the command and returns its exit code."""


COMMANDS: dict[str, tuple[Command, str]] = {
    "checkpoint": (checkpoint, "write a checkpoint with random weights"),
    "export": (export, "turn a checkpoint into a bundle"),
    "verify": (verify, "compare a bundle with its checkpoint, or a quantized one with its float bundle"),
    "calibrate": (calibrate, "observe a float bundle on real questions, for `quantize`"),
    "inspect": (inspect_bundle, "say what is in a bundle, and what it costs"),
    "sensitivity": (sensitivity, "say what quantizing each layer alone does to the answers"),
    "quantize": (quantize, "turn a float bundle and its calibration table into an INT8 bundle"),
    "lint": (lint, "say what TensorRT would refuse of a bundle, before it is built on the device"),
    "build": (build, "build the TensorRT engines of a bundle, on the device that will run them"),
    "device-check": (device_check, "compare this device with onnxruntime on the CPU, stage by stage"),
    "run": (run, "answer questions about camera images"),
    "replay": (replay, "play recorded drives through a bundle: answers, scores, a report"),
    "bench": (bench, "measure how long each stage takes, alone or in turns with another bundle or command"),
    "budget": (budget, "hold a benchmark's result against limits, and against an earlier result"),
    "budget-self-test": (budget_self_test, "measure how often `budget` errs on this machine: false alarms, slips not seen"),
    "plan": (plan, "predict what a bundle will take on a device, and find what meets a deadline"),
    "replay-diff": (replay_diff, "compare two replay runs, answer by answer"),
    "ros": (ros, "run the ROS 2 node: cameras in, answers out"),
    "ros-play": (ros_play, "play recorded drives into ROS 2"),
    "ros-record": (ros_record, "record cameras and answers to a rosbag2"),
    "demo": (demo, "the drawn world, and the tiny model that was trained in it"),
}
EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130
# Packages that come with an extra, by the name they are imported under.
_EXTRAS = {
    "torch": "export",
    "transformers": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "tqdm": "export",
    "nuscenes": "replay",
    "nltk": "replay",
    "jinja2": "replay",
    "cv2": "replay",
    "rosbags": "replay",
    "ray": "ray",
    "rerun": "rerun",
    "onnxruntime": "ort",
    "tensorrt": "trt",
    "cuda": "trt",
    "rclpy": "ros",
}
# Commands of the vehicle computer, which has no torch: all that they need of the above comes with this extra.
_VEHICLE = {"build": "build", "device-check": "trt"}
# OpenCV and its FFmpeg tell of broken files on stderr themselves; the `error:` line is enough.
_SILENT = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding does not
    for variable, silent in _SILENT.items():
        os.environ.setdefault(variable, silent)
    args = build_parser().parse_args(argv)
    command, _ = COMMANDS[args.command]
    try:
        return command.run(args)
    except LeoEdgeError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        extra = _VEHICLE.get(args.command, extra)
        return _fail(f"{args.command} needs {error.name}, which is not installed: pip install 'leo_edge[{extra}]'")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: not an error
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = _Parser(
        prog="leo-edge", description="LEO and LEO-MINI, vision-language models for driving, on the vehicle computer."
    )
    parser.add_argument("--version", action="version", version=f"leo_edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (command, summary) in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."))
    return parser


class _Parser(argparse.ArgumentParser):
    """Prints wrong use as one `error:` line too; `-h` shows the usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(_fail(f"{message} (see {self.prog} -h)"))


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_BAD_INPUT
