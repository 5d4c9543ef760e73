#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The stage lines: one a stage, and on failure the stage, its log and the log's last lines.
set -euo pipefail

# shellcheck source=tests/deploy/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/check.sh"

# stages SCRIPT: runs SCRIPT in a bash of its own that has sourced stages.sh.
stages() {
  run bash -c "set -euo pipefail; source '$check_root/deploy/stages.sh'; stages_log_dir=$check_scratch/logs; $1"
}

test_a_stage_is_one_line() {
  stages 'stages_run first echo hidden; stages_run second true'
  expect_status 0 "two stages"
  [[ $(wc -l <<<"$check_output") == 2 ]] || fail "two stages: expected two lines"
  expect_output "s] first: ok" "two stages"
  expect_no_output hidden "two stages"
  [[ $(cat "$check_scratch/logs/first.log") == hidden ]] || fail "two stages: the log lacks the command's output"
}

test_a_failure_names_stage_log_and_last_lines() {
  stages 'work() { echo started; false; echo not reached; }; stages_run "long work" work; echo not reached'
  expect_status 1 "failure"
  expect_output "s] long work: failed (exit status 1)" "failure"
  expect_output "Stage 'long work' failed. The last lines of $check_scratch/logs/long-work.log:" "failure"
  expect_output "  | started" "failure"
  expect_no_output "not reached" "failure"
}

test_the_exit_status_is_the_commands() {
  stages 'stages_run seven exit 7'
  expect_status 7 "exit status"
}

test_a_job_count_is_a_positive_number() {
  stages 'stages_build_jobs'
  [[ $check_output =~ ^[1-9][0-9]*$ ]] || fail "jobs: expected a positive number"
}

test_a_stage_is_one_line
test_a_failure_names_stage_log_and_last_lines
test_the_exit_status_is_the_commands
test_a_job_count_is_a_positive_number
