#!/usr/bin/env bash
# Installs Debian packages and leaves no lists behind.
#
#   install-apt.sh [--dry-run] PACKAGE...
#
# What is installed already stays as it is. --dry-run prints the steps.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

packages=()
while (($#)); do
  case $1 in
    --dry-run) dry_run=true ;;
    -h | --help) usage && exit 0 ;;
    -*) fail "install-apt.sh got $1, expected [--dry-run] PACKAGE..." ;;
    *) packages+=("$1") ;;
  esac
  shift
done
((${#packages[@]})) || fail "install-apt.sh got no package, expected [--dry-run] PACKAGE..."
need_root

run apt-get update
run env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"
run find /var/lib/apt/lists -mindepth 1 -delete
