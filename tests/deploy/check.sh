# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the tests of the scripts share: a scratch folder, and checks that say what they saw. Sourced.

# shellcheck disable=SC2034
check_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
check_scratch=$(mktemp -d)
trap 'rm -rf "$check_scratch"' EXIT
check_output=""
check_status=0

# run COMMAND...: keeps its exit status and its output, stdout and stderr together.
run() {
  set +e
  check_output=$("$@" 2>&1 </dev/null)
  check_status=$?
  set -e
}

fail() {
  printf 'FAILED: %s\nexit status %s, output:\n%s\n' "$1" "$check_status" "$check_output" >&2
  exit 1
}

expect_status() {
  ((check_status == $1)) || fail "$2: expected exit status $1"
}

expect_output() {
  [[ $check_output == *"$1"* ]] || fail "$2: expected the output to hold '$1'"
}

expect_no_output() {
  [[ $check_output != *"$1"* ]] || fail "$2: expected the output not to hold '$1'"
}

expect_last_line() {
  [[ ${check_output##*$'\n'} == "$1" ]] || fail "$2: expected the last line to be '$1'"
}
