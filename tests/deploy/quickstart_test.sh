#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What quickstart.sh refuses before it does anything slow, and the prompt that it sends.
set -euo pipefail

# shellcheck source=tests/deploy/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/check.sh"

listener_pid=""
trap 'stop_listener; rm -rf "$check_scratch"' EXIT

stop_listener() {
  if [[ -n $listener_pid ]]; then kill "$listener_pid"; fi
}

# Listens on a free port of the loopback interface and writes its number once connections are taken.
start_listener() {
  mkfifo "$check_scratch/port"
  python3 -c '
import signal, socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    with open(sys.argv[1], "w") as port:
        print(listener.getsockname()[1], file=port)
    signal.pause()
' "$check_scratch/port" &
  listener_pid=$!
  busy_port=$(<"$check_scratch/port")
}

quickstart() {
  run "$check_root/deploy/quickstart.sh" --build-dir "$check_scratch/build" "$@"
}

expect_refusal() {
  local status=$1 sentence=$2
  shift 2
  quickstart "$@"
  expect_status "$status" "$*"
  [[ $check_output == "quickstart: $sentence" ]] || fail "$*: expected exactly 'quickstart: $sentence'"
  [[ ! -e $check_scratch/build ]] || fail "$*: something was made before the refusal"
}

test_help() {
  quickstart --help
  expect_status 0 "--help"
  expect_output "--metrics-port N" "--help"
}

test_bad_arguments_get_one_sentence() {
  expect_refusal 64 "unknown argument '--kep'; see --help" --kep
  expect_refusal 64 "--model needs a value" --model
  expect_refusal 64 "--grpc-port must be a port from 1 to 65535, got '0'" --grpc-port 0
  expect_refusal 64 "--metrics-port must be a port from 1 to 65535, got '65536'" --metrics-port 65536
  expect_refusal 64 "--grpc-port must be a port from 1 to 65535, got 'http'" --grpc-port http
  expect_refusal 64 "--grpc-port and --metrics-port must differ, both are 7000" --grpc-port 7000 --metrics-port 7000
  expect_refusal 66 "--model: '/nowhere/a.gguf' is no readable file" --model /nowhere/a.gguf
}

test_a_file_of_another_format_is_refused_before_the_build() {
  printf '\177ELF' >"$check_scratch/other"
  expect_refusal 65 "--model: '$check_scratch/other' is no GGUF file" --model "$check_scratch/other"
  : >"$check_scratch/other"
  expect_refusal 65 "--model: '$check_scratch/other' is no GGUF file" --model "$check_scratch/other"
}

test_a_build_directory_that_cannot_be_made_is_named() {
  : >"$check_scratch/file"
  run "$check_root/deploy/quickstart.sh" --yes --build-dir "$check_scratch/file/build" \
    --grpc-port 50989 --metrics-port 50990
  expect_status 73 "--build-dir below a file"
  expect_last_line "quickstart: cannot write in '$check_scratch/file/build'; choose another with --build-dir" \
    "--build-dir below a file"
}

test_a_busy_port_is_named() {
  start_listener
  expect_refusal 69 "port $busy_port on 127.0.0.1 is busy; choose another with --grpc-port" --grpc-port "$busy_port"
}

test_the_prompt_holds_the_fact_as_a_paragraph_near_its_place() {
  local place
  printf 'one\n\n%s\n\n%s\n' "$(printf 'word %.0s' {1..50})" "$(printf 'word %.0s' {1..150})" >"$check_scratch/text"
  run "$check_root/deploy/make_prompt.py" "$check_scratch/text" "$check_scratch/prompt"
  expect_status 0 "make_prompt.py"
  place=$(grep -n '^The access code of the archive room is 48213\. Remember it: the access code is 48213\.$' \
    "$check_scratch/prompt")
  [[ ${place%%:*} == 5 ]] || fail "make_prompt.py: expected the fact on line 5, got '$place'"
  [[ $(tail -n 2 "$check_scratch/prompt") == $'\nWhat is the access code of the archive room? Answer with the number.' ]] ||
    fail "make_prompt.py: expected an empty line and the question at the end"
  printf 'one paragraph' >"$check_scratch/text"
  run "$check_root/deploy/make_prompt.py" "$check_scratch/text" "$check_scratch/prompt"
  expect_status 1 "one paragraph"
  expect_output "no empty line between paragraphs" "one paragraph"
}

test_help
test_bad_arguments_get_one_sentence
test_a_file_of_another_format_is_refused_before_the_build
test_a_build_directory_that_cannot_be_made_is_named
test_a_busy_port_is_named
test_the_prompt_holds_the_fact_as_a_paragraph_near_its_place
