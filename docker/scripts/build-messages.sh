#!/usr/bin/env bash
# Builds the messages of the node, leo_edge_msgs.
#
#   build-messages.sh colcon SOURCE PREFIX [--dry-run] [-- CMAKE_ARGUMENT...]
#   build-messages.sh wheels VENV [--dry-run]
#
# colcon  with the distribution's ROS (ROS_DISTRO) into PREFIX, whose local_setup.bash the entrypoint sources
# wheels  with the wheels in a virtual environment, into that environment; without any there it does nothing
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

words=()
while (($#)); do
  case $1 in
    --dry-run) dry_run=true ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) words+=("$1") ;;
  esac
  shift
done

with_colcon() {
  local packages=$1/ros_node/leo_edge_msgs prefix=$2 work setup=/opt/ros/${ROS_DISTRO:-}/setup.bash
  shift 2
  [[ -f $packages/package.xml ]] || fail "no messages in $packages: got no package.xml, expected the project's folder"
  if [[ -f $setup ]]; then
    set +u # ROS's own files read variables that are not set
    # shellcheck disable=SC1090 # of the distribution
    source "$setup"
    set -u
  fi
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$work'" EXIT
  run colcon --log-base "$work/log" build --base-paths "$packages" --build-base "$work/build" --install-base "$prefix" \
    --merge-install --cmake-args -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF "$@"
}

with_wheels() {
  local python=$1/bin/python
  [[ -x $python ]] || fail "no virtual environment in $1: got no bin/python"
  if "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("rclpy") is None)'; then
    run "$python" -m leo_edge.ros_node.build_messages
  else
    printf 'no ROS in %s: no messages to build, and no node in this image\n' "$1"
  fi
}

case "${#words[@]} ${words[0]:-}" in
  "3 colcon") with_colcon "${words[@]:1}" "$@" ;;
  "2 wheels") with_wheels "${words[1]}" ;;
  *) fail "build-messages.sh got '${words[*]}', expected colcon SOURCE PREFIX or wheels VENV: see its -h" ;;
esac
