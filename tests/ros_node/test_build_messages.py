"""Building the messages: what is missing is named, what is built is kept. CMake is a stand-in; `make env` runs the real one."""

import os
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from leo_edge.ros_node import build_messages
from leo_edge.ros_node.build_messages import (
    MessageBuildError,
    build_all,
    build_dependencies,
    digest_of,
    mend_include_paths,
    write_package,
)

FAKE_CMAKE = """#!/bin/sh
echo "$@" >> "{calls}"
echo "CMake Error: no such generator"
exit {status}
"""
EXPORT = 'set_target_properties(x PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "{}")\n'


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that has the wheels, as far as they are looked at, and no program at all."""
    home = tmp_path / "venv"
    for name in ("ament_cmake", "rosidl_default_generators", "builtin_interfaces", "std_msgs", "geometry_msgs"):
        write_package(home / "share" / name, {"package.xml": "<package/>", f"cmake/{name}Config.cmake": ""})
    for name in ("leo_edge_msgs", "tf2_msgs"):
        (home / "share" / name).mkdir()
    (home / "share" / "tf2_msgs" / build_messages.STAMP).write_text("of an older one")
    (home / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    monkeypatch.setenv("PATH", str(home / "bin"))
    pytest.importorskip("catkin_pkg")
    return home


def install_tools(prefix: Path, status: int) -> Path:
    """Puts tools into `prefix` whose cmake ends with `status`, and returns the file that lists its calls."""
    calls = prefix / "calls"
    calls.touch()
    for tool in build_messages.TOOLS:
        program = prefix / "bin" / tool
        program.write_text(FAKE_CMAKE.format(calls=calls, status=status))
        program.chmod(0o755)
    return calls


def test_missing_wheels_are_named(tmp_path: Path) -> None:
    with pytest.raises(MessageBuildError, match=r"got no ament_cmake, .*, expected the wheels .*'leo_edge\[ros\]'"):
        build_all(tmp_path)


def test_missing_tools_are_named(prefix: Path) -> None:
    with pytest.raises(
        MessageBuildError, match=r"got no cmake, ninja, g\+\+ on PATH, .* apt-get install cmake ninja-build g\+\+"
    ):
        build_all(prefix)


def test_interpreter_of_the_system_is_refused(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(MessageBuildError, match="expected one of a virtual environment"):
        build_all(prefix)


def test_failed_build_shows_its_log_and_one_error_line(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_tools(prefix, status=1)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    assert build_messages.main() == 2
    *log, error = capsys.readouterr().err.splitlines()
    assert log == ["CMake Error: no such generator"]
    assert error.startswith("error: building leo_edge_msgs failed: got exit status 1 from `cmake -G Ninja`")


def test_failed_build_counts_as_not_built(prefix: Path) -> None:
    install_tools(prefix, status=0)
    build_all(prefix)
    (prefix / "share" / "std_msgs" / "package.xml").write_text("<package>newer</package>")
    install_tools(prefix, status=1)
    with pytest.raises(MessageBuildError):
        build_all(prefix)
    assert not (prefix / "share" / "leo_edge_msgs" / build_messages.STAMP).exists()


def test_what_is_built_from_the_same_is_kept(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = install_tools(prefix, status=0)
    build_all(prefix)
    assert calls.read_text().count("--target install") == 2
    assert f"-DCMAKE_INSTALL_PREFIX={prefix}" in calls.read_text()
    capsys.readouterr()
    build_all(prefix)
    assert calls.read_text().count("--target install") == 2
    assert capsys.readouterr().out.splitlines() == ["leo_edge_msgs: built already", "tf2_msgs: built already"]


def test_another_tf2_msgs_is_left_alone(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix / "share" / "tf2_msgs" / build_messages.STAMP).unlink()
    write_package(prefix / "site" / "tf2_msgs", {"__init__.py": ""})
    monkeypatch.syspath_prepend(str(prefix / "site"))
    calls = install_tools(prefix, status=0)
    build_all(prefix)
    assert calls.read_text().count("--target install") == 1


def test_digest_knows_sources_and_wheels(prefix: Path, tmp_path: Path) -> None:
    source = write_package(tmp_path / "tf2_msgs", build_messages.TF2_MSGS)
    assert build_dependencies(source) == ["ament_cmake", "rosidl_default_generators", "geometry_msgs"]
    seen = {digest_of(source, prefix), digest_of(source, prefix)}
    assert len(seen) == 1
    (source / "msg" / "TFMessage.msg").write_text("geometry_msgs/TransformStamped[] others\n")
    seen.add(digest_of(source, prefix))
    (prefix / "share" / "geometry_msgs" / "package.xml").write_text("<package>newer</package>")
    seen.add(digest_of(source, prefix))
    assert len(seen) == 3


def test_include_paths_become_those_of_this_interpreter(tmp_path: Path) -> None:
    home = tmp_path / "share" / "std_msgs" / "cmake"
    builders = (
        "/opt/python/cp311-cp311/include/python3.11;/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    )
    name = "export_std_msgs__rosidl_generator_pyExport.cmake"
    write_package(home, {name: EXPORT.format(builders), "other.cmake": EXPORT.format(builders)})
    cached = tmp_path / "cached"
    os.link(home / name, cached)
    mend_include_paths(tmp_path)
    mended = EXPORT.format(f"{sysconfig.get_path('include')};{np.get_include()}")
    assert (home / name).read_text() == mended
    assert (home / "other.cmake").read_text() == cached.read_text() == EXPORT.format(builders)
    mend_include_paths(tmp_path)
    assert (home / name).read_text() == mended
