#!/usr/bin/env bash
# Installs one exact TensorRT for inference and building, with its Python bindings, from NVIDIA's own packages.
#
#   install-tensorrt.sh REPOSITORY TENSORRT CUDA [--dry-run]
#
# REPOSITORY  jetson/<release>, such as jetson/r36.4, or cuda/<system>/<machine>, such as cuda/ubuntu2204/x86_64
# TENSORRT    version of the packages, such as 10.3.0.30-1+cuda12.5
# CUDA        as the packages write it, such as 12-6
#
# The repository is taken out again: on a Jetson it has newer OpenCV packages than Ubuntu, without the half of their files.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=steps.sh
source "$here/steps.sh"

# The signing key of the Jetson repository, and the package that brings the key of the CUDA repository for each system.
JETSON_KEY_SHA256=576f852981855e5c6cfb9b625ffb51b984ca451f1181b2e70435b005034fad55
declare -A CUDA_KEYRING_SHA256=(
  [ubuntu2204/x86_64]=d93190d50b98ad4699ff40f4f7af50f16a76dac3bb8da1eaaf366d47898ff8df
  [ubuntu2404/x86_64]=d2a6b11c096396d868758b86dab1823b25e14d70333f1dfa74da5ddaf6a06dba
)
LIST=/etc/apt/sources.list.d/leo-edge-nvidia.list
PIN=/etc/apt/preferences.d/leo-edge-tensorrt

# With the key in a file of its own, apt trusts it for this repository alone.
add_jetson() {
  local release=$1 key=/usr/share/keyrings/leo-edge-nvidia.asc
  fetch https://repo.download.nvidia.com/jetson/jetson-ota-public.asc "$JETSON_KEY_SHA256" "$key"
  write "$LIST" <<<"deb [signed-by=$key] https://repo.download.nvidia.com/jetson/common $release main"
  # Where the container runtime puts the host's libnvdla_compiler.so, which TensorRT 10.3 is linked with.
  write /etc/ld.so.conf.d/leo-edge-tegra.conf <<<$'/usr/lib/aarch64-linux-gnu/nvidia\n/usr/lib/aarch64-linux-gnu/tegra'
}

add_cuda() {
  local system=$1 deb=/tmp/cuda-keyring.deb url=https://developer.download.nvidia.com/compute/cuda/repos/$1
  fetch "$url/cuda-keyring_1.1-1_all.deb" "${CUDA_KEYRING_SHA256[$system]}" "$deb"
  run dpkg --install "$deb"
  # It brings a list of its own.
  run rm --force "$deb" "/etc/apt/sources.list.d/cuda-${system/\//-}.list"
  write "$LIST" <<<"deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] $url/ /"
}

take_words "$@"
options=()
if "$dry_run"; then
  options+=(--dry-run)
fi
((${#words[@]} == 3)) || fail "install-tensorrt.sh got '${words[*]}', expected REPOSITORY TENSORRT CUDA [--dry-run]"
repository=${words[0]} version=${words[1]} cuda=${words[2]}
[[ $version =~ ^[0-9]+(\.[0-9]+){3}-[0-9]+\+cuda[0-9.]+$ ]] || fail "got the TensorRT version '$version', expected one like 10.3.0.30-1+cuda12.5"
[[ $cuda =~ ^[0-9]+-[0-9]+$ ]] || fail "got the CUDA version '$cuda', expected one like 12-6"
need_root

"$here/install-apt.sh" "${options[@]}" ca-certificates curl
case $repository in
  jetson/r[0-9]*) add_jetson "${repository#jetson/}" ;;
  cuda/*)
    [[ -n ${CUDA_KEYRING_SHA256[${repository#cuda/}]:-} ]] || fail "got the repository '$repository', expected cuda/ and one of: ${!CUDA_KEYRING_SHA256[*]}"
    add_cuda "${repository#cuda/}"
    ;;
  *) fail "got the repository '$repository', expected jetson/<release> or cuda/<system>/<machine>" ;;
esac
# Whatever else these bring of TensorRT is of the same version.
write "$PIN" <<END
Package: libnvinfer* libnvonnxparsers* python3-libnvinfer*
Pin: version $version
Pin-Priority: 1001
END
"$here/install-apt.sh" "${options[@]}" \
  "libnvinfer10=$version" "libnvinfer-plugin10=$version" "libnvonnxparsers10=$version" "python3-libnvinfer=$version" \
  "cuda-cudart-$cuda" "cuda-nvrtc-$cuda"
run rm "$LIST"
run ldconfig
