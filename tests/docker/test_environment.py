"""The steps of the images that can be done here for real: the Python environment, the messages, the demo's bundle and drive."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import MadeOnce
from tests.docker.parts import DOCKER, ROOT, SCRIPTS, attempt, run

NOT_SOURCE = shutil.ignore_patterns(".*", "build", "install", "log", "dist", "out", "*.egg-info", "__pycache__", "tests")
OUT_OF_REACH = ("No matching distribution found", "Could not fetch", "Temporary failure", "Connection")
PREFIX = Path(sys.prefix)
# What is imported from where, and that a command is there.
WHERE = "import importlib.util as u, leo_edge; print(leo_edge.__file__, u.find_spec('torch'), u.find_spec('tensorrt'))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project: pip builds in it."""
    copy = tmp_path_factory.mktemp("source") / "leo_edge"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=NOT_SOURCE)
    return copy


def install(source: Path, home: Path, *options: str | Path) -> Path:
    """Makes home/venv with the script, from an interpreter without this environment's packages; returns it."""
    venv = home / "venv"
    interpreter = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    script = SCRIPTS / "install-python.sh"
    done = attempt(script, source, venv, *options, environment={"PYTHON": str(interpreter), "PYTHONPATH": ""})
    if done.returncode and any(sign in done.stderr for sign in OUT_OF_REACH):
        pytest.skip(f"the package index is out of reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return venv


@pytest.fixture(scope="module")
def bare(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bare runtime, without any extra."""
    return install(source, tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def vehicle(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image of JetPack 7.2 gets, on this machine."""
    constraints = DOCKER / "constraints-python3.12.txt"
    return install(source, tmp_path_factory.mktemp("vehicle"), "--extras", "trt,build,ort", "--constraints", constraints)


def leo_edge(venv: Path, *words: str | Path) -> tuple[int, str, str]:
    """Runs leo-edge as the image does, by the entrypoint; returns its exit code and what it said."""
    home = {"LEO_EDGE_HOME": str(venv.parent), "PYTHONPATH": "", "AMENT_PREFIX_PATH": ""}
    done = attempt(DOCKER / "entrypoint.sh", "leo-edge", *words, environment=home, cwd=venv.parent)
    return done.returncode, done.stdout, done.stderr


def test_bare_runtime_runs_without_torch(bare: Path) -> None:
    code, out, err = leo_edge(bare, "--version")
    assert (code, err) == (0, "")
    assert out.startswith("leo_edge ")
    file, torch, tensorrt = run(bare / "bin" / "python", "-I", "-c", WHERE).split()
    assert Path(file).is_relative_to(bare)
    assert (torch, tensorrt) == ("None", "None")


def test_torch_is_found_where_it_is() -> None:
    """The negative control."""
    pytest.importorskip("torch")
    assert "None" not in run(sys.executable, "-c", WHERE).split()[1]


def test_bare_runtime_has_no_engine_and_says_what_brings_one(bare: Path, tmp_path: Path) -> None:
    """Before it looks at the bundle."""
    (tmp_path / "a.ppm").write_text("P6 1 1 255\nabc")
    words = ("--images", f"A={tmp_path / 'a.ppm'}", "--cameras", "A", "--question", "What?")
    code, _, err = leo_edge(bare, "run", tmp_path / "bundle", *words)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert "leo_edge[ort]" in err


def test_node_is_where_ros2_launch_looks(bare: Path) -> None:
    program = bare / "lib" / "leo_edge" / "leo_edge_node"
    assert os.access(program, os.X_OK)
    assert program.resolve().is_relative_to(bare)
    if importlib.util.find_spec("ament_index_python") is not None:
        found = "from ament_index_python import get_package_prefix as p; print(p('leo_edge'))"
        assert run(sys.executable, "-c", found, environment={"AMENT_PREFIX_PATH": str(bare)}).strip() == str(bare)


def test_launch_files_find_leo_edge_in_the_system_s_python(bare: Path) -> None:
    """ros2 runs in that, and so do launch files; they import no more than this."""
    system = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    code = "import leo_edge.ros_node.process as p; print(p.__file__)"
    clean = {"PYTHONPATH": "", "LEO_EDGE_HOME": str(bare.parent)}
    assert Path(run(DOCKER / "entrypoint.sh", system, "-c", code, environment=clean, cwd=bare).strip()).is_relative_to(bare)
    assert "ModuleNotFoundError" in attempt(system, "-c", code, environment=clean, cwd=bare).stderr  # the negative control


def test_second_run_keeps_what_is_there(source: Path, bare: Path) -> None:
    before = (bare / "pyvenv.cfg").stat().st_mtime_ns
    install(source, bare.parent)
    assert (bare / "pyvenv.cfg").stat().st_mtime_ns == before
    assert leo_edge(bare, "--version")[0] == 0


@pytest.mark.slow
def test_vehicle_lints_and_answers_without_torch(vehicle: Path, tiny_bundles: MadeOnce, tmp_path: Path) -> None:
    assert run(vehicle / "bin" / "python", "-I", "-c", WHERE).split()[1] == "None"
    bundle = tiny_bundles["leo-mini-tiny"]
    code, out, err = leo_edge(vehicle, "lint", bundle)
    assert code == 0, out + err
    (tmp_path / "a.ppm").write_text("P6 1 1 255\nabc")
    words = ("--images", f"A={tmp_path / 'a.ppm'}", "--cameras", "A", "--question", "What?", "--max-new-tokens", "2", "--json")
    code, out, err = leo_edge(vehicle, "run", bundle, *words)
    assert code == 0, err
    assert '"token_ids"' in out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "device-check"])
def test_building_engines_lacks_a_device_here_and_nothing_else(command: str, vehicle: Path, tiny_bundles: MadeOnce) -> None:
    """Its packages are all there: what it says is about TensorRT or the device, which are the host's."""
    code, _, err = leo_edge(vehicle, command, tiny_bundles["leo-mini-tiny"])
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "TensorRT's Python package" in last or "CUDA device" in last


@pytest.mark.slow
def test_what_building_and_checking_import_is_there(vehicle: Path) -> None:
    """Beyond the first error: the modules that come after a device was found. TensorRT's own bindings are the host's."""
    modules = ("export.build", "export.build_process", "export.device_check", "export.lint.lint", "runtime.cuda")
    run(vehicle / "bin" / "python", "-I", "-c", "\n".join(f"import leo_edge.{module}" for module in modules))
    done = attempt(vehicle / "bin" / "python", "-I", "-c", "import leo_edge.export.exporter")
    assert "ModuleNotFoundError" in done.stderr  # the negative control


@pytest.mark.slow
def test_messages_are_built_by_colcon_and_found_by_the_entrypoint(tmp_path: Path) -> None:
    """With ROS from wheels in place of /opt/ros, so CMake is told which Python."""
    pytest.importorskip("colcon_core")
    pytest.importorskip("ament_package", reason="no ROS: pip install 'leo_edge[ros]'")
    environment = {
        "AMENT_PREFIX_PATH": str(PREFIX),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "PATH": os.pathsep.join([str(PREFIX / "bin"), os.environ["PATH"]]),
    }
    cmake = ["--", "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}"]
    messages = tmp_path / "messages"
    run(SCRIPTS / "build-messages.sh", "colcon", ROOT, messages, *cmake, environment=environment, cwd=tmp_path)
    file = run(
        DOCKER / "entrypoint.sh",
        *("python", "-c", "import leo_edge_msgs.msg; print(leo_edge_msgs.__file__)"),
        environment=environment | {"LEO_EDGE_HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert Path(file.strip()).is_relative_to(messages)
    assert {path.name for path in tmp_path.iterdir()} == {"messages"}


@pytest.mark.slow
def test_demo_of_the_image_is_made_and_replayed(tmp_path: Path) -> None:
    """What cpu.Dockerfile does, with this environment and a short drive; a second run keeps what is there."""
    (tmp_path / "venv").symlink_to(PREFIX)
    demo = tmp_path / "demo"
    script = (SCRIPTS / "make-demo.sh", PREFIX, demo)
    said = run(*script, environment={"SECONDS_OF_DRIVE": "1"})
    assert f"{demo}/bundle" in said
    assert run(*script).count("leo-edge") == 0
    questions = demo / "drive" / "questions" / "val.json"
    words = ("replay", demo / "bundle", "--nuscenes", demo / "drive", "--questions", questions, "--out", tmp_path / "replay")
    code, out, err = leo_edge(tmp_path / "venv", *words)
    assert code == 0, err
    assert "mean of types" in out
