#!/usr/bin/env bash
# Makes what the image for trying out shows: the shipped tiny model as a bundle, and a drawn drive.
#
#   make-demo.sh VENV OUT [--dry-run]
#
# VENV  a virtual environment with leo_edge[demo], torch in it: the image itself needs none
# OUT   gets bundle/ and drive/; what is there already is kept
#
# SECONDS_OF_DRIVE shortens the drive (20).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

take_words "$@"
((${#words[@]} == 2)) || fail "make-demo.sh got '${words[*]}', expected VENV OUT [--dry-run]"
venv=${words[0]} out=${words[1]}
[[ -x $venv/bin/leo-edge ]] || fail "no leo_edge in $venv: install-python.sh makes it, with --extras demo"

# Where the model is that comes with leo_edge.
checkpoint=$("$venv/bin/python" -c 'from leo_edge.demo.answer_file import SHIPPED; print(SHIPPED)')
run mkdir -p "$out"
if [[ ! -e $out/bundle ]]; then
  run "$venv/bin/leo-edge" export "$checkpoint" "$out/bundle"
fi
if [[ ! -e $out/drive ]]; then
  run "$venv/bin/leo-edge" demo world "$out/drive" --split val --seconds "${SECONDS_OF_DRIVE:-20}" --keyframes-only
fi
