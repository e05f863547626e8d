#!/usr/bin/env bash
# Adds the user that an image runs as.
#
#   add-user.sh NAME UID [--dry-run]
#
# It joins the groups video and render where they are: on a Jetson the devices of the GPU belong to them. Another user with
# this UID goes (Ubuntu 24.04's images have one, ubuntu).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

take_words "$@"
((${#words[@]} == 2)) || fail "add-user.sh got '${words[*]}', expected NAME UID [--dry-run]"
name=${words[0]} uid=${words[1]}
[[ $uid =~ ^[1-9][0-9]*$ ]] || fail "got the UID '$uid', expected a number above 0: root is no user to run as"
need_root

holder=$(getent passwd "$uid" | cut -d: -f1 || true)
if [[ $holder == "$name" ]]; then
  printf '%s is there already\n' "$name"
else
  if [[ -n $holder ]]; then
    run userdel "$holder"
  fi
  run useradd --create-home --shell /bin/bash --user-group --uid "$uid" "$name"
fi
for group in video render; do
  if getent group "$group" >/dev/null; then
    run usermod --append --groups "$group" "$name"
  fi
done
