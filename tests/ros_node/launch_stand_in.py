"""Stands in for launch and launch_ros where ROS's own are not installed: it keeps what launch files make, and runs nothing.

The names and arguments are those of ROS 2 Jazzy (https://github.com/ros2/launch, https://github.com/ros2/launch_ros).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import pytest


class LaunchContext:
    """Holds the values of launch arguments."""

    def __init__(self, **values: str) -> None:
        self.values = values


class LaunchDescription:
    def __init__(self, entities: Iterable[Any]) -> None:
        self.entities = list(entities)


class DeclareLaunchArgument:
    def __init__(self, name: str, *, default_value: str | None = None, description: str | None = None) -> None:
        self.name, self.default_value, self.description = name, default_value, description


class LaunchConfiguration:
    def __init__(self, variable_name: str) -> None:
        self.variable_name = variable_name

    def perform(self, context: LaunchContext) -> str:
        return context.values[self.variable_name]


class SetEnvironmentVariable:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value


class OpaqueFunction:
    def __init__(self, *, function: Any) -> None:
        self.function = function


class ExecuteProcess:
    def __init__(self, *, cmd: list[str], output: str, on_exit: list[Any]) -> None:
        self.cmd, self.output, self.on_exit = cmd, output, on_exit


class Shutdown:
    pass


class PythonLaunchDescriptionSource:
    def __init__(self, path: str) -> None:
        self.path = path


class IncludeLaunchDescription:
    def __init__(self, source: PythonLaunchDescriptionSource, *, launch_arguments: Iterable[tuple[str, Any]]) -> None:
        self.source, self.launch_arguments = source, dict(launch_arguments)


class Node:
    def __init__(
        self,
        *,
        package: str,
        executable: str,
        name: str,
        namespace: str,
        parameters: list[Any],
        arguments: list[str],
        output: str,
        respawn: bool,
        respawn_delay: float,
    ) -> None:
        self.package, self.executable, self.name, self.namespace = package, executable, name, namespace
        self.parameters, self.arguments = parameters, arguments
        self.output, self.respawn, self.respawn_delay = output, respawn, respawn_delay


_MODULES: dict[str, tuple[type, ...]] = {
    "launch": (LaunchContext, LaunchDescription),
    "launch.actions": (
        DeclareLaunchArgument,
        ExecuteProcess,
        IncludeLaunchDescription,
        OpaqueFunction,
        SetEnvironmentVariable,
        Shutdown,
    ),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (LaunchConfiguration,),
    "launch_ros": (),
    "launch_ros.actions": (Node,),
}


def install(patch: pytest.MonkeyPatch) -> None:
    """Makes `import launch` and `import launch_ros` give these classes."""
    for name, classes in _MODULES.items():
        module = ModuleType(name)
        for one in classes:
            setattr(module, one.__name__, one)
        patch.setitem(sys.modules, name, module)
