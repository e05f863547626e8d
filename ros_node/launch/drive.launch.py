"""The node on a vehicle: `ros2 launch leo_edge drive.launch.py bundle:=/path/to/bundle`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from leo_edge.ros_node.process import CONFIG, FAST_DDS_PROFILE, profile_variable

ARGUMENTS = (
    DeclareLaunchArgument("bundle", description="Directory of the bundle."),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(CONFIG / "nuscenes.param.yaml"),
        description="Parameters of the node; bundle, autostart and use_sim_time win over it.",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
    DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock."),
    DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate at the start."),
)


def start_node(context: LaunchContext) -> list[Node]:
    """Returns the node, with the arguments as they are now."""

    def value(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    given = {
        "bundle": value("bundle"),
        "autostart": value("autostart").lower() == "true",
        "use_sim_time": value("use_sim_time").lower() == "true",
    }
    return [
        Node(
            package="leo_edge",
            executable="leo_edge_node",
            name="leo_edge",
            namespace=value("namespace"),
            parameters=[value("params_file"), given],
            arguments=["--ros-args", "--log-level", value("log_level")],
            output="screen",
            respawn=True,
            respawn_delay=1.0,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Returns what ros2 launch starts. The Fast DDS profile has room for camera images in shared memory."""
    profile = SetEnvironmentVariable(profile_variable(), str(FAST_DDS_PROFILE))
    return LaunchDescription([*ARGUMENTS, profile, OpaqueFunction(function=start_node)])
