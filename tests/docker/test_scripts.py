"""The scripts of docker/: what they refuse, what they would do, and what they do where that is possible here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.parts import DOCKER, ROOT, SCRIPTS, attempt, run

ENTRYPOINT = DOCKER / "entrypoint.sh"
RUNNABLE = sorted(path for path in SCRIPTS.glob("*.sh") if path.name != "steps.sh")
JETSON = ("jetson/r36.4", "10.3.0.30-1+cuda12.5", "12-6")


def refusal(*command: str | Path) -> str:
    """Runs a script with bad input: exit code 2, and one `error:` line, which it returns."""
    done = attempt(*command)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.name)
def test_help_shows_the_arguments(script: Path) -> None:
    said = run(script, "-h")
    assert f"{script.name} " in said
    assert "set -euo" not in said


@pytest.mark.parametrize("script", RUNNABLE, ids=lambda path: path.name)
def test_call_without_arguments_is_refused_with_what_is_expected(script: Path) -> None:
    assert "expected" in refusal(script)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("install-ros.sh", "run", "kilted"), "expected humble or jazzy"),
        (("install-ros.sh", "walk", "humble"), "expected run|build DISTRIBUTION"),
        (("install-tensorrt.sh", JETSON[0], "10.3", "12-6"), "expected one like 10.3.0.30-1+cuda12.5"),
        (("install-tensorrt.sh", JETSON[0], JETSON[1], "12.6"), "expected one like 12-6"),
        (("install-tensorrt.sh", "cuda/debian12/x86_64", JETSON[1], "12-6", "--dry-run"), "expected cuda/ and one of"),
        (("install-tensorrt.sh", "tegra/r36.4", JETSON[1], "12-6", "--dry-run"), "expected jetson/<release> or cuda/"),
        (("install-python.sh", "/nowhere", "/tmp/venv"), "no leo_edge in /nowhere"),
        (("install-python.sh", str(ROOT), "/tmp/venv", "--extra", "ort"), "got --extra"),
        (("install-python.sh", str(ROOT), "/tmp/venv", "--extras"), "--extras needs a value"),
        (("build-messages.sh", "colcon", "/nowhere", "/tmp/messages"), "no messages in /nowhere"),
        (("build-messages.sh", "wheels", "/nowhere"), "no virtual environment in /nowhere"),
        (("make-demo.sh", "/nowhere", "/tmp/demo"), "no leo_edge in /nowhere"),
        (("add-user.sh", "leo_edge", "0"), "root is no user to run as"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_wrong_argument_gives_one_error_line(words: tuple[str, ...], part: str) -> None:
    assert part in refusal(SCRIPTS / words[0], *words[1:])


def test_tensorrt_is_installed_in_one_exact_version_from_a_checked_repository() -> None:
    said = run(SCRIPTS / "install-tensorrt.sh", *JETSON, "--dry-run")
    packages = ("libnvinfer10", "libnvinfer-plugin10", "libnvonnxparsers10", "python3-libnvinfer")
    for package in packages:
        assert f"{package}={JETSON[1]}" in said.replace("\\", "")
    assert f"Pin: version {JETSON[1]}\nPin-Priority: 1001" in said
    assert (
        "deb [signed-by=/usr/share/keyrings/leo-edge-nvidia.asc] https://repo.download.nvidia.com/jetson/common r36.4 main"
        in said
    )
    assert said.index("+ write /etc/apt/sources.list.d/leo-edge-nvidia.list") < said.index("libnvinfer10=")
    assert said.index("libnvinfer10=") < said.index("+ rm /etc/apt/sources.list.d/leo-edge-nvidia.list")
    assert not Path("/etc/apt/sources.list.d/leo-edge-nvidia.list").exists()


def test_fetched_file_is_checked_against_its_sum(tmp_path: Path) -> None:
    """With a stand-in for curl, which writes what was fetched."""
    program = f'source "{SCRIPTS}/steps.sh"; curl() {{ printf key >"{tmp_path}/key"; }}; fetch https://x "$1" "{tmp_path}/key"'
    right = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"
    run("bash", "-euo", "pipefail", "-c", program, "bash", right)
    done = attempt("bash", "-euo", "pipefail", "-c", program, "bash", right[::-1])
    assert done.returncode == 2
    assert "error: https://x is not what it was" in done.stderr


def test_ros_is_left_out_where_it_has_no_wheels(tmp_path: Path) -> None:
    machine = tmp_path / "uname"
    machine.write_text("#!/bin/sh\necho aarch64\n")
    machine.chmod(0o755)
    command = (SCRIPTS / "install-python.sh", ROOT, tmp_path / "venv", "--extras", "ort,replay,ros", "--dry-run")
    said = run(*command, environment={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}).replace("\\", "")
    assert f"{ROOT}[ort,replay]" in said
    if os.uname().machine == "x86_64":
        assert f"{ROOT}[ort,replay,ros]" in run(*command).replace("\\", "")


def test_without_ros_there_are_no_messages_to_build(tmp_path: Path) -> None:
    run("python3", "-m", "venv", "--without-pip", tmp_path / "venv")
    assert "no ROS in" in run(SCRIPTS / "build-messages.sh", "wheels", tmp_path / "venv")


def in_system_of_its_own(root: Path, *commands: str) -> str:
    """Runs shell commands that see copies of /etc and /home in place of the real ones; skips where that is not allowed."""
    probe = attempt("unshare", "--mount", "true") if shutil.which("unshare") else None
    if probe is None or probe.returncode or os.getuid() != 0:
        pytest.skip("needs root and a mount namespace: unshare --mount is refused here")
    etc, home = root / "etc", root / "home"
    if not etc.exists():
        etc.mkdir()
        home.mkdir()
        for name in ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "subuid", "subgid"):
            if Path("/etc", name).exists():
                shutil.copy2(Path("/etc", name), etc / name)
        shutil.copytree("/etc/pam.d", etc / "pam.d")
    mounts = f"mount --bind '{etc}' /etc && mount --bind '{home}' /home"
    return run("unshare", "--mount", "bash", "-euc", "; ".join([mounts, *commands]))


def test_user_is_added_with_the_devices_group_and_takes_a_used_number(tmp_path: Path) -> None:
    script = SCRIPTS / "add-user.sh"
    said = in_system_of_its_own(tmp_path, "useradd --uid 4321 ubuntu", f"'{script}' leo_edge 4321", "id leo_edge", "ls /home")
    assert "uid=4321(leo_edge) gid=4321(leo_edge)" in said
    assert "(video)" in said
    assert said.splitlines()[-1] == "leo_edge"
    assert "ubuntu" not in (tmp_path / "etc" / "passwd").read_text()
    assert "leo_edge" not in Path("/etc/passwd").read_text()
    # A second run changes nothing.
    before = (tmp_path / "etc" / "passwd").read_text()
    assert "leo_edge is there already" in in_system_of_its_own(tmp_path, f"'{script}' leo_edge 4321")
    assert (tmp_path / "etc" / "passwd").read_text() == before


def test_entrypoint_becomes_the_command_with_its_arguments(tmp_path: Path) -> None:
    command = [str(ENTRYPOINT), "bash", "-c", 'echo $$; printf "%s\\n" "$@"', "bash", "two words", ""]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"LEO_EDGE_HOME": str(tmp_path)}
    ) as process:
        out, _ = process.communicate()
    # The same process: a container's signals reach the node.
    assert out.splitlines() == [str(process.pid), "two words", ""]
    assert attempt(ENTRYPOINT, "bash", "-c", "exit 7").returncode == 7


def test_entrypoint_without_a_command_says_so() -> None:
    assert "got no command" in refusal(ENTRYPOINT)


def test_entrypoint_sources_the_messages_and_puts_the_environment_first(tmp_path: Path) -> None:
    setup = tmp_path / "messages" / "local_setup.bash"
    setup.parent.mkdir()
    # As ROS's own: it reads a variable that is not set, and fails in part.
    setup.write_text('export AMENT_PREFIX_PATH="/messages${NOT_SET_ANYWHERE}"\n')
    said = run(
        ENTRYPOINT,
        *("bash", "-c", "echo $PATH $AMENT_PREFIX_PATH"),
        environment={"LEO_EDGE_HOME": str(tmp_path), "AMENT_PREFIX_PATH": ""},
    )
    path, prefix = said.split()
    assert path.startswith(f"{tmp_path}/venv/bin:")
    assert prefix == f"{tmp_path}/venv:/messages"


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    said = run(SCRIPTS / "install-python.sh", ROOT, tmp_path / "venv", "--extras", "ort", "--dry-run")
    assert re.search(r"^\+ .*pip install", said, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
