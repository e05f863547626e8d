"""What a vehicle does: `colcon build` of leo_edge and leo_edge_msgs, and a shell that sources the result.

ROS itself comes from the wheels in this environment. colcon looks for no package inside another: --base-paths names both.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "install", "log", "dist", "out", "*.egg-info", "__pycache__", "tests")
PREFIX = Path(sys.prefix)
PROGRAMS = Path(sys.executable).parent
# Where they come from, and that messages go through the built libraries.
IMPORT = """
import leo_edge.ros_node, leo_edge_msgs.msg
from rclpy.serialization import deserialize_message, serialize_message

sent = leo_edge_msgs.msg.SceneAnswer(answer="Yes.")
assert deserialize_message(serialize_message(sent), type(sent)) == sent
print(leo_edge.ros_node.__file__, leo_edge_msgs.__file__, sep="\\n")
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[(), ("--symlink-install",)], ids=["copies", "links"])
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree with both packages built into its install/."""
    pytest.importorskip("colcon_core")
    pytest.importorskip("ament_package", reason="no ROS: pip install 'leo_edge[ros]'")
    source = tmp_path_factory.mktemp("workspace") / "leo_edge"
    shutil.copytree(ROOT, source, symlinks=True, ignore=NOT_SOURCE)
    cmake = ["--cmake-args", "-G", "Ninja", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={sys.executable}"]
    run("colcon", "build", "--base-paths", ".", "ros_node/leo_edge_msgs", *request.param, *cmake, cwd=source)
    return source


def run(*command: str, cwd: Path) -> str:
    """Runs a program as if this environment was sourced, and returns what it printed."""
    environment = os.environ | {
        "AMENT_PREFIX_PATH": str(PREFIX),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]),
    }
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_sourced_shell_imports_both_packages_from_the_workspace(workspace: Path, tmp_path: Path) -> None:
    # Not in the workspace: there `import leo_edge` would find the sources.
    shell = f'source "{workspace}/install/setup.bash" && exec python -c "$1"'
    files = run("bash", "-c", shell, "bash", IMPORT, cwd=tmp_path).split()
    assert [Path(file).is_relative_to(workspace) for file in files] == [True, True], files


def test_without_sourcing_the_packages_come_from_elsewhere(workspace: Path, tmp_path: Path) -> None:
    """The negative control."""
    result = subprocess.run([sys.executable, "-c", IMPORT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert str(workspace) not in result.stdout


def test_node_is_where_ros2_run_looks(workspace: Path) -> None:
    assert os.access(workspace / "install" / "leo_edge" / "lib" / "leo_edge" / "leo_edge_node", os.X_OK)


@pytest.mark.parametrize("folder", ["config", "launch"])
def test_launch_files_and_parameters_are_shared(workspace: Path, folder: str) -> None:
    shared = workspace / "install" / "leo_edge" / "share" / "leo_edge" / folder
    names = {path.name for path in (ROOT / "ros_node" / folder).iterdir() if path.suffix in {".py", ".xml", ".yaml"}}
    assert {path.name for path in shared.iterdir()} == names
    assert all(path.is_file() for path in shared.iterdir())


def test_sources_are_shared_with_the_package_index_of_ament(workspace: Path) -> None:
    for package in ("leo_edge", "leo_edge_msgs"):
        share = workspace / "install" / package / "share"
        assert (share / package / "package.xml").is_file()
        assert (share / "ament_index" / "resource_index" / "packages" / package).is_file()
