"""ros_node/process.py: what is set before the middleware is loaded, and what is not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leo_edge.ros_node import process
from leo_edge.ros_node.process import FAST_DDS_PROFILE, prepare_process, profile_variable
from leo_edge.runtime.errors import LeoEdgeError

NEW, OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (NEW, OLD):
        monkeypatch.setenv(variable, "")  # so that what the test sets is taken back
        monkeypatch.delenv(variable)
    monkeypatch.setattr(process, "find_spec", lambda _: object())


def installed(root: Path, version: str) -> str:
    folder = root / "share" / "rmw_fastrtps_cpp"
    folder.mkdir(parents=True)
    (folder / "package.xml").write_text(f"<package><version>{version}</version></package>")
    return str(root)


@pytest.mark.parametrize(("version", "variable"), [("9.3.3", NEW), ("10.0.0", NEW), ("8.4.3", OLD), ("6.2.7", OLD)])
def test_the_profile_is_named_as_the_installed_middleware_reads_it(
    version: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", installed(tmp_path, version))
    assert profile_variable() == variable
    prepare_process()
    assert {name: os.environ.get(name) for name in (NEW, OLD)} == {NEW: None, OLD: None} | {variable: str(FAST_DDS_PROFILE)}


@pytest.mark.parametrize("variable", [NEW, OLD])
def test_a_profile_of_the_user_is_left_alone(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/my/own.xml")
    prepare_process()
    assert os.environ[variable] == "/my/own.xml"
    assert len({NEW, OLD} & set(os.environ)) == 1


def test_messages_that_are_not_built_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None if name == "leo_edge_msgs" else object())
    with pytest.raises(LeoEdgeError, match="leo_edge_msgs, are not built: colcon build"):
        prepare_process()


ALLOCATE = """
import ctypes, threading
{prepare}
libc = ctypes.CDLL(None)
together = threading.Barrier(8)

def allocate():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc's malloc alone has arenas")
def test_threads_share_two_arenas() -> None:
    def num_arenas(prepare: str) -> int:
        command = [sys.executable, "-c", ALLOCATE.format(prepare=prepare)]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.count("<heap nr=")

    assert num_arenas("") > 4
    assert num_arenas("from leo_edge.ros_node.process import prepare_process; prepare_process()") == 2
