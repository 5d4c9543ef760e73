// SPDX-License-Identifier: Apache-2.0
#include "server/flag_table.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "engine/base/math.h"
#include "engine/model/hash_model_options.h"
#include "engine/model/random_model_options.h"
#include "server/attention_text.h"

namespace farspan {
namespace {

absl::Status Rule(std::string text) { return absl::InvalidArgumentError(std::move(text)); }

struct IntRange {
  int64_t minimum;
  int64_t maximum;
};

absl::Status SetInt(absl::string_view value, IntRange range, int64_t* out) {
  int64_t parsed = 0;
  if (!absl::SimpleAtoi(value, &parsed) || parsed < range.minimum || parsed > range.maximum) {
    return Rule(absl::StrCat("must be a whole number from ", range.minimum, " to ", range.maximum));
  }
  *out = parsed;
  return absl::OkStatus();
}

Flag IntFlag(absl::string_view name, absl::string_view value_name, int64_t ServerConfig::*field, IntRange range,
             std::string doc) {
  return {name, value_name, std::move(doc),
          [=](absl::string_view value, ServerConfig* config) { return SetInt(value, range, &(config->*field)); },
          [=](const ServerConfig& config) { return absl::StrCat(config.*field); }};
}

Flag OptionalIntFlag(absl::string_view name, absl::string_view value_name, std::optional<int64_t> ServerConfig::*field,
                     IntRange range, std::string doc, absl::string_view absent) {
  return {
      name, value_name, std::move(doc),
      [=](absl::string_view value, ServerConfig* config) { return SetInt(value, range, &(config->*field).emplace()); },
      [=](const ServerConfig& config) {
        return (config.*field).has_value() ? absl::StrCat(*(config.*field)) : std::string(absent);
      }};
}

// "512MiB", "2GiB", "1000000": binary and decimal suffixes.
std::optional<int64_t> ParseByteCount(absl::string_view text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  uint64_t number = 0;
  if (digits == 0 || !absl::SimpleAtoi(text.substr(0, digits), &number)) return std::nullopt;
  static constexpr std::pair<absl::string_view, uint64_t> kSuffixes[] = {{"", 1},
                                                                         {"b", 1},
                                                                         {"k", 1ull << 10},
                                                                         {"kib", 1ull << 10},
                                                                         {"m", 1ull << 20},
                                                                         {"mib", 1ull << 20},
                                                                         {"g", 1ull << 30},
                                                                         {"gib", 1ull << 30},
                                                                         {"t", 1ull << 40},
                                                                         {"tib", 1ull << 40},
                                                                         {"kb", 1000},
                                                                         {"mb", 1000000},
                                                                         {"gb", 1000000000},
                                                                         {"tb", 1000000000000}};
  const std::string suffix = absl::AsciiStrToLower(text.substr(digits));
  for (const auto& [name, factor] : kSuffixes) {
    if (suffix != name) continue;
    const std::optional<uint64_t> bytes = CheckedMultiply(number, factor);
    if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(*bytes);
  }
  return std::nullopt;
}

absl::Status SetBytes(absl::string_view value, IntRange range, int64_t* out) {
  const std::optional<int64_t> bytes = ParseByteCount(value);
  if (!bytes || *bytes < range.minimum || *bytes > range.maximum) {
    return Rule(absl::StrCat("must be a number of bytes from ", range.minimum, " to ", range.maximum,
                             ", with a suffix such as MiB or GiB if wanted"));
  }
  *out = *bytes;
  return absl::OkStatus();
}

Flag StringFlag(absl::string_view name, absl::string_view value_name, std::string ServerConfig::*field,
                std::string doc) {
  return {name, value_name, std::move(doc),
          [=](absl::string_view value, ServerConfig* config) {
            if (value.empty()) return Rule("must not be empty");
            config->*field = std::string(value);
            return absl::OkStatus();
          },
          [=](const ServerConfig& config) { return config.*field; }};
}

template <typename E>
using Choices = std::vector<std::pair<absl::string_view, E>>;

template <typename E>
Flag ChoiceFlag(absl::string_view name, absl::string_view value_name, E ServerConfig::*field, Choices<E> choices,
                std::string doc) {
  return {name, value_name, std::move(doc),
          [=](absl::string_view value, ServerConfig* config) {
            std::string names;
            for (const auto& [choice, meaning] : choices) {
              if (value == choice) {
                config->*field = meaning;
                return absl::OkStatus();
              }
              absl::StrAppend(&names, names.empty() ? "" : ", ", choice);
            }
            return Rule(absl::StrCat("must be one of ", names));
          },
          [=](const ServerConfig& config) {
            // The last of several names of one value is the exact one: "auto" stands before what it means.
            absl::string_view shown;
            for (const auto& [choice, meaning] : choices) {
              if (config.*field == meaning) shown = choice;
            }
            return std::string(shown);
          }};
}

std::optional<bool> ParseBool(absl::string_view value) {
  const std::string lower = absl::AsciiStrToLower(value);
  if (lower == "true" || lower == "1" || lower == "yes" || lower == "on") return true;
  if (lower == "false" || lower == "0" || lower == "no" || lower == "off") return false;
  return std::nullopt;
}

template <typename Field>
Flag Switch(absl::string_view name, Field ServerConfig::*field, std::string doc,
            std::function<bool(const ServerConfig&)> effective) {
  return {name, "", std::move(doc),
          [=](absl::string_view value, ServerConfig* config) {
            const std::optional<bool> parsed = ParseBool(value);
            if (!parsed) return Rule("must be true or false");
            config->*field = *parsed;
            return absl::OkStatus();
          },
          [=](const ServerConfig& config) { return std::string(effective(config) ? "true" : "false"); }};
}

Flag ModelFlag() {
  return {"model", "PATH",
          "The model: a GGUF file, random: and a shape, or hash: for the hash model, both described below. Required.",
          [](absl::string_view value, ServerConfig* config) {
            if (value.empty()) return Rule("must not be empty");
            std::string name(value);
            if (IsHashModelName(name)) {
              if (const auto options = ParseHashModelName(name); !options.ok()) return options.status();
            }
            if (IsRandomModelName(name)) {
              if (const auto options = ParseRandomModelName(name); !options.ok()) return options.status();
            }
            config->model_path = std::move(name);
            return absl::OkStatus();
          },
          [](const ServerConfig& config) { return config.model_path; }};
}

Flag BlockSizeFlag() {
  return {"block-size", "TOKENS", "Tokens of a KV page: 16, 32 or 64; 64 on a GPU and 32 on the CPU by default.",
          [](absl::string_view value, ServerConfig* config) {
            if (value != "16" && value != "32" && value != "64") return Rule("must be one of 16, 32, 64");
            return SetInt(value, {16, 64}, &config->block_size.emplace());
          },
          [](const ServerConfig& config) {
            return config.block_size ? absl::StrCat(*config.block_size) : std::string("auto");
          }};
}

Flag DeviceFlag() {
  return {"device", "DEVICE",
          "What runs the model: auto, cpu or cuda:N; auto takes cuda:0 where it can be used, else the CPU.",
          [](absl::string_view value, ServerConfig* config) {
            if (!IsDeviceText(std::string_view(value.data(), value.size()))) return Rule(kDeviceRule);
            config->device = std::string(value);
            return absl::OkStatus();
          },
          [](const ServerConfig& config) { return config.device; }};
}

Flag AttentionPolicyFlag() {
  return {"attention-policy", "POLICY",
          "Policy of requests that name none, as text: 'dense' or 'window { sink_tokens: 4 window_tokens: 1024 }'.",
          [](absl::string_view value, ServerConfig* config) {
            absl::StatusOr<v1::AttentionSpec> spec = ParseAttentionText(value);
            if (!spec.ok()) return Rule(std::string(spec.status().message()));
            config->attention_policy = *std::move(spec);
            return absl::OkStatus();
          },
          [](const ServerConfig& config) { return AttentionText(config.attention_policy); }};
}

Flag KvCacheBytesFlag() {
  static constexpr IntRange kRange{1 << 16, int64_t{1} << 50};
  return {"kv-cache-bytes", "BYTES",
          "Memory for KV pages, as 2GiB or 2147483648; by default what --gpu-memory-utilization leaves on a GPU, and "
          "on the CPU four full contexts, at most a quarter of the memory, but never less than one context.",
          [](absl::string_view value, ServerConfig* config) {
            return SetBytes(value, kRange, &config->kv_cache_bytes.emplace());
          },
          [](const ServerConfig& config) {
            return config.kv_cache_bytes ? absl::StrCat(*config.kv_cache_bytes) : std::string("auto");
          }};
}

Flag GpuMemoryUtilizationFlag() {
  return {"gpu-memory-utilization", "SHARE",
          "Share of a GPU's memory that weights, activations and KV pages may take together, above 0 and at most 1.",
          [](absl::string_view value, ServerConfig* config) {
            double share = 0;
            if (!absl::SimpleAtod(value, &share) || !(share > 0 && share <= 1)) {
              return Rule("must be a number above 0 and at most 1");
            }
            config->gpu_memory_utilization = share;
            return absl::OkStatus();
          },
          [](const ServerConfig& config) { return absl::StrCat(config.gpu_memory_utilization); }};
}

Flag MaxRequestBytesFlag() {
  static constexpr IntRange kRange{1024, int64_t{1} << 30};
  return {
      "max-request-bytes", "BYTES", "Largest request message, as 4MiB or 4194304.",
      [](absl::string_view value, ServerConfig* config) { return SetBytes(value, kRange, &config->max_request_bytes); },
      [](const ServerConfig& config) { return absl::StrCat(config.max_request_bytes); }};
}

void AppendModelFlags(std::vector<Flag>* flags) {
  flags->push_back(ModelFlag());
  flags->push_back(DeviceFlag());
  flags->push_back(StringFlag("served-model-name", "NAME", &ServerConfig::served_model_name,
                              "The name that requests may give; by default the model file's, without extension."));
  flags->push_back(OptionalIntFlag("max-model-len", "TOKENS", &ServerConfig::max_model_len, {1, 1 << 24},
                                   "Longest prompt and output together; the model's context by default.", "auto"));
  flags->push_back(ChoiceFlag<KvDtype>("kv-cache-dtype", "TYPE", &ServerConfig::kv_cache_dtype,
                                       {{"auto", KvDtype::kBf16},
                                        {"bf16", KvDtype::kBf16},
                                        {"fp16", KvDtype::kF16},
                                        {"fp8_e4m3", KvDtype::kF8E4M3},
                                        {"fp8", KvDtype::kF8E4M3},
                                        {"f32", KvDtype::kF32}},
                                       "Element type of the KV cache: auto, bf16, fp16, fp8 (e4m3) or f32."));
  flags->push_back(KvCacheBytesFlag());
  flags->push_back(GpuMemoryUtilizationFlag());
  flags->push_back(BlockSizeFlag());
  flags->push_back(OptionalIntFlag("threads", "N", &ServerConfig::threads, {1, 1024},
                                   "Threads of the CPU backend; one a physical core by default.", "auto"));
  flags->push_back(ChoiceFlag<CpuIsaChoice>("cpu-isa", "LEVEL", &ServerConfig::cpu_isa,
                                            {{"auto", CpuIsaChoice::kAuto},
                                             {"portable", CpuIsaChoice::kPortable},
                                             {"avx2", CpuIsaChoice::kAvx2},
                                             {"avx512", CpuIsaChoice::kAvx512}},
                                            "Instruction set of the CPU kernels: auto, portable, avx2 or avx512."));
  flags->push_back(AttentionPolicyFlag());
}

void AppendSchedulingFlags(std::vector<Flag>* flags) {
  flags->push_back(OptionalIntFlag("max-num-seqs", "N", &ServerConfig::max_num_seqs, {1, 4096},
                                   "Requests in one batch; 256 on a GPU and 64 elsewhere by default.", "auto"));
  flags->push_back(OptionalIntFlag(
      "max-num-batched-tokens", "TOKENS", &ServerConfig::max_num_batched_tokens, {1, 1 << 16},
      "Tokens of one step, decoded and prefilled together; 8192 on a GPU and 512 elsewhere by default.", "auto"));
  flags->push_back(IntFlag("max-num-queued-reqs", "N", &ServerConfig::max_num_queued_reqs, {1, 1 << 20},
                           "Requests that may wait; more are refused."));
  flags->push_back(OptionalIntFlag("max-num-queued-reqs-per-tenant", "N", &ServerConfig::max_num_queued_reqs_per_tenant,
                                   {1, 1 << 20},
                                   "Requests of one tenant that may wait; --max-num-queued-reqs by default.", "auto"));
  flags->push_back(
      OptionalIntFlag("max-num-queued-tokens", "TOKENS", &ServerConfig::max_num_queued_tokens, {1, int64_t{1} << 40},
                      "Prompt tokens that may wait; more are refused. Eight contexts by default.", "auto"));
  flags->push_back(IntFlag("max-queue-seconds", "SECONDS", &ServerConfig::max_queue_seconds, {0, 1 << 30},
                           "Longest wait of a request for its first step, which a request may shorten; 0 sets no "
                           "limit."));
  flags->push_back(
      IntFlag("max-itl-ms", "MILLISECONDS", &ServerConfig::max_itl_ms, {0, 3600 * 1000},
              "Longest time between tokens that computing others' prompts should cause; 0 sets no bound."));
  flags->push_back(Switch("enable-prefix-caching", &ServerConfig::enable_prefix_caching,
                          "Keeps the KV pages of prompts for later requests that begin alike.",
                          [](const ServerConfig& config) { return config.enable_prefix_caching; }));
  flags->push_back(IntFlag("max-request-seconds", "SECONDS", &ServerConfig::max_request_seconds, {0, 1 << 30},
                           "Longest life of a request whose call has no deadline; 0 sets no limit."));
  flags->push_back(
      IntFlag("text-threads", "N", &ServerConfig::text_threads, {1, 256}, "Threads that check and tokenise requests."));
}

void AppendNetworkFlags(std::vector<Flag>* flags) {
  flags->push_back(StringFlag("host", "ADDRESS", &ServerConfig::host,
                              "Address to listen on; other than loopback needs --insecure."));
  flags->push_back(IntFlag("grpc-port", "PORT", &ServerConfig::grpc_port, {0, 65535},
                           "Port of the gRPC services; 0 takes a free one."));
  flags->push_back(IntFlag("metrics-port", "PORT", &ServerConfig::metrics_port, {0, 65535},
                           "Port of /metrics, /livez and /readyz; 0 takes a free one."));
  flags->push_back(Switch("insecure", &ServerConfig::insecure, "Allows plaintext on addresses other than loopback.",
                          [](const ServerConfig& config) { return config.insecure; }));
  flags->push_back(Switch("reflection", &ServerConfig::reflection,
                          "Offers gRPC reflection; on by default on loopback, else off.",
                          [](const ServerConfig& config) { return config.serves_reflection(); }));
  flags->push_back(Switch("trust-tenant-header", &ServerConfig::trust_tenant_header,
                          "Takes a request's tenant from its metadata x-farspan-tenant; else all are one tenant's.",
                          [](const ServerConfig& config) { return config.trust_tenant_header; }));
  flags->push_back(MaxRequestBytesFlag());
  flags->push_back(IntFlag("keepalive-time", "SECONDS", &ServerConfig::keepalive_time_seconds, {1, 86400},
                           "Quiet seconds after which a client is pinged."));
  flags->push_back(IntFlag("keepalive-timeout", "SECONDS", &ServerConfig::keepalive_timeout_seconds, {1, 86400},
                           "Seconds that a pinged client has to answer."));
  flags->push_back(IntFlag("max-connections", "N", &ServerConfig::max_connections, {1, 1 << 20},
                           "Open connections; more are closed after being accepted."));
  flags->push_back(IntFlag("max-connections-per-address", "N", &ServerConfig::max_connections_per_address, {1, 1 << 20},
                           "Open connections from one address."));
  flags->push_back(IntFlag("max-streams-per-connection", "N", &ServerConfig::max_streams_per_connection, {1, 1 << 16},
                           "Calls at one time on one connection."));
}

void AppendOperationFlags(std::vector<Flag>* flags) {
  flags->push_back(IntFlag("drain-notice-seconds", "SECONDS", &ServerConfig::drain_notice_seconds, {0, 3600},
                           "Seconds between being not ready and closing, so that balancers notice."));
  flags->push_back(IntFlag("drain-timeout-seconds", "SECONDS", &ServerConfig::drain_timeout_seconds, {0, 86400},
                           "Seconds that running requests have to finish at shutdown."));
  flags->push_back(ChoiceFlag<LogLevel>("log-level", "LEVEL", &ServerConfig::log_level,
                                        {{"debug", LogLevel::kDebug},
                                         {"info", LogLevel::kInfo},
                                         {"warning", LogLevel::kWarning},
                                         {"error", LogLevel::kError}},
                                        "Least level written to the log: debug, info, warning or error."));
  flags->push_back(ChoiceFlag<MetricsCompat>("metrics-compat", "MODE", &ServerConfig::metrics_compat,
                                             {{"vllm", MetricsCompat::kVllm}, {"off", MetricsCompat::kOff}},
                                             "Adds metric families under vLLM's names: vllm or off."));
}

std::vector<Flag> BuildTable() {
  std::vector<Flag> flags;
  AppendModelFlags(&flags);
  AppendSchedulingFlags(&flags);
  AppendNetworkFlags(&flags);
  AppendOperationFlags(&flags);
  return flags;
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row[b.size()];
}

}  // namespace

std::span<const Flag> FlagTable() {
  static const std::vector<Flag>* const table = new std::vector<Flag>(BuildTable());
  return *table;
}

const Flag* FindFlag(absl::string_view name) {
  const std::string hyphenated = absl::StrReplaceAll(name, {{"_", "-"}});
  for (const Flag& flag : FlagTable()) {
    if (flag.name == hyphenated) return &flag;
  }
  return nullptr;
}

absl::string_view ClosestFlagName(absl::string_view name) {
  // Longer names are not compared: the distance is quadratic in what a person typed.
  if (name.size() > 64) return "";
  const std::string hyphenated = absl::StrReplaceAll(name, {{"_", "-"}});
  absl::string_view closest;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (const Flag& flag : FlagTable()) {
    const size_t distance = EditDistance(hyphenated, flag.name);
    if (distance < least) {
      least = distance;
      closest = flag.name;
    }
  }
  return closest;
}

}  // namespace farspan
