// SPDX-License-Identifier: Apache-2.0
#include "server/server_log.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/sinks/sink.h>
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace farspan {
namespace {

std::atomic<LogWriter*> g_writer{nullptr};
std::atomic<LogLevel> g_level{LogLevel::kInfo};

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

LogLevel FromSpdlog(spdlog::level::level_enum level) {
  if (level <= spdlog::level::debug) return LogLevel::kDebug;
  if (level == spdlog::level::info) return LogLevel::kInfo;
  return level == spdlog::level::warn ? LogLevel::kWarning : LogLevel::kError;
}

// The engine's lines: their text becomes the field "message".
class JsonSink final : public spdlog::sinks::sink {
 public:
  void log(const spdlog::details::log_msg& message) override {
    JsonLine line("log");
    line.Add("message", absl::string_view(message.payload.data(), std::min<size_t>(message.payload.size(), 4096)));
    LogLine(FromSpdlog(message.level), line);
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}
};

}  // namespace

void StartServerLog(LogWriter* writer, LogLevel level) {
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/1);
  gpr_set_log_function([](gpr_log_func_args*) {});
  google::protobuf::SetLogHandler(nullptr);
  g_level.store(level);
  g_writer.store(writer);
  auto logger = std::make_shared<spdlog::logger>("farspan", std::make_shared<JsonSink>());
  logger->set_level(SpdlogLevel(level));
  spdlog::set_default_logger(std::move(logger));
}

void StopServerLog() { g_writer.store(nullptr); }

void FlushServerLog(SteadyTime deadline) {
  if (LogWriter* const writer = g_writer.load()) writer->Flush(deadline);
}

void LogLine(LogLevel level, const JsonLine& line) {
  LogWriter* const writer = g_writer.load();
  if (writer == nullptr || level < g_level.load()) return;
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  writer->Write(absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(level), "\",", line.fields(), "}"));
}

int64_t NumLogLinesDropped() {
  const LogWriter* const writer = g_writer.load();
  return writer == nullptr ? 0 : writer->num_dropped();
}

}  // namespace farspan
