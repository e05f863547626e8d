#!/usr/bin/env bash
# Runs a command with ROS, the node's messages and the environment of leo_edge: those of them that are in this image.
#
#   entrypoint.sh COMMAND [ARGUMENT...]
#
# ROS_DISTRO names the distribution in /opt/ros; LEO_EDGE_HOME (/opt/leo_edge) holds messages/ and venv/.
set -euo pipefail

home=${LEO_EDGE_HOME:-/opt/leo_edge}
if (($# == 0)); then
  echo "error: entrypoint.sh got no command, expected one such as: leo-edge -h" >&2
  exit 2
fi
for setup in "/opt/ros/${ROS_DISTRO:-none}/setup.bash" "$home/messages/local_setup.bash"; do
  if [[ -f $setup ]]; then
    set +u # ROS's own files read variables that are not set
    # shellcheck disable=SC1090 # of ROS and colcon
    source "$setup"
    set -u
  fi
done
export PATH=$home/venv/bin:$PATH
export AMENT_PREFIX_PATH=$home/venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
# ros2 runs in the system's Python, and our launch files import leo_edge in it.
for site in "$home"/venv/lib/python3.*/site-packages; do
  if [[ -d $site ]]; then
    export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$site
  fi
done
exec "$@"
