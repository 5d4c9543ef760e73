#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone on Debian 12 to three attention policies compared on a long text with a real model, over gRPC.
set -euo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=deploy/stages.sh
source "$root/deploy/stages.sh"

readonly text_path=/usr/share/common-licenses/LGPL-2.1
readonly fact=48213
readonly window="window { sink_tokens: 4 window_tokens: 1024 }"
readonly quest="quest { budget_tokens: 512 }"
readonly host=127.0.0.1
readonly packages_download_mb=140 packages_disk_mb=700 build_disk_mb=50 cuda_disk_mb=250 model_disk_mb=200
readonly build_cpu_minutes=11 cuda_cpu_minutes=5

keep=false
assume_yes=false
model_path=""
grpc_port=50051
metrics_port=8002
build_dir=$root/build/quickstart
run_dir=""
server_pid=""

usage() {
  cat <<TEXT
usage: deploy/quickstart.sh [--keep] [--yes] [--model PATH] [--grpc-port N] [--metrics-port N] [--build-dir DIR]

Installs the Debian packages, builds Farspan, fetches a model, starts the server, sends it a long text under the
attention policies 'dense', 'window' and 'quest', prints what each cost and answered, and stops the server. Run again, it reuses
what is there.

  --keep            leave the server running and print how to talk to it
  --yes             install packages without asking first
  --model PATH      use this GGUF file instead of the one that deploy/get-model.sh fetches
  --grpc-port N     port of the gRPC services (default $grpc_port)
  --metrics-port N  port of /metrics, /livez and /readyz (default $metrics_port)
  --build-dir DIR   build and keep the logs there (default build/quickstart)
TEXT
}

refuse() {
  echo "quickstart: $1" >&2
  exit "${2:-64}"
}

# value_of FLAG VALUE...: the flag's value, or a refusal where there is none.
value_of() {
  if (($# < 2)) || [[ -z $2 ]]; then refuse "$1 needs a value"; fi
  printf '%s' "$2"
}

port_of() {
  local value
  value=$(value_of "$@")
  if [[ ! $value =~ ^[0-9]{1,5}$ ]] || ((10#$value < 1 || 10#$value > 65535)); then
    refuse "$1 must be a port from 1 to 65535, got '$value'"
  fi
  echo "$((10#$value))"
}

parse_arguments() {
  while (($# > 0)); do
    case $1 in
      --keep) keep=true ;;
      --yes) assume_yes=true ;;
      --model)
        model_path=$(value_of "${@:1:2}")
        shift
        ;;
      --grpc-port)
        grpc_port=$(port_of "${@:1:2}")
        shift
        ;;
      --metrics-port)
        metrics_port=$(port_of "${@:1:2}")
        shift
        ;;
      --build-dir)
        build_dir=$(realpath -m -- "$(value_of "${@:1:2}")")
        shift
        ;;
      -h | --help) usage && exit 0 ;;
      *) refuse "unknown argument '$1'; see --help" ;;
    esac
    shift
  done
  [[ $grpc_port != "$metrics_port" ]] || refuse "--grpc-port and --metrics-port must differ, both are $grpc_port"
  run_dir=$build_dir/run
  stages_log_dir=$build_dir/logs
}

# Everything that can be known before minutes are spent.
check_before() {
  if [[ -n $model_path ]]; then
    [[ -f $model_path && -r $model_path ]] || refuse "--model: '$model_path' is no readable file" 66
    [[ $(head -c 4 -- "$model_path" | tr -d '\0') == GGUF ]] || refuse "--model: '$model_path' is no GGUF file" 65
    model_path=$(realpath -- "$model_path")
  fi
  [[ -r $text_path ]] || refuse "$text_path is missing; the package base-files holds it" 66
  check_port --grpc-port "$grpc_port"
  check_port --metrics-port "$metrics_port"
}

check_port() {
  # The subshell's connection closes with it; a refused connection means that nothing listens.
  if (exec 3<>"/dev/tcp/$host/$2") 2>/dev/null; then
    local owner=""
    if [[ -r $run_dir/server.pid ]] && kill -0 "$(<"$run_dir/server.pid")" 2>/dev/null; then
      owner=", perhaps the server of an earlier --keep (stop it with: kill $(<"$run_dir/server.pid"))"
    fi
    refuse "port $2 on $host is busy$owner; choose another with $1" 69
  fi
}

# Says what the run takes, as far as it is not there yet, and refuses where the disk cannot hold it.
announce() {
  local missing=$1 disk_mb=0 minutes=2 free_mb
  echo "Farspan quickstart: one long text under three attention policies, with a real model, over gRPC."
  echo "It takes:"
  if [[ -n $missing ]]; then
    echo "  packages  $(wc -l <<<"$missing") of Debian's: $packages_download_mb MB to download, $packages_disk_mb MB of disk, some minutes"
    disk_mb=$((disk_mb + packages_disk_mb))
    minutes=$((minutes + 3))
  fi
  if [[ -x $build_dir/bin/farspan-server && -x $build_dir/bin/farspan ]]; then
    echo "  build     there already; only what has changed is built again"
  else
    local jobs build_minutes build_mb=$build_disk_mb
    jobs=$(stages_build_jobs)
    build_minutes=$((build_cpu_minutes / jobs + 1))
    if has_gpu; then
      build_minutes=$(((build_cpu_minutes + cuda_cpu_minutes) / jobs + 1))
      build_mb=$((build_disk_mb + cuda_disk_mb))
    fi
    echo "  build     about $build_minutes minutes with $jobs compiler jobs, $build_mb MB of disk, up to 1.5 GB of memory a job"
    disk_mb=$((disk_mb + build_mb))
    minutes=$((minutes + build_minutes))
  fi
  if [[ -z $model_path && ! -f $("$root/deploy/get-model.sh" --print-path) ]]; then
    echo "  model     93 MB to download, 98 MB kept in $(dirname "$("$root/deploy/get-model.sh" --print-path)")"
    disk_mb=$((disk_mb + model_disk_mb))
    minutes=$((minutes + 1))
  fi
  echo "  compare   about 2 minutes on two cores, 0.5 GB of memory"
  echo "In all about $minutes minutes. Ctrl-C stops everything, the server too."
  free_mb=$(df --output=avail -m "$root" | tail -n 1)
  ((free_mb >= disk_mb)) || refuse "the disk of $root has $((free_mb)) MB left, $disk_mb MB are needed" 75
}

confirm_packages() {
  if [[ -z $1 || $assume_yes == true || ! -t 0 ]]; then return; fi
  local answer
  read -r -p "Install these Debian packages: ${1//$'\n'/ }? [Y/n] " answer
  [[ -z $answer || $answer == [Yy]* ]] || refuse "nothing was installed" 75
}

make_directories() {
  if ! mkdir -p "$run_dir" "$stages_log_dir" 2>/dev/null || [[ ! -w $run_dir || ! -w $stages_log_dir ]]; then
    refuse "cannot write in '$build_dir'; choose another with --build-dir" 73
  fi
}

has_gpu() { [[ -e /dev/nvidia0 || -e /dev/dxg ]]; }

# Device code takes minutes to build, which pay only where there is a device.
configure_and_build() {
  local cuda=OFF
  if has_gpu; then cuda=AUTO; fi
  cmake -S "$root" -B "$build_dir" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFARSPAN_BUILD_TESTS=OFF -DFARSPAN_CUDA=$cuda
  cmake --build "$build_dir" --parallel "$(stages_build_jobs)" --target farspan-server farspan
}

find_model() {
  if [[ -n $model_path ]]; then return; fi
  stages_run model "$root/deploy/get-model.sh"
  model_path=$("$root/deploy/get-model.sh" --print-path)
}

# In a session of its own, so that a terminal's Ctrl-C reaches this script alone and the server is drained in order.
start_server() {
  mkdir -p "$run_dir"
  setsid "$build_dir/bin/farspan-server" --model "$model_path" --host "$host" --grpc-port "$grpc_port" \
    --metrics-port "$metrics_port" --drain-notice-seconds 0 >"$run_dir/server.log" 2>&1 </dev/null &
  server_pid=$!
  echo "$server_pid" >"$run_dir/server.pid"
}

wait_for_health() {
  local deadline=$((SECONDS + 120))
  until "$build_dir/bin/farspan" health --server "$host:$grpc_port" 2>/dev/null; do
    if ! kill -0 "$server_pid" 2>/dev/null; then
      echo "The server ended before it was healthy. Its log, $run_dir/server.log:"
      tail -n 20 "$run_dir/server.log"
      return 70
    fi
    if ((SECONDS >= deadline)); then
      echo "The server was not healthy within 120 seconds. Its log, $run_dir/server.log:"
      tail -n 20 "$run_dir/server.log"
      return 75
    fi
    sleep 0.2
  done
}

stop_server() {
  [[ -n $server_pid ]] || return 0
  kill -TERM "$server_pid" 2>/dev/null || true
  local waited
  for ((waited = 0; waited < 150; ++waited)); do
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  if kill -KILL "$server_pid" 2>/dev/null; then echo "The server did not stop within 15 seconds and was killed." >&2; fi
  wait "$server_pid" 2>/dev/null || true
  rm -f "$run_dir/server.pid"
  server_pid=""
}

compare() {
  "$build_dir/bin/farspan" compare --server "$host:$grpc_port" --chat --prompt-file "$run_dir/prompt.txt" \
    --reference dense --attention "$window" --attention "$quest" --find "$fact" --max-tokens 24 --temperature 0
}

explain_how_to_talk() {
  cat <<TEXT

The server runs on (process $server_pid, log $run_dir/server.log). Talk to it:
  $build_dir/bin/farspan generate --server $host:$grpc_port --chat --prompt 'What is attention?' --max-tokens 64
  $build_dir/bin/farspan chat --server $host:$grpc_port --attention '$window'
  $build_dir/bin/farspan compare --server $host:$grpc_port --chat --prompt-file $run_dir/prompt.txt --attention '$window' --find $fact
  $build_dir/bin/farspan policies --server $host:$grpc_port
Metrics: http://$host:$metrics_port/metrics
Stop it: kill $server_pid
TEXT
}

clean_up() {
  local status=$?
  trap '' INT TERM
  stages_stop
  stop_server
  if ((status == 130 || status == 143)); then echo "Interrupted; nothing is left running." >&2; fi
}

main() {
  parse_arguments "$@"
  check_before
  local missing
  missing=$("$root/deploy/install-packages.sh" --missing)
  announce "$missing"
  confirm_packages "$missing"
  make_directories
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  stages_packages "$root/deploy/install-packages.sh"
  stages_use_ccache
  stages_run build configure_and_build
  find_model
  start_server
  stages_run server wait_for_health
  "$root/deploy/make_prompt.py" "$text_path" "$run_dir/prompt.txt"
  stages_show compare compare
  if $keep; then
    explain_how_to_talk
    server_pid=""
  else
    local since
    since=$(stages_now_tenths)
    stop_server
    stages_line "$since" stop ok
  fi
}

main "$@"
