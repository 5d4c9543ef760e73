#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What is shipped for Prometheus is valid, and each alert fires when it should and not before. Skipped without promtool.
set -euo pipefail

# shellcheck source=tests/deploy/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/check.sh"

readonly folder=$check_root/deploy/prometheus

test_configuration_and_rules_are_valid() {
  run promtool check config "$folder/prometheus.yml"
  expect_status 0 "check config"
  expect_output "SUCCESS: 1 rule files found" "check config"
}

test_alerts_fire_when_they_should() {
  cd "$folder"
  run promtool test rules alerts_test.yml
  expect_status 0 "test rules"
}

test_every_alert_is_tested() {
  local alert
  while read -r alert; do
    grep -q "alertname: $alert" "$folder/alerts_test.yml" || fail "$alert has no test in alerts_test.yml"
  done < <(sed -n 's/^ *- alert: //p' "$folder/alerts.yml")
}

if ! command -v promtool >/dev/null; then
  echo "skipped: promtool is not installed (Debian package prometheus)"
  exit 77
fi
test_configuration_and_rules_are_valid
test_alerts_fire_when_they_should
test_every_alert_is_tested
