# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# One line a stage with its time; on failure the stage, its log and the log's last lines. Sourced by the scripts that
# people run. The caller sets `stages_log_dir` and installs `stages_stop` in its EXIT trap.

stages_log_dir=${stages_log_dir:-}
stages_ticker_pid=""
stages_failure_lines=40

stages_now_tenths() {
  local now=${EPOCHREALTIME//[!0-9]/}
  echo "$((now / 100000))"
}

# stages_line SINCE_TENTHS WORD TEXT: one finished line, `[  12.3 s] build: ok`.
stages_line() {
  local elapsed=$(($(stages_now_tenths) - $1))
  stages_erase
  printf '[%5d.%d s] %s: %s\n' "$((elapsed / 10))" "$((elapsed % 10))" "$2" "$3"
}

stages_erase() {
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
}

# Shows the running stage, its time and the last line of its log; only on a terminal.
stages_ticker() {
  local name=$1 log=$2 since=$3 elapsed last columns
  columns=$(tput cols 2>/dev/null || echo 80)
  while sleep 0.5; do
    elapsed=$(($(stages_now_tenths) - since))
    last=$(tail -c 400 "$log" 2>/dev/null | tr -c '[:print:]\n' ' ' | grep -v '^ *$' | tail -n 1 || true)
    printf '\r\033[K%s' "$(printf '[%5d   s] %s: %s' "$((elapsed / 10))" "$name" "$last" | cut -c "1-$((columns - 1))")"
  done
}

stages_stop_ticker() {
  [[ -n $stages_ticker_pid ]] || return 0
  kill "$stages_ticker_pid" 2>/dev/null || true
  wait "$stages_ticker_pid" 2>/dev/null || true
  stages_ticker_pid=""
}

# Ends what a stage may have left behind: call it from the EXIT trap.
stages_stop() {
  if [[ -n $stages_ticker_pid ]]; then
    stages_stop_ticker
    stages_erase
  fi
}

# stages_run NAME COMMAND...: runs COMMAND with its output in a log of its own. A failure ends the script with COMMAND's
# exit status. COMMAND runs in a subshell: what it has to say to the caller goes through files.
stages_run() {
  local log log_fd since
  log=$(stages_new_log "$1")
  since=$(stages_now_tenths)
  if [[ -t 1 ]]; then
    stages_ticker "$1" "$log" "$since" &
    stages_ticker_pid=$!
  fi
  exec {log_fd}>>"$log"
  stages_finish "$1" "$log" "$since" "$log_fd" "$log_fd" "${@:2}"
  exec {log_fd}>&-
}

# stages_show NAME COMMAND...: the same for a command whose stdout is for the person; its stderr, too, where that is a
# terminal that shows progress.
stages_show() {
  local log log_fd since
  log=$(stages_new_log "$1")
  since=$(stages_now_tenths)
  exec {log_fd}>>"$log"
  if [[ -t 2 ]]; then
    stages_finish "$1" "$log" "$since" 1 2 "${@:2}"
  else
    stages_finish "$1" "$log" "$since" 1 "$log_fd" "${@:2}"
  fi
  exec {log_fd}>&-
}

stages_new_log() {
  mkdir -p "$stages_log_dir"
  local log=$stages_log_dir/${1// /-}.log
  : >"$log"
  echo "$log"
}

# stages_finish NAME LOG SINCE STDOUT_FD STDERR_FD COMMAND...
stages_finish() {
  local name=$1 log=$2 since=$3 status
  set +e
  (
    set -e
    "${@:6}"
  ) 1>&"$4" 2>&"$5" </dev/null
  status=$?
  set -e
  stages_stop_ticker
  if ((status != 0)); then
    stages_line "$since" "$name" "failed (exit status $status)"
    stages_explain "$name" "$log"
    exit "$status"
  fi
  stages_line "$since" "$name" ok
}

# stages_explain NAME LOG: what a person needs after a failure, on stderr.
stages_explain() {
  {
    echo "Stage '$1' failed. The last lines of $2:"
    tail -n "$stages_failure_lines" "$2" | sed 's/^/  | /'
  } >&2
}

# stages_packages INSTALLER OPTION...: the package stage; asks for the password before the stage hides the terminal.
stages_packages() {
  local missing
  missing=$("$@" --missing)
  if [[ -n $missing && $EUID -ne 0 ]] && command -v sudo >/dev/null; then
    echo "Debian packages to install with sudo: ${missing//$'\n'/ }"
    sudo -v
  fi
  stages_run packages "$@"
}

# Compiler jobs that the processors and the free memory allow; a job needs up to 1.5 GB.
stages_build_jobs() {
  local cores memory_jobs
  cores=$(nproc)
  memory_jobs=$(awk '/^MemAvailable:/ { print int($2 / 1500000) }' /proc/meminfo)
  if ((memory_jobs < 1)); then memory_jobs=1; fi
  echo "$((cores < memory_jobs ? cores : memory_jobs))"
}

# Lets CMake use ccache where it is installed; a launcher that the caller has chosen stays.
stages_use_ccache() {
  if [[ -z ${CMAKE_CXX_COMPILER_LAUNCHER:-} ]] && command -v ccache >/dev/null; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
  fi
}
