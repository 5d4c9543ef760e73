// SPDX-License-Identifier: Apache-2.0
#include "server/lifecycle.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/attention_text.h"
#include "server/model_loader.h"
#include "server/server.h"
#include "server/server_log.h"

namespace farspan {
namespace {

constexpr std::chrono::milliseconds kFaultPoll(100);
constexpr std::chrono::milliseconds kLastFlush(500);

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Ends the process without destructors, which may wait for a file or a device that never answers.
[[noreturn]] void LeaveAtOnce(ExitCode code, absl::string_view why) {
  LogLine(LogLevel::kInfo, JsonLine("stopped").Add("message", why).Add("exit_code", static_cast<int64_t>(code)));
  FlushServerLog(std::chrono::steady_clock::now() + kLastFlush);
  std::_Exit(static_cast<int>(code));
}

// Turns signals into events, on a thread of its own. Every other thread blocks them.
class SignalWatcher {
 public:
  // Signals wait from here on.
  SignalWatcher() {
    const sigset_t signals = StopSignals();
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

  // After the log has been started, so that the process never leaves without a last line.
  void Start() {
    std::thread([this] { Watch(StopSignals()); }).detach();
  }

  // The process leaves at once on a signal until this is called: there is nothing to drain.
  void StartServing() { serving_.store(true); }

  OneShot& stop() { return stop_; }
  OneShot& cut() { return cut_; }

 private:
  [[noreturn]] void Watch(sigset_t signals) {
    while (true) {
      int number = 0;
      sigwait(&signals, &number);
      if (!serving_.load()) LeaveAtOnce(ExitCode::kDrained, "stopped before the model was loaded");
      (stop_.is_set() ? cut_ : stop_).Set();
    }
  }

  std::atomic<bool> serving_{false};
  OneShot stop_;
  OneShot cut_;
};

// A core would hold prompts.
void ForbidCores() {
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  prctl(PR_SET_DUMPABLE, 0);
}

// 1.51 has known floods that cost little and do much; see SECURITY.md.
void WarnOfOldLibrary(const ServerConfig& config) {
  const std::vector<std::string> parts = absl::StrSplit(grpc::Version(), '.');
  int minor = 0;
  const bool old = parts.size() > 1 && parts[0] == "1" && absl::SimpleAtoi(parts[1], &minor) && minor < 57;
  if (!old || config.on_loopback()) return;
  LogLine(LogLevel::kWarning,
          JsonLine("old_grpc")
              .Add("version", grpc::Version())
              .Add("message", "this version of gRPC is not fit for an untrusted network: put a proxy in front"));
}

void LogStart(const Server& server, const ServerConfig& config) {
  const ServedModel& model = server.model();
  const Engine& engine = *model.engine;
  const int64_t kv_mib = engine.kv_cache_bytes() >> 20;
  LogLine(LogLevel::kInfo,
          JsonLine("serving")
              .Add("message", absl::StrCat("serving ", model.name, " on ", config.host, ":", server.grpc_port(),
                                           " (gRPC) and ", server.http_port(), " (metrics): context ",
                                           model.shape.max_context_tokens, " tokens, KV cache ", kv_mib, " MiB, ",
                                           model.device.is_cuda() ? std::string(engine.backend().name())
                                                                  : absl::StrCat(model.num_threads, " threads")))
              .Add("model", model.name)
              .Add("backend", std::string(engine.backend().name()))
              .Add("device", model.device.name)
              .Add("device_reason", model.device.reason)
              .Add("threads", model.num_threads)
              .Add("context_tokens", model.shape.max_context_tokens)
              .Add("weight_bytes", engine.model_info().weight_bytes)
              .Add("kv_cache_bytes", engine.kv_cache_bytes())
              .Add("kv_cache_dtype", KvDtypeName(model.shape.kv_dtype))
              .Add("attention_policy", AttentionText(WithDefaults(model.default_attention)))
              .Add("host", config.host)
              .Add("grpc_port", server.grpc_port())
              .Add("metrics_port", server.http_port())
              .Add("grpc_version", grpc::Version()));
}

ExitCode Fail(ExitCode code, absl::string_view sentence) {
  LogLine(LogLevel::kError, JsonLine("failed").Add("message", sentence).Add("exit_code", static_cast<int64_t>(code)));
  return code;
}

ExitCode ServeUntilStopped(const CommandLine& line, SignalWatcher* signals) {
  absl::StatusOr<Ports> ports = OpenPorts(line.config);
  if (!ports.ok()) return Fail(ExitCode::kInternal, ports.status().message());
  Server server(line, *std::move(ports));
  LogLine(LogLevel::kInfo, JsonLine("loading").Add("model", ServedModelName(line.config)));
  LoadError error;
  std::unique_ptr<ServedModel> model = LoadServedModel(line.config, server.metrics(), &error);
  if (model == nullptr) return Fail(error.exit_code, error.sentence);
  signals->StartServing();
  if (const absl::Status status = server.Serve(std::move(model)); !status.ok()) {
    return Fail(ExitCode::kInternal, status.message());
  }
  LogStart(server, line.config);
  WarnOfOldLibrary(line.config);
  while (!signals->stop().WaitUntil(std::chrono::steady_clock::now() + kFaultPoll)) {
    const absl::Status fault = server.model().engine->stats().fault;
    if (fault.ok()) continue;
    Fail(ExitCode::kDeviceLost, fault.message());
    server.AnnounceFault();
    LeaveAtOnce(ExitCode::kDeviceLost, "the device has failed for good");
  }
  const ExitCode code = server.Drain(&signals->cut());
  if (server.num_calls() > 0) LeaveAtOnce(code, "calls did not end even when they were cut");
  return code;
}

}  // namespace

ExitCode RunServer(const CommandLine& line) {
  ForbidCores();
  // Both outlive every thread: the watcher waits for signals until the process ends.
  static SignalWatcher* const signals = new SignalWatcher;
  static LogWriter* const writer = new LogWriter(STDERR_FILENO);
  StartServerLog(writer, line.config.log_level);
  for (const std::string& warning : line.warnings) {
    LogLine(LogLevel::kWarning, JsonLine("unknown_variable").Add("message", warning));
  }
  signals->Start();
  const ExitCode code = ServeUntilStopped(line, signals);
  FlushServerLog(std::chrono::steady_clock::now() + kLastFlush);
  StopServerLog();
  return code;
}

}  // namespace farspan
