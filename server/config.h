// SPDX-License-Identifier: Apache-2.0
// The server's settings: what they are, and how flags and environment become them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/device.h"
#include "engine/base/model_shape.h"
#include "farspan/v1/attention.pb.h"

namespace farspan {

enum class CpuIsaChoice : uint8_t { kAuto, kPortable, kAvx2, kAvx512 };
enum class MetricsCompat : uint8_t { kVllm, kOff };
enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

// Immutable once parsed. A value is only ever changed through the flag table.
struct ServerConfig {
  std::string model_path;         // of a GGUF file, or the name of a hash or random model
  std::string served_model_name;  // empty: the model file's name without its extension
  std::string host = "127.0.0.1";
  int64_t grpc_port = 50051;             // 0 takes a free port
  int64_t metrics_port = 8002;           // 0 takes a free port
  std::optional<int64_t> max_model_len;  // absent: the model's context
  std::optional<int64_t> max_num_seqs;   // absent: as BatchLimitsOn says, as below
  std::optional<int64_t> max_num_batched_tokens;
  int64_t max_num_queued_reqs = 256;
  std::optional<int64_t> max_num_queued_reqs_per_tenant;  // absent: max_num_queued_reqs
  std::optional<int64_t> max_num_queued_tokens;           // absent: 8 contexts
  std::optional<int64_t> kv_cache_bytes;                  // absent: what the device has
  double gpu_memory_utilization = 0.9;                    // share of a GPU's memory that the server may hold
  KvDtype kv_cache_dtype = KvDtype::kBf16;
  std::optional<int64_t> block_size;  // tokens of a KV page; absent: the device's default
  std::string device = "auto";        // or "cpu" or "cuda:N"
  std::optional<int64_t> threads;     // absent: physical cores that this process may use
  CpuIsaChoice cpu_isa = CpuIsaChoice::kAuto;
  v1::AttentionSpec attention_policy;
  bool insecure = false;
  int64_t max_request_bytes = 4 << 20;
  int64_t max_request_seconds = 600;  // for calls without a deadline; 0 has no limit
  int64_t max_queue_seconds = 30;     // without a first step; 0 has no limit
  int64_t max_itl_ms = 0;             // longest step that decodes wait for; 0 has no bound
  bool enable_prefix_caching = true;
  bool trust_tenant_header = false;  // else all requests are one tenant's
  int64_t text_threads = 2;
  int64_t keepalive_time_seconds = 30;
  int64_t keepalive_timeout_seconds = 10;
  int64_t max_connections = 2048;
  int64_t max_connections_per_address = 256;
  int64_t max_streams_per_connection = 128;
  int64_t drain_notice_seconds = 5;
  int64_t drain_timeout_seconds = 45;
  LogLevel log_level = LogLevel::kInfo;
  std::optional<bool> reflection;  // absent: on loopback only
  MetricsCompat metrics_compat = MetricsCompat::kVllm;

  bool on_loopback() const;
  bool serves_reflection() const { return reflection.value_or(on_loopback()); }

  ServerConfig();
};

// One setting as it will be used.
struct ConfigValue {
  std::string name;
  std::string value;
  std::string source;  // "default", "environment" or "flag"
};

enum class CommandAction : uint8_t { kServe, kHelp, kVersion, kPrintConfig };

// What a command line asks for. `errors` holds one sentence for each mistake found in it and in the environment; the
// rest is complete only if there is none. `warnings` name variables of the environment that no flag has.
struct CommandLine {
  CommandAction action = CommandAction::kServe;
  ServerConfig config;
  std::vector<ConfigValue> values;
  std::vector<std::string> errors;
  std::vector<std::string> warnings;
};

// The environment's variables that begin with FARSPAN_, as (name, value).
using Environment = std::vector<std::pair<std::string, std::string>>;

// Flags before environment before defaults. `arguments` is without the program's name.
CommandLine ParseCommandLine(const std::vector<std::string>& arguments, const Environment& environment);

Environment ProcessEnvironment();

std::string HelpText();
// The device of these settings on this machine; fails as ChooseDevice does, and for a GPU under the hash model.
absl::StatusOr<DeviceChoice> ChooseServedDevice(const ServerConfig& config);

// Of one step. What is not set is 256 requests and 8,192 tokens on a GPU and 64 and 512 elsewhere, and gives way to
// what is: fewer requests than that where a step has fewer tokens, more tokens where it has more requests.
struct BatchLimits {
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
};
BatchLimits BatchLimitsOn(bool gpu, const ServerConfig& config);

// "SmolLM2-135M" for "/models/SmolLM2-135M.gguf", "hash" for the hash model,
// "random-llama-3.1-8b" for a random one, unless the settings name it.
std::string ServedModelName(const ServerConfig& config);

// How many contexts of prompt tokens may wait where nobody says.
inline constexpr int64_t kQueuedContexts = 8;

// The line's values with the device chosen, its reason beside its source, and what the settings come to as far as that
// is known without opening a model file.
std::vector<ConfigValue> WithDeviceChosen(const CommandLine& line);
// One setting a line: `name = value  # source`.
std::string ConfigText(const std::vector<ConfigValue>& values);

}  // namespace farspan
