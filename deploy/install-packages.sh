#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian 12 packages that Farspan needs. Does nothing, and asks nothing, when all of them are there.
set -euo pipefail

readonly build_packages=(
  g++ cmake ninja-build pkg-config
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev
  libabsl-dev libssl-dev libspdlog-dev prometheus-cpp-dev libboost-dev libicu-dev nlohmann-json3-dev
  ca-certificates python3 python3-pip
)
readonly test_packages=(libgtest-dev libgmock-dev)
readonly check_packages=(clang-14 clang-format-14 libclang-rt-14-dev llvm-14 prometheus shellcheck)

usage() {
  cat <<'TEXT'
usage: deploy/install-packages.sh [--tests] [--checks] [--missing]

Installs what the build needs with apt-get, through sudo where you are not root.

  --tests    also what the tests need (GoogleTest)
  --checks   also what the sanitizer and fuzz builds need (clang 14, clang-format, shellcheck), and the tests
             of metrics and dashboards (prometheus)
  --missing  only print the packages that are missing, one a line
TEXT
}

refuse() {
  echo "install-packages: $1" >&2
  exit "${2:-1}"
}

# Prints those of its arguments that are not installed.
missing_packages() {
  command -v dpkg-query >/dev/null || refuse "this is no Debian system: install the equivalents of: $*" 69
  local installed
  # dpkg-query fails when it has never heard of a package, and lists the others all the same.
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  local package
  for package in "$@"; do
    grep -qxF "installed $package" <<<"$installed" || echo "$package"
  done
}

install_packages() {
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || refuse "you are not root and there is no sudo; as root run: apt-get install $*" 77
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

main() {
  local wanted=("${build_packages[@]}") only_list=false
  while (($# > 0)); do
    case $1 in
      --tests) wanted+=("${test_packages[@]}") ;;
      --checks) wanted+=("${check_packages[@]}") ;;
      --missing) only_list=true ;;
      -h | --help) usage && exit 0 ;;
      *) refuse "unknown argument '$1'; see --help" 64 ;;
    esac
    shift
  done
  local missing
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  if $only_list; then
    ((${#missing[@]} == 0)) || printf '%s\n' "${missing[@]}"
  elif ((${#missing[@]} == 0)); then
    echo "All ${#wanted[@]} packages are installed."
  else
    install_packages "${missing[@]}"
  fi
}

main "$@"
