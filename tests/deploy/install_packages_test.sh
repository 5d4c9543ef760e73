#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# install-packages.sh with stand-ins for dpkg-query, apt-get and sudo on the PATH.
set -euo pipefail

# shellcheck source=tests/deploy/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/check.sh"

readonly script=$check_root/deploy/install-packages.sh
readonly stand_ins=$check_scratch/bin
readonly calls=$check_scratch/calls

# stand_in NAME TEXT: puts a script NAME with the body TEXT first on the PATH.
stand_in() {
  mkdir -p "$stand_ins"
  printf '#!/bin/bash\n%s\n' "$2" >"$stand_ins/$1"
  chmod +x "$stand_ins/$1"
}

# installed_except PACKAGE: a dpkg database that holds everything it is asked for but PACKAGE.
installed_except() {
  stand_in dpkg-query "shift 3; for p in \"\$@\"; do [[ \$p == $1 ]] || echo \"installed \$p\"; done"
}

script_run() {
  : >"$calls"
  run env PATH="$stand_ins:$PATH" "$script" "$@"
}

test_nothing_is_called_when_all_is_there() {
  installed_except none
  script_run --tests --checks
  expect_status 0 "all installed"
  [[ ! -s $calls ]] || fail "all installed: something was called: $(cat "$calls")"
}

test_only_the_missing_package_is_installed() {
  installed_except libgtest-dev
  script_run
  expect_status 0 "build packages only"
  [[ ! -s $calls ]] || fail "build packages only: something was called: $(cat "$calls")"
  script_run --tests
  expect_status 0 "one missing"
  grep -q 'apt-get install .*recommends libgtest-dev$' "$calls" || fail "one missing: calls were: $(cat "$calls")"
}

test_missing_lists_and_installs_nothing() {
  installed_except ninja-build
  script_run --missing
  expect_status 0 "--missing"
  expect_last_line ninja-build "--missing"
  [[ ! -s $calls ]] || fail "--missing: something was called: $(cat "$calls")"
}

test_an_unknown_argument_is_refused() {
  script_run --test
  expect_status 64 "unknown argument"
  expect_output "unknown argument '--test'" "unknown argument"
}

stand_in apt-get "echo \"apt-get \$*\" >>$calls"
stand_in sudo 'exec "$@"'
test_nothing_is_called_when_all_is_there
test_only_the_missing_package_is_installed
test_missing_lists_and_installs_nothing
test_an_unknown_argument_is_refused
