#!/usr/bin/env bash
# Makes a virtual environment that holds leo_edge, and puts the node where `ros2 launch` looks for it.
#
#   install-python.sh SOURCE VENV [--extras A,B] [--with REQUIREMENT]... [--constraints FILE]... [--system-site-packages]
#                     [--dry-run]
#
# SOURCE  the project; pip builds in it
# VENV    where the environment is made; what is there already is kept and brought up to date
#
# --system-site-packages lets it see TensorRT's bindings, which are Debian packages. ROS has wheels for x86-64 alone: elsewhere
# the extra `ros` is left out. PYTHON names the interpreter (python3), PIP_INDEX_URL and its like are pip's own.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

python=${PYTHON:-python3}
extras=""
requirements=()
venv_options=()
pip_options=(--no-cache-dir)
words=()
while (($#)); do
  case $1 in
    --extras | --with | --constraints) (($# > 1)) || fail "$1 needs a value" ;;&
    --extras) extras=$2 && shift ;;
    --with) requirements+=("$2") && shift ;;
    --constraints) pip_options+=(--constraint "$2") && shift ;;
    --system-site-packages) venv_options+=("$1") ;;
    --dry-run) dry_run=true ;;
    -h | --help) usage && exit 0 ;;
    -*) fail "install-python.sh got $1: see its -h" ;;
    *) words+=("$1") ;;
  esac
  shift
done
((${#words[@]} == 2)) || fail "install-python.sh got '${words[*]}', expected SOURCE VENV: see its -h"
source_path=$(realpath -m "${words[0]}")
venv=$(realpath -m "${words[1]}")
[[ -f $source_path/setup.cfg ]] || fail "no leo_edge in $source_path: got no setup.cfg, expected the project's folder"

if [[ $(uname -m) != x86_64 && ",$extras," == *,ros,* ]]; then
  printf 'without ROS: it has no wheels for %s\n' "$(uname -m)"
  extras=$(tr , '\n' <<<"$extras" | grep -vx ros | paste -sd,)
fi

if [[ ! -x $venv/bin/python ]]; then
  run "$python" -m venv "${venv_options[@]}" "$venv"
fi
run "$venv/bin/python" -m pip install "${pip_options[@]}" "$source_path${extras:+[$extras]}" "${requirements[@]}"
# ament looks for a package's programs in lib/<package>; wheels put them into bin.
run mkdir -p "$venv/lib/leo_edge"
run ln -sfn ../../bin/leo_edge_node "$venv/lib/leo_edge/leo_edge_node"
