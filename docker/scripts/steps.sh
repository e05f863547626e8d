# shellcheck shell=bash
# Sourced by the scripts beside it: what they say, and how they run a step.

dry_run=false

# Prints one error line and ends the script as wrong use.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints the header of the script that calls it: what it does, and its arguments.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# Puts the arguments of the script that calls it into `words`, but for the two options that each script has.
words=()
take_words() {
  while (($#)); do
    case $1 in
      --dry-run) dry_run=true ;;
      -h | --help) usage && exit 0 ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

# Prints a command and, unless this is a dry run, runs it.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  if ! "$dry_run"; then
    "$@"
  fi
}

# Writes its standard input to a file, as `run` does.
write() {
  local text
  text=$(cat)
  printf '+ write %q\n%s\n' "$1" "$text"
  if ! "$dry_run"; then
    printf '%s\n' "$text" >"$1"
  fi
}

# Fetches a file and checks its SHA-256, as `run` does.
fetch() {
  local url=$1 sha256=$2 file=$3
  run curl --fail --silent --show-error --location --proto '=https' --output "$file" "$url"
  if ! "$dry_run"; then
    printf '%s  %s\n' "$sha256" "$file" | sha256sum --check --quiet - || fail "$url is not what it was: got another SHA-256 than $sha256"
  fi
}

# Changes of the system need root; a dry run does not.
need_root() {
  if ! "$dry_run" && [[ $(id -u) != 0 ]]; then
    fail "$(basename "$0") changes the system: run it as root, or with --dry-run"
  fi
}
