"""`leo-edge build` as a user runs it, on imaginary machines: what it prints, interrupted, and where something is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from leo_edge.cli import main
from leo_edge.runtime.bundle import open_bundle, sha256_of
from leo_edge.runtime.engines import RECORD_NAME, read_record
from tests.conftest import CommandLine, MadeOnce
from tests.doubles.fixtures import InstallMachine, MachineEnvironment
from tests.doubles.machine import TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4
from tests.test_import_rule import PRELUDE

BUILT = ["vision.vit", "fuse", "router", "llm"]
ENGINES = Path("engines", "trt10.3.0-Orin-16mp-sm87")
# Long enough to interrupt: a step of the imaginary build, of which a graph has four.
STEP_S = 0.5


@pytest.fixture
def bundle(tmp_path: Path, micro_bundles: MadeOnce) -> Path:
    return shutil.copytree(micro_bundles["plain"], tmp_path / "bundle")


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


class TestWhatIsSaid:
    @pytest.mark.parametrize("release", [TENSORRT_10_3, TENSORRT_10_16, TENSORRT_11_4])
    def test_progress_goes_to_stderr_and_the_result_to_stdout(
        self, release: str, bundle: Path, edge_machine: InstallMachine, capsys: pytest.CaptureFixture[str]
    ) -> None:
        edge_machine(tensorrt=release)
        assert main(["build", str(bundle)]) == 0
        out, err = capsys.readouterr()
        for name in BUILT:
            assert f"{name}: building (no engine yet)\n" in err
            assert re.search(rf"^{re.escape(name)}: built in [\d.]+ s, [\d.]+ MB$", err, re.M)
            assert re.search(rf"^{re.escape(name)} +[\d.]+ +[\d.]+  built$", out, re.M)
        assert out.splitlines()[-1] == str(bundle / "engines" / f"trt{release}-Orin-16mp-sm87")
        assert "\r" not in err  # no bars where there is no terminal
        assert main(["build", str(bundle)]) == 0
        out, err = capsys.readouterr()
        assert all(f"{name}: reused\n" in err for name in BUILT)
        assert "building" not in err

    def test_json_has_the_record_and_what_was_done_and_why(
        self, bundle: Path, edge_machine: InstallMachine, capsys: pytest.CaptureFixture[str]
    ) -> None:
        edge_machine()
        assert main(["build", str(bundle), "--only", "fuse", "--json"]) == 0
        assert main(["build", str(bundle), "--opt-level", "1", "--only", "fuse", "router", "--json"]) == 0
        _, report = _objects(capsys.readouterr().out)
        graphs = {entry["graph"]: entry for entry in report["graphs"]}
        assert (graphs["fuse"]["built"], graphs["fuse"]["reason"]) == (True, "options changed: opt_level 3 -> 1")
        assert (graphs["router"]["built"], graphs["router"]["reason"]) == (True, "no engine yet")
        assert graphs["router"]["peak"] is None
        assert report["record"] == json.loads((bundle / ENGINES / RECORD_NAME).read_text())
        assert report["record"]["options"]["opt_level"] == 1
        assert report["lint"] == {"target": "jetpack6.2", "findings": []}
        assert report["directory"] == str(bundle / ENGINES)

    def test_options_are_read(self, bundle: Path, edge_machine: InstallMachine) -> None:
        edge_machine()
        given = "--workspace-mb 100 --profile-tiles 1,2,5 --context 300 --camera-size 320x180 --opt-level 0 --timing-cache"
        assert main(["build", str(bundle), *given.split(), str(bundle.parent / "my.cache")]) == 0
        record = read_record(bundle / ENGINES)
        assert record.options == {
            "context": 300,
            "profile_tiles": {"vision.vit": [1, 2, 5]},
            "camera_px": [320, 180],
            "opt_level": 0,
            "workspace_mb": 100,
        }
        assert record.engines["tiles"].profiles[0]["image"] == ((180, 320, 3),) * 3
        assert (bundle.parent / "my.cache").is_file()
        assert "timing.cache" not in files(bundle / ENGINES)


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text, one behind the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


HEARING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from leo_edge.cli import main
sys.exit(main())
"""


def _start(bundle: Path, env: dict[str, str], *options: str) -> subprocess.Popen[str]:
    """Starts a build that hears interrupts, though these tests may run where they are ignored, as in a shell's background."""
    command = [sys.executable, "-c", HEARING, "build", str(bundle), *options]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _until(process: subprocess.Popen[str], line: str) -> str:
    """Reads what a build says until it says this, and returns it."""
    assert process.stderr is not None
    said = ""
    while line not in said:
        read = process.stderr.readline()
        assert read, said
        said += read
    return said


class TestInterrupt:
    @pytest.mark.parametrize("options", [(), ("--safe-memory",)])
    def test_it_ends_at_the_next_step_and_what_was_finished_is_kept(
        self,
        options: tuple[str, ...],
        bundle: Path,
        machine_environment: MachineEnvironment,
        edge_machine: InstallMachine,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        process = _start(bundle, machine_environment(step_seconds=STEP_S), *options)
        _until(process, "fuse: building")
        time.sleep(STEP_S)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        assert "Traceback" not in err
        assert time.monotonic() - began < 30
        assert files(bundle / ENGINES) == {"vision.vit.plan", RECORD_NAME, "timing.cache"}
        spec = read_record(bundle / ENGINES).engines["vision.vit"]
        assert sha256_of(bundle / ENGINES / spec.file) == spec.sha256
        edge_machine()
        assert main(["build", str(bundle)]) == 0
        err = capsys.readouterr().err
        assert "vision.vit: reused\n" in err
        assert "fuse: building (no engine yet)\n" in err

    def test_it_is_heard_in_the_middle_of_a_step(self, bundle: Path, machine_environment: MachineEnvironment) -> None:
        """The negative control: a build that nobody interrupts takes all of its steps."""
        process = _start(bundle, machine_environment(step_seconds=STEP_S), "--only", "fuse")
        _until(process, "fuse: building")
        began = time.monotonic()
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert time.monotonic() - began > 3 * STEP_S
        assert "fuse.plan" in files(bundle / ENGINES)

    def test_a_second_one_ends_it_at_once(self, bundle: Path, machine_environment: MachineEnvironment) -> None:
        process = _start(bundle, machine_environment(step_seconds=60.0), "--only", "fuse")
        _until(process, "fuse: building")
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None  # it waits for TensorRT's step
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == -signal.SIGINT
        assert not (bundle / ENGINES / "fuse.plan").exists()

    def test_a_second_one_ends_a_child_too(self, bundle: Path, machine_environment: MachineEnvironment) -> None:
        process = _start(bundle, machine_environment(step_seconds=60.0), "--only", "fuse", "--safe-memory")
        _until(process, "fuse: building")
        time.sleep(3.0)
        (child,) = _children(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
        assert not Path(f"/proc/{child}").exists()

    def test_a_child_ends_when_nobody_waits_for_it(self, bundle: Path, machine_environment: MachineEnvironment) -> None:
        process = _start(bundle, machine_environment(step_seconds=STEP_S), "--only", "fuse", "--safe-memory")
        _until(process, "fuse: building")
        deadline = time.monotonic() + 30
        while not (found := _children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.communicate(timeout=20)
        while any(_alive(child) for child in found) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found
        assert not any(_alive(child) for child in found)
        assert not (bundle / ENGINES / "fuse.plan").exists()


def _children(pid: int) -> list[int]:
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("faults", "message"),
        [
            (("no-device",), r"no CUDA device here \(no CUDA-capable device is detected\)"),
            (("driver-too-old",), r"no CUDA device here \(CUDA driver version is insufficient"),
            (("no-tensorrt",), "TensorRT's Python package is not installed: on a Jetson it is JetPack's python3-libnvinfer"),
            (("no-libnvinfer",), r"TensorRT misses libnvinfer\.so\.10: install the libraries of the same release"),
            (("no-libnvdla",), r"TensorRT misses libnvdla_compiler\.so, .*: start the container with --runtime nvidia"),
            (("no-cuda-bindings",), r"build needs cuda.*, which is not installed: pip install 'leo_edge\[build\]'"),
            (("build-memory",), "vision.vit: not enough memory: end what else takes memory, or build for less"),
            (("parser",), "vision.vit: TensorRT's parser says"),
        ],
    )
    def test_is_one_line(
        self, faults: tuple[str, ...], message: str, bundle: Path, edge_machine: InstallMachine, error_line: CommandLine
    ) -> None:
        edge_machine(faults=faults)
        assert re.search(message, error_line("build", bundle))
        assert not list((bundle / "engines").rglob("*.plan"))

    def test_without_a_device_tensorrt_is_not_even_imported(
        self, bundle: Path, edge_machine: InstallMachine, error_line: CommandLine
    ) -> None:
        edge_machine(num_devices=0)
        sys.modules.pop("tensorrt", None)
        error_line("build", bundle)
        assert "tensorrt" not in sys.modules

    def test_a_place_to_write_to(self, bundle: Path, edge_machine: InstallMachine, error_line: CommandLine) -> None:
        edge_machine()
        (bundle / "engines").write_text("no directory")
        assert re.search(r"(Not a directory|File exists): .*engines", error_line("build", bundle))
        (bundle / "engines").unlink()
        message = error_line("build", bundle, "--timing-cache", bundle / "absent" / "timing.cache")
        assert re.search(r"No such file or directory: .*absent", message)
        assert not list((bundle / "engines").rglob("*.plan"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_the_right_to_write(self, bundle: Path, edge_machine: InstallMachine, error_line: CommandLine) -> None:
        edge_machine()
        bundle.chmod(0o555)
        assert "Permission denied" in error_line("build", bundle)
        bundle.chmod(0o755)

    def test_a_package(self, bundle: Path, machine_environment: MachineEnvironment) -> None:
        code = PRELUDE + "from leo_edge.cli import main; sys.exit(main(['build', sys.argv[2]]))"
        command = [sys.executable, "-c", code, "onnx_ir", str(bundle)]
        done = subprocess.run(command, env=machine_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "error: build needs onnx_ir, which is not installed: pip install 'leo_edge[build]'\n"

    def test_but_not_torch(self, bundle: Path, machine_environment: MachineEnvironment) -> None:
        """The vehicle has neither torch nor what comes with it. It has no onnxruntime either, but the double is made of it."""
        absent = ["torch", "transformers", "safetensors"]
        code = PRELUDE.replace("sys.argv[1:]", "sys.argv[2:]")
        code += "from leo_edge.cli import main; sys.exit(main(['build', sys.argv[1], '--only', 'fuse']))"
        command = [sys.executable, "-c", code, str(bundle), *absent]
        done = subprocess.run(command, env=machine_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "fuse.plan" in files(bundle / ENGINES)
        control = subprocess.run([sys.executable, "-c", PRELUDE + "import torch", *absent], capture_output=True, check=False)
        assert b"blocked: torch" in control.stderr


class TestWrongUse:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--opt-level", "6"), "--opt-level must be 0 to 5, got 6"),
            (("--workspace-mb", "0"), "--workspace-mb must be at least 1, got 0"),
            (("--profile-tiles", "1,6"), "expected MIN,OPT,MAX, such as 1,6,18, got '1,6'"),
            (("--profile-tiles", "3,2,1"), "--profile-tiles must be least, likeliest and most tiles, ascending from 1"),
            (("--camera-size", "1600"), "expected WIDTHxHEIGHT, such as 1600x900, got '1600'"),
            (("--camera-size", "0x10"), "--camera-size must be at least 1x1 pixels, got 0x10"),
            (("--context", "1"), "--context must be 2 to"),
            (("--only", "nothing"), "--only got 'nothing': this bundle has tiles, vision.vit"),
        ],
    )
    def test_is_one_line(
        self, options: tuple[str, ...], message: str, bundle: Path, edge_machine: InstallMachine, error_line: CommandLine
    ) -> None:
        edge_machine()
        assert message in error_line("build", bundle, *options)
        assert not (bundle / "engines").exists()

    def test_no_bundle(self, tmp_path: Path, edge_machine: InstallMachine, error_line: CommandLine) -> None:
        edge_machine()
        assert "no bundle.json in" in error_line("build", tmp_path)


def test_engines_are_no_part_of_the_bundle(bundle: Path, edge_machine: InstallMachine) -> None:
    """A bundle with engines is the same bundle, and still whole."""
    edge_machine()
    before = open_bundle(bundle).id
    assert main(["build", str(bundle), "--only", "fuse"]) == 0
    assert open_bundle(bundle).id == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("build ")]
