#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the image and the compose file promise, as far as it can be read from them without a container engine.
set -euo pipefail

# shellcheck source=tests/deploy/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/check.sh"

readonly dockerfile=$check_root/docker/Dockerfile.cpu compose=$check_root/docker/compose.yaml

expect_line() {
  run grep -E "$2" "$1"
  expect_status 0 "$1 should hold a line like $2"
}

test_the_image_runs_unprivileged_and_tells_its_health() {
  expect_line "$dockerfile" '^USER [0-9]+:[0-9]+$'
  expect_line "$dockerfile" '^HEALTHCHECK .*CMD \["farspan", "health"\]$'
  expect_line "$dockerfile" '^ENTRYPOINT \["farspan-server"\]$'
  expect_line "$dockerfile" '^EXPOSE 50051 8002$'
  expect_line "$compose" '^    read_only: true$'
}

test_every_port_is_on_loopback() {
  local published
  published=$(grep -cE '^ +- "[^"]*:[0-9]+:[0-9]+"$' "$compose")
  ((published == 4)) || fail "compose.yaml: expected four published ports, got $published"
  run grep -E '^ +- "[^"]*:[0-9]+:[0-9]+"$' "$compose"
  local line
  while read -r line; do
    [[ $line == *'"127.0.0.1:'* ]] || fail "compose.yaml publishes on every address: $line"
  done <<<"$check_output"
}

test_every_file_of_the_tree_that_is_mounted_or_copied_exists() {
  local path
  while read -r path; do
    [[ -e $check_root/docker/$path ]] || fail "compose.yaml mounts docker/$path, which is not there"
  done < <(grep -oE '"\.\./deploy/[^:]+' "$compose" | tr -d '"')
  while read -r path; do
    [[ -e $check_root/$path ]] || fail "Dockerfile.cpu copies $path, which is not there"
  done < <(sed -nE 's/^COPY ([^- .][^ ]*) .*/\1/p' "$dockerfile")
}

test_the_drain_fits_into_the_grace_period() {
  local grace notice timeout
  grace=$(sed -nE 's/^ +stop_grace_period: ([0-9]+)s$/\1/p' "$compose")
  notice=$(sed -nE 's/.*drain_notice_seconds = ([0-9]+);.*/\1/p' "$check_root/server/config.h")
  timeout=$(sed -nE 's/.*drain_timeout_seconds = ([0-9]+);.*/\1/p' "$check_root/server/config.h")
  ((grace > notice + timeout)) || fail "stop_grace_period is $grace s, draining may take $((notice + timeout)) s"
}

test_the_image_runs_unprivileged_and_tells_its_health
test_every_port_is_on_loopback
test_every_file_of_the_tree_that_is_mounted_or_copied_exists
test_the_drain_fits_into_the_grace_period
