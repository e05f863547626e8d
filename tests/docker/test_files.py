"""Scripts, Dockerfiles and what they name: linted, present, pinned, and not run as root."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from leo_edge.cli import build_parser
from tests.docker.dockerfile import (
    base_images,
    command,
    copied_from_context,
    copied_from_stages,
    final_user,
    read_stages,
    script_calls,
)
from tests.docker.parts import DOCKER, DOCKERFILES, ROOT, SCRIPTS, attempt, program, run

SHELL_FILES = [*sorted(SCRIPTS.glob("*.sh")), DOCKER / "entrypoint.sh"]
PLANTED = """FROM debian:latest
RUN cd /tmp && apt-get install curl
USER root
"""

of_each = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)


def test_there_is_an_image_for_each_machine() -> None:
    assert {path.stem for path in DOCKERFILES} == {"cpu", "jetpack6.2", "jetpack7.2", "x86"}


def test_shellcheck_finds_nothing() -> None:
    run(program("shellcheck"), "--external-sources", "--source-path", "SCRIPTDIR", *SHELL_FILES)


def test_shellcheck_finds_what_is_wrong(tmp_path: Path) -> None:
    """The negative control."""
    script = tmp_path / "wrong.sh"
    script.write_text("#!/bin/bash\nrm -rf $1/\n")
    assert "SC2086" in attempt(program("shellcheck"), script).stdout


@pytest.mark.parametrize("script", SHELL_FILES, ids=lambda path: path.name)
def test_scripts_are_strict_and_say_what_they_take(script: Path) -> None:
    if script.name == "steps.sh":
        assert not script.stat().st_mode & 0o100  # sourced, not run
        return
    assert script.stat().st_mode & 0o100
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    header = lines[1 : lines.index("set -euo pipefail")]
    assert any(line.startswith(f"#   {script.name} ") for line in header)


@of_each
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    run(program("hadolint"), "--config", DOCKER / ".hadolint.yaml", dockerfile)


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    """The negative control, under the same list of what is ignored."""
    wrong = tmp_path / "wrong.Dockerfile"
    wrong.write_text(PLANTED)
    said = attempt(program("hadolint"), "--config", DOCKER / ".hadolint.yaml", wrong).stdout
    assert {"DL3002", "DL3007", "DL3015"} <= set(re.findall(r"DL\d+", said))


@of_each
def test_base_images_are_pinned_by_a_version(dockerfile: Path) -> None:
    bases = base_images(read_stages(dockerfile))
    assert bases
    for base in bases:
        image, _, tag = base.partition(":")
        # A distribution's name is the version of ROS; a digest would do as well.
        assert re.match(r"\d+\.\d+-|(humble|jazzy)-ros-core-(jammy|noble)$|.*@sha256:", tag), f"{image}: {tag or 'no tag'}"


@of_each
def test_image_runs_as_another_than_root(dockerfile: Path) -> None:
    stages = read_stages(dockerfile)
    assert final_user(stages) == "leo_edge"
    (added,) = [call for call in script_calls(stages) if call[0].endswith("/add-user.sh")]
    assert added[1:] == ["leo_edge", "1000"]


def test_planted_dockerfile_fails_the_same_checks(tmp_path: Path) -> None:
    """The negative control."""
    wrong = tmp_path / "wrong.Dockerfile"
    wrong.write_text(PLANTED)
    assert final_user(read_stages(wrong)) == "root"
    with pytest.raises(AssertionError, match="debian: latest"):
        test_base_images_are_pinned_by_a_version(wrong)


@of_each
def test_everything_that_is_copied_exists_and_is_not_ignored(dockerfile: Path) -> None:
    stages = read_stages(dockerfile)
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for source in copied_from_context(stages):
        assert (ROOT / source).exists(), source
        assert not any(Path(source).match(pattern) for pattern in ignored), source
    assert set(copied_from_stages(stages)) <= {stage.name for stage in stages}
    assert "docker/scripts" in copied_from_context(stages)


def test_what_pip_builds_from_is_not_ignored() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    packages = {link.name for link in (ROOT / "leo_edge").iterdir() if link.is_symlink()}
    needed = {
        "leo_edge",
        *packages,
        "setup.cfg",
        "setup.py",
        "pyproject.toml",
        "package.xml",
        "README.md",
        "LICENSE",
        "resource",
    }
    assert not {name for name in needed if any(Path(name).match(pattern) for pattern in ignored)}
    # .venv is a gigabyte.
    assert {".git", ".venv*", "out"} <= set(ignored)


@of_each
def test_every_step_is_a_script_and_takes_its_arguments(dockerfile: Path) -> None:
    """In a dry run, on a copy of the paths that an image has; what needs a virtual environment is run for real elsewhere."""
    for call in script_calls(read_stages(dockerfile)):
        script = SCRIPTS / Path(call[0]).name
        assert call[0] == f"/scripts/{script.name}"
        assert script.is_file()
        if script.name not in {"make-demo.sh"} and "wheels" not in call:
            words = [word.replace("/src", str(ROOT)) for word in call[1:]]
            assert run(script, *words, "--dry-run").startswith("+ ")


@of_each
def test_command_of_the_image_parses(dockerfile: Path) -> None:
    words = command(read_stages(dockerfile))
    assert words[0] == "leo-edge"
    if words[1:] != ["-h"]:
        build_parser().parse_args(words[1:])


def test_ros_packages_are_those_of_the_package_file() -> None:
    depends = ElementTree.parse(ROOT / "package.xml").getroot().iter("exec_depend")
    needed = {str(depend.text).replace("_", "-") for depend in depends} - {"leo-edge-msgs"}
    needed = {name for name in needed if not name.startswith("python3-")}
    said = run(SCRIPTS / "install-ros.sh", "run", "humble", "--dry-run")
    installed = set(re.findall(r"ros-humble-([a-z0-9-]+)", said))
    assert installed - needed == {"rmw-fastrtps-cpp", "ros2launch"}
    assert needed <= installed


def test_messages_are_built_with_what_they_name() -> None:
    package = ElementTree.parse(ROOT / "ros_node" / "leo_edge_msgs" / "package.xml").getroot()
    needed = {str(depend.text).replace("_", "-") for depend in package.iter("buildtool_depend")}
    said = run(SCRIPTS / "install-ros.sh", "build", "jazzy", "--dry-run")
    assert set(re.findall(r"ros-jazzy-([a-z0-9-]+)", said)) == needed
    assert "python3-colcon-common-extensions" in said
