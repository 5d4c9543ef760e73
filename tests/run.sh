#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the tests need, builds, runs ctest and prints its closing line as the last line.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=deploy/stages.sh
source deploy/stages.sh

preset=cpu-release
build_dir=""
package_options=(--tests)
cmake_options=()
ctest_options=()

usage() {
  cat <<'TEXT'
usage: tests/run.sh [--sanitizer asan|tsan] [--engine-only] [CTEST ARGUMENT...]

Installs the packages that the tests need, fetches the model, builds and runs ctest.

  --sanitizer asan|tsan  build with clang and AddressSanitizer + UndefinedBehaviorSanitizer, or with ThreadSanitizer
  --engine-only          leave proto services, server and clients out (needs no gRPC, builds much faster)

Everything else goes to ctest: `tests/run.sh -L unit`, `tests/run.sh -R scheduler`.
FARSPAN_TEST_MODEL names the model for the tests that need one; by default it is the one that deploy/get-model.sh keeps.
Where it cannot be fetched those tests skip and say so. Logs lie in build/PRESET/logs.
TEXT
}

refuse() {
  echo "run.sh: $1" >&2
  exit 64
}

parse_arguments() {
  local engine_suffix=""
  while (($# > 0)); do
    case $1 in
      --sanitizer)
        [[ ${2:-} == asan || ${2:-} == tsan ]] || refuse "--sanitizer needs asan or tsan, got '${2:-}'"
        preset=$2
        package_options+=(--checks)
        shift
        ;;
      --engine-only)
        cmake_options+=(-DFARSPAN_BUILD_SERVER=OFF)
        engine_suffix=-engine
        ;;
      -h | --help) usage && exit 0 ;;
      *) ctest_options+=("$1") ;;
    esac
    shift
  done
  build_dir=build/$preset$engine_suffix
  stages_log_dir=$build_dir/logs
}

# A model is welcome, not required: without one the tests that use it skip.
fetch_model() {
  deploy/get-model.sh || echo "no model: the tests that need one will skip"
}

find_model() {
  if [[ -n ${FARSPAN_TEST_MODEL:-} ]]; then return; fi
  stages_run model fetch_model
  local path
  path=$(deploy/get-model.sh --print-path)
  if [[ -f $path ]]; then
    export FARSPAN_TEST_MODEL=$path
  else
    echo "           The model could not be fetched (see $stages_log_dir/model.log): the tests that need it will skip."
  fi
}

run_ctest() {
  export ASAN_OPTIONS=${ASAN_OPTIONS:-strict_string_checks=1:detect_stack_use_after_return=1}
  export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
  export TSAN_OPTIONS=${TSAN_OPTIONS:-suppressions=$root/tests/support/tsan_suppressions.txt second_deadlock_stack=1}
  ctest --test-dir "$build_dir" --parallel "$(nproc)" --output-on-failure --no-tests=error "${ctest_options[@]}"
}

main() {
  trap stages_stop EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  parse_arguments "$@"
  stages_packages deploy/install-packages.sh "${package_options[@]}"
  find_model
  stages_use_ccache
  stages_run configure cmake --preset "$preset" -B "$build_dir" "${cmake_options[@]}"
  stages_run build cmake --build "$build_dir" --parallel "$(stages_build_jobs)"
  stages_failure_lines=200
  stages_run test run_ctest
  grep -E '^[0-9]+% tests passed' "$stages_log_dir/test.log"
}

main "$@"
