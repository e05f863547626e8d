"""Launch files and parameter files: what they would start, and that the node takes what they give."""

from __future__ import annotations

import runpy
from configparser import ConfigParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from leo_edge.ros_node.parameters import SPEC_BY_NAME, SPECS, check_parameters, question_specs
from leo_edge.ros_node.process import CONFIG, FAST_DDS_PROFILE, profile_variable
from tests.ros_node import launch_stand_in as launch

LAUNCH = CONFIG.parent / "launch"
PARAMETER_FILES = sorted(CONFIG.glob("*.param.yaml"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    launch.install(monkeypatch)


def described(name: str) -> list[Any]:
    description = runpy.run_path(str(LAUNCH / name))["generate_launch_description"]()
    return list(description.entities)


def of_kind(entities: list[Any], kind: type) -> list[Any]:
    return [entity for entity in entities if type(entity) is kind]


def context(entities: list[Any], **given: str) -> launch.LaunchContext:
    declared = {a.name: a.default_value for a in of_kind(entities, launch.DeclareLaunchArgument)}
    assert set(given) <= set(declared), "an argument that is not declared"
    values = declared | given
    assert None not in values.values(), "an argument without a value"
    return launch.LaunchContext(**values)


def test_drive_starts_the_node_with_its_arguments() -> None:
    entities = described("drive.launch.py")
    (function,) = of_kind(entities, launch.OpaqueFunction)
    (node,) = function.function(context(entities, bundle="/b", namespace="car", use_sim_time="True", log_level="debug"))
    assert (node.package, node.name, node.namespace) == ("leo_edge", "leo_edge", "car")
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert f"{node.executable} = leo_edge.ros_node.main:main" in setup["options.entry_points"]["console_scripts"]
    params_file, given = node.parameters
    assert Path(params_file).is_file()
    assert given == {"bundle": "/b", "autostart": True, "use_sim_time": True}
    assert set(given) - {"use_sim_time"} <= set(SPEC_BY_NAME)
    assert node.arguments == ["--ros-args", "--log-level", "debug"]
    arguments = of_kind(entities, launch.DeclareLaunchArgument)
    assert all(argument.description for argument in arguments)
    assert [argument.name for argument in arguments if argument.default_value is None] == ["bundle"]
    (variable,) = of_kind(entities, launch.SetEnvironmentVariable)
    assert (variable.name, variable.value) == (profile_variable(), str(FAST_DDS_PROFILE))


@pytest.mark.parametrize(
    ("given", "played"),
    [
        ({"nuscenes": "/n"}, ["--nuscenes", "/n"]),
        ({"nuscenes": "/n", "scene": "scene-0001"}, ["--nuscenes", "/n", "--scenes", "scene-0001"]),
        ({"bag": "/bag"}, ["--bags", "/bag"]),
    ],
)
def test_replay_starts_player_and_node(given: dict[str, str], played: list[str]) -> None:
    from leo_edge.cli import build_parser

    entities = described("replay.launch.py")
    (included,) = of_kind(entities, launch.IncludeLaunchDescription)
    declared = {a.name for a in of_kind(described(Path(included.source.path).name), launch.DeclareLaunchArgument)}
    assert set(included.launch_arguments) <= declared
    (function,) = of_kind(entities, launch.OpaqueFunction)
    (player,) = function.function(context(entities, bundle="/b", **given))
    assert player.cmd[:4] == ["python3", "-m", "leo_edge", "ros-play"]
    assert player.cmd[4 : 4 + len(played)] == played
    build_parser().parse_args(player.cmd[3:])


@pytest.mark.parametrize("given", [{}, {"nuscenes": "/n", "bag": "/b"}])
def test_replay_wants_one_drive(given: dict[str, str]) -> None:
    entities = described("replay.launch.py")
    (function,) = of_kind(entities, launch.OpaqueFunction)
    with pytest.raises(RuntimeError, match="one of them"):
        function.function(context(entities, bundle="/b", **given))


@pytest.mark.parametrize("path", PARAMETER_FILES, ids=lambda path: path.name)
def test_parameter_files_are_taken(path: Path) -> None:
    given = flat(YAML(typ="safe").load(path)["/**"]["ros__parameters"])
    specs = {spec.name: spec for spec in SPECS}
    for question in given["questions"]:
        specs |= {spec.name: spec for spec in question_specs(question)}
    assert set(given) <= set(specs), "parameters that the node does not have"
    checked = check_parameters({name: spec.default for name, spec in specs.items()} | given | {"bundle": "b"})
    assert len(checked.rules.channels) == 6
    assert checked.settings.deadline_ms


def test_there_are_parameter_files() -> None:
    assert [path.name for path in PARAMETER_FILES] == ["nuscenes.param.yaml", "six_cameras.param.yaml"]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as ROS names them."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def test_the_fast_dds_profile_has_room_for_images() -> None:
    names = {"d": "http://www.eprosima.com"}
    profile = ElementTree.parse(FAST_DDS_PROFILE)
    sizes = [int(element.text or 0) for element in profile.iterfind(".//d:segment_size", names)]
    assert sizes
    assert min(sizes) >= 32 << 20
    assert [element.text for element in profile.iterfind(".//d:useBuiltinTransports", names)] == ["false"]
