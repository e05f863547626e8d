#!/usr/bin/env bash
# Installs what the node needs of a ROS distribution that is set up in apt, as in the images ros:<distribution>-ros-core.
#
#   install-ros.sh run|build DISTRIBUTION [--dry-run]
#
# run: what package.xml names, the middleware and `ros2 launch`. build: what leo_edge_msgs is built with, and Python's venv.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

# The packages of ROS in package.xml; OpenCV comes from pip, since numpy is newer than the distribution's.
node=(
  builtin-interfaces diagnostic-msgs geometry-msgs launch launch-ros lifecycle-msgs rclpy rosgraph-msgs sensor-msgs std-msgs
  std-srvs tf2-msgs
)
# Beside them: ros2 launch, and the middleware that config/fastdds.xml is for.
tools=(rmw-fastrtps-cpp ros2launch)
build=(ament-cmake rosidl-default-generators)

take_words "$@"
options=()
if "$dry_run"; then
  options+=(--dry-run)
fi
case "${#words[@]} ${words[0]:-}" in
  "2 run")
    packages=("${node[@]}" "${tools[@]}")
    debian=(python3)
    ;;
  "2 build")
    packages=("${build[@]}")
    debian=(g++ make python3-colcon-common-extensions python3-dev python3-venv)
    ;;
  *) fail "install-ros.sh got '${words[*]}', expected run|build DISTRIBUTION [--dry-run]" ;;
esac
distribution=${words[1]}
[[ $distribution == humble || $distribution == jazzy ]] || fail "got the distribution '$distribution', expected humble or jazzy"

exec "$here/install-apt.sh" "${options[@]}" "${debian[@]}" "${packages[@]/#/ros-$distribution-}"
