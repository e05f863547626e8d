"""Builds leo_edge_msgs into the running virtual environment: `python -m leo_edge.ros_node.build_messages`.

On a vehicle colcon builds it against the distribution's ROS. Here the generators are wheels (the extra `ros`), and what they
make is installed into the environment's own prefix, so nothing needs to be sourced. tf2_msgs has no wheel: of it the one
message that /tf carries is built as well. What was built from the same sources for the same interpreter and wheels is kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from leo_edge.runtime.errors import LeoEdgeError

SOURCES = Path(__file__).parent / "leo_edge_msgs"
STAMP = "built_from.sha256"  # in share/<package>
LOG_LINES = 40
# What must be on PATH, and Debian's package of it.
TOOLS = {"cmake": "cmake", "ninja": "ninja-build", "g++": "g++"}
# The real one holds more; a message's type is known by its own name and fields alone.
TF2_MSGS = {
    "msg/TFMessage.msg": "geometry_msgs/TransformStamped[] transforms\n",
    "package.xml": """<package format="3">
  <name>tf2_msgs</name>
  <version>0.0.0</version>
  <description>TFMessage alone, where no other tf2_msgs is.</description>
  <maintainer email="leo-edge@example.com">leo_edge developers</maintainer>
  <license>BSD</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>geometry_msgs</depend>
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
""",
    "CMakeLists.txt": """cmake_minimum_required(VERSION 3.16)
project(tf2_msgs)
find_package(ament_cmake REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${PROJECT_NAME} "msg/TFMessage.msg" DEPENDENCIES geometry_msgs)
ament_export_dependencies(rosidl_default_runtime)
ament_package()
""",
}


class MessageBuildError(LeoEdgeError):
    """The messages cannot be built. `log` is the end of what the failed tool said, if one ran."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def main() -> int:
    """Builds what is not built yet and returns an exit code: 0, or 2 after one `error:` line."""
    try:
        build_all(Path(sys.prefix))
    except MessageBuildError as error:
        if error.log:
            print(error.log, file=sys.stderr)
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def build_all(prefix: Path) -> None:
    """Builds leo_edge_msgs and, where nothing else brings it, tf2_msgs into `prefix`, a virtual environment.

    Raises:
        MessageBuildError: Something that is needed is missing, or the build failed.
    """
    if sys.prefix == sys.base_prefix:
        raise MessageBuildError(
            f"got the interpreter of the system ({sys.prefix}), expected one of a virtual environment, into which the messages "
            "are installed: activate one, or build leo_edge_msgs with colcon"
        )
    mend_include_paths(prefix)  # also where all is built: colcon reads the same files
    with tempfile.TemporaryDirectory(prefix="leo_edge_msgs-") as temporary:
        work = Path(temporary)
        packages = [SOURCES]
        if (prefix / "share" / "tf2_msgs" / STAMP).is_file() or importlib.util.find_spec("tf2_msgs") is None:
            packages.append(write_package(work / "tf2_msgs", TF2_MSGS))
        for source in packages:
            _check_wheels(source, prefix)
            stamp, digest = prefix / "share" / source.name / STAMP, digest_of(source, prefix)
            if stamp.is_file() and stamp.read_text() == digest:
                print(f"{source.name}: built already")
                continue
            _check_tools()
            stamp.unlink(missing_ok=True)  # what is half installed counts as not built
            build(source, work / f"build-{source.name}", prefix)
            stamp.write_text(digest)
            print(f"{source.name}: built into {prefix}")


def write_package(folder: Path, files: Mapping[str, str]) -> Path:
    """Writes `files`, text by relative path, and returns `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def digest_of(source: Path, prefix: Path) -> str:
    """Returns a hash of all that the result depends on: sources, interpreter, numpy, and the versions of the wheels."""
    digest = hashlib.sha256(f"{sysconfig.get_config_var('EXT_SUFFIX')} {np.__version__}".encode())
    files = {str(path.relative_to(source)): path for path in source.rglob("*") if path.is_file()}
    files |= {name: prefix / "share" / name / "package.xml" for name in build_dependencies(source)}
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def build_dependencies(source: Path) -> list[str]:
    """Returns the packages that package.xml names as needed to build."""
    package = ElementTree.parse(source / "package.xml").getroot()
    return [depend.text or "" for tag in ("buildtool_depend", "depend") for depend in package.iter(tag)]


def mend_include_paths(prefix: Path) -> None:
    """Points the wheels' CMake files to the headers of this interpreter and this numpy: they hold those of their builder."""
    headers = {
        r'[^";]*/include/python3\.\d+': sysconfig.get_path("include"),
        r'[^";]*/numpy/(?:_core|core)/include': np.get_include(),
    }
    for path in prefix.glob("share/*/cmake/*__rosidl_generator_pyExport.cmake"):
        text = mended = path.read_text()
        for baked, here in headers.items():
            mended = re.sub(baked, here.replace("\\", r"\\"), mended)
        if mended != text:
            # A new file in its place: an installer may have linked this one to a cache that others share.
            replacement = path.with_suffix(".new")
            replacement.write_text(mended)
            replacement.replace(path)


def build(source: Path, folder: Path, prefix: Path) -> None:
    """Configures, builds and installs one package with CMake and Ninja, in `folder`."""
    configure = [
        *("cmake", "-G", "Ninja", "-S", str(source), "-B", str(folder)),
        *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", f"-DCMAKE_INSTALL_PREFIX={prefix}"),
        f"-DPython3_EXECUTABLE={sys.executable}",
        # Debian's Python would have it in dist-packages, which a virtual environment does not read.
        f"-DPYTHON_INSTALL_DIR={os.path.relpath(sysconfig.get_path('purelib'), sys.prefix)}",
    ]
    environment = os.environ | {"AMENT_PREFIX_PATH": str(prefix), "CMAKE_PREFIX_PATH": str(prefix), "PATH": _search_path()}
    environment.pop("PYTHONPATH", None)  # generators of a ROS that was sourced
    for command in (configure, ["cmake", "--build", str(folder), "--target", "install"]):
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            raise MessageBuildError(
                f"building {source.name} failed: got exit status {done.returncode} from `{' '.join(command[:3])}`, expected 0: "
                "see the end of its log above; ROS wheels of two distributions in one environment fail like this, "
                "a constraints-<distribution>.txt keeps them apart",
                log="\n".join(done.stdout.splitlines()[-LOG_LINES:]),
            )


def _check_wheels(source: Path, prefix: Path) -> None:
    needed = build_dependencies(source)
    missing = [name for name in needed if not (prefix / "share" / name / "cmake" / f"{name}Config.cmake").is_file()]
    if importlib.util.find_spec("catkin_pkg") is None:
        missing.append("catkin_pkg")
    if missing:
        raise MessageBuildError(
            f"got no {', '.join(missing)} in {prefix}, expected the wheels of ROS, which build {source.name}: "
            "pip install 'leo_edge[ros]', or, with ROS from the distribution's packages, use colcon build"
        )


def _check_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool, path=_search_path()) is None]
    if missing:
        packages = " ".join(TOOLS[tool] for tool in missing)
        raise MessageBuildError(f"got no {', '.join(missing)} on PATH, expected {', '.join(TOOLS)}: apt-get install {packages}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise MessageBuildError(f"got no {header}, expected the headers of Python: apt-get install python{version}-dev")


def _search_path() -> str:
    """PATH with the environment's own programs first, as if it was activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


if __name__ == "__main__":
    sys.exit(main())
