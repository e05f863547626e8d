"""docker/compose.yaml: its form, and that all it names exists: Dockerfiles, stages of the drive, commands, launch arguments."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from leo_edge.cli import build_parser
from tests.docker.parts import DOCKER, DOCKERFILES, ROOT, attempt, program, run

COMPOSE = DOCKER / "compose.yaml"
DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
Service = dict[str, Any]


def with_values(value: Any, values: dict[str, str]) -> Any:
    """Puts in what Compose does for ${NAME:-default}: of `values`, or the default."""
    if isinstance(value, dict):
        return {key: with_values(one, values) for key, one in value.items()}
    if isinstance(value, list):
        return [with_values(one, values) for one in value]
    if isinstance(value, str):
        return DEFAULT.sub(lambda match: values.get(match[1], match[2]), value)
    return value


def services(**values: str) -> dict[str, Service]:
    """Returns the services by name, with variables of the environment put in."""
    read = YAML(typ="safe").load(COMPOSE.read_text())
    found: dict[str, Service] = with_values(read["services"], values)
    return found


def test_file_is_what_the_compose_specification_says() -> None:
    run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_schema_refuses_a_wrong_file(tmp_path: Path) -> None:
    """The negative control."""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("init: true", "innit: true"))
    assert wrong.read_text() != COMPOSE.read_text()
    done = attempt(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", wrong)
    assert done.returncode == 1
    assert "innit" in done.stdout


def test_no_variable_is_without_a_default() -> None:
    """Compose reads all of the file, whichever profile was asked for."""
    assert "$" not in DEFAULT.sub("", COMPOSE.read_text().replace("$schema", ""))


def test_every_profile_has_a_node_and_a_player() -> None:
    found = services()
    for profile in ("cpu", "jetson", "x86"):
        names = {name for name, service in found.items() if service["profiles"] == [profile]}
        assert {f"node-{profile}", f"player-{profile}"} <= names
    assert all(len(service["profiles"]) == 1 for service in found.values())


@pytest.mark.parametrize("jetpack", ["6.2", "7.2"])
def test_images_are_built_from_dockerfiles_that_exist(jetpack: str) -> None:
    found = services(JETPACK=jetpack)
    built = {service["image"] for service in found.values() if "build" in service}
    assert {service["image"] for service in found.values()} == built
    for service in found.values():
        if "build" in service:
            context = (DOCKER / service["build"]["context"]).resolve()
            assert context == ROOT
            assert context / service["build"]["dockerfile"] in DOCKERFILES


def test_unknown_jetpack_names_no_dockerfile() -> None:
    """The negative control."""
    build = services(JETPACK="5.1")["node-jetson"]["build"]
    assert ROOT / build["dockerfile"] not in DOCKERFILES


@pytest.mark.parametrize("name", list(services()))
def test_command_is_understood(name: str) -> None:
    words = [str(word) for word in services()[name]["command"]]
    if words[0] == "leo-edge":
        build_parser().parse_args(words[1:])
        return
    assert words[:3] == ["ros2", "launch", "leo_edge"]
    launch = (ROOT / "ros_node" / "launch" / words[3]).read_text()
    declared = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', launch))
    given = {word.partition(":=")[0] for word in words[4:]}
    assert "bundle" in given
    assert given <= declared


def test_paths_in_commands_are_mounted_or_in_the_image() -> None:
    for service in services().values():
        mounted = {volume["target"] for volume in service.get("volumes", [])} | set(service.get("tmpfs", []))
        paths = [word.removeprefix("bundle:=") for word in service["command"]]
        for path in (path for path in paths if path.startswith("/") and not path.startswith(("/leo_edge/", "/diagnostics"))):
            in_demo = path.startswith("/opt/leo_edge/demo/") and service["image"] == "leo_edge:cpu"
            assert in_demo or any(Path(path).is_relative_to(target) for target in mounted), path


def test_both_ends_share_memory_and_network_for_images() -> None:
    """Fast DDS takes shared memory when it believes to be on one machine: with only one of them shared, frames are lost."""
    found = services()
    for name, service in found.items():
        if service["profiles"] == ["cpu"] and name != "node-cpu":
            assert service["ipc"] == service["network_mode"] == "service:node-cpu"
        elif name != "node-cpu":
            assert service["ipc"] == service["network_mode"] == "host"
    node = found["node-cpu"]
    assert node["ipc"] == "shareable"
    segment = re.search(r"<segment_size>(\d+)<", (ROOT / "ros_node" / "config" / "fastdds.xml").read_text())
    assert segment is not None
    sharing = sum(service["profiles"] == ["cpu"] for service in found.values())
    # Docker's own limit, 64 MB, holds less than the segment of one process and what goes with it.
    assert int(segment[1]) * sharing < int(str(node["shm_size"]).removesuffix("gb")) * 10**9


def test_nodes_alone_get_the_gpu() -> None:
    found = services()
    assert found["node-jetson"]["runtime"] == "nvidia"
    (device,) = found["node-x86"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert not {name for name, service in found.items() if "player" in name and {"runtime", "deploy"} & set(service)}
