"""A recorded drive into the node: `ros2 launch leo_edge replay.launch.py bundle:=B nuscenes:=ROOT`, or `bag:=BAG`."""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from leo_edge.ros_node.process import CONFIG, FAST_DDS_PROFILE, profile_variable

ARGUMENTS = (
    DeclareLaunchArgument("bundle", description="Directory of the bundle."),
    DeclareLaunchArgument("nuscenes", default_value="", description="A nuScenes dataset to play."),
    DeclareLaunchArgument("scene", default_value="", description="Name of its scene; empty: all of them."),
    DeclareLaunchArgument("bag", default_value="", description="A rosbag2 to play in place of a dataset."),
    DeclareLaunchArgument("rate", default_value="1.0", description="Seconds of the drive in one."),
    DeclareLaunchArgument("params_file", default_value=str(CONFIG / "nuscenes.param.yaml"), description="Of the node."),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
)


def start_player(context: LaunchContext) -> list[ExecuteProcess]:
    """Returns the player; all ends when it does."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    if bool(value("nuscenes")) == bool(value("bag")):
        raise RuntimeError("give nuscenes:=ROOT or bag:=BAG, one of them")
    source = ["--bags", value("bag")] if value("bag") else ["--nuscenes", value("nuscenes")]
    scene = ["--scenes", value("scene")] if value("scene") else []
    command = ["python3", "-m", "leo_edge", "ros-play", *source, *scene, "--all-frames", "--rate", value("rate"), "--clock"]
    return [ExecuteProcess(cmd=command, output="screen", on_exit=[Shutdown()])]


def generate_launch_description() -> LaunchDescription:
    """Returns what ros2 launch starts: the node on the drive's own time, and the player."""
    drive = PythonLaunchDescriptionSource(str(Path(__file__).with_name("drive.launch.py")))
    names = ("bundle", "params_file", "log_level")
    given = {name: LaunchConfiguration(name) for name in names} | {"use_sim_time": "true"}
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable(profile_variable(), str(FAST_DDS_PROFILE)),
            IncludeLaunchDescription(drive, launch_arguments=given.items()),
            OpaqueFunction(function=start_player),
        ]
    )
