// SPDX-License-Identifier: Apache-2.0
// The one list of metric families: series are made from it, deploy/metrics.md is written from it, and tests compare
// dashboards and rules with it. Label values come from the closed sets below or are fixed when serving starts; nothing
// that a client sends becomes one.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace farspan {

enum class MetricType : uint8_t { kCounter, kGauge, kHistogram };

// Who knows the value.
enum class MetricSource : uint8_t {
  kEngine,   // the engine's events and state
  kBackend,  // the device
  kServer,   // gRPC, the admin port, the log
};

// Headings of the documentation.
enum class MetricGroup : uint8_t {
  kLatency,
  kRequests,
  kTokens,
  kKvCache,
  kAttention,
  kSteps,
  kComparison,
  kServer,
  kVllm,
};

struct MetricLabel {
  std::string_view name;
  std::string_view meaning;
  std::span<const std::string_view> values;  // all of them; empty where they are fixed when serving starts
};

// Upper bounds of a histogram.
struct BucketList {
  std::string_view name;
  std::span<const double> bounds;  // ascending; empty for 1, 2, 5, 10, 20, ... up to the longest context
};

// Immutable. Every series also has the label model_name, and vLLM's families have engine="0".
struct MetricFamily {
  std::string_view name;
  MetricGroup group;
  MetricType type;
  MetricSource source;
  std::string_view unit;  // empty for a plain count or a constant
  std::span<const MetricLabel* const> labels;
  const BucketList* buckets;  // null unless it is a histogram
  std::string_view help;      // one sentence
};

std::span<const MetricFamily> MetricTable();

// By full name; null when there is none.
const MetricFamily* FindMetric(std::string_view name);

inline constexpr std::string_view kContextBands[] = {"le4k", "le16k", "le64k", "le256k", "gt256k"};
inline constexpr std::string_view kPhases[] = {"prefill", "decode"};
inline constexpr std::string_view kStepPhases[] = {"prefill", "decode", "mixed"};
// In the order of FinishReason.
inline constexpr std::string_view kFinishReasons[] = {"stop",     "length",        "cancelled",
                                                      "deadline", "queue_timeout", "error"};
// The reasons of server/error.h in small letters; `other` is any that is not listed.
inline constexpr std::string_view kRejectionReasons[] = {
    "invalid_field", "request_too_large", "prompt_too_long",    "kv_never_fits",    "chat_unsupported",
    "queue_full",    "tokens_queued",     "policy_unsupported", "connection_limit", "model_not_found",
    "tenant_quota",  "queue_timeout",     "slow_reader",        "out_of_memory",    "deadline_exceeded",
    "draining",      "device_lost",       "cancelled",          "internal",         "other"};
inline constexpr std::string_view kPromptSources[] = {"computed", "cached"};
inline constexpr std::string_view kPageStates[] = {"free", "used", "cached"};
inline constexpr std::string_view kMemoryKindNames[] = {"weights",   "kv_used",   "kv_cached", "kv_free", "activations",
                                                        "workspace", "side_data", "other",     "free"};
inline constexpr std::string_view kGrpcMethods[] = {"Generate", "Tokenize", "Detokenize", "ComparePolicies"};
inline constexpr std::string_view kDirections[] = {"received", "sent"};
inline constexpr std::string_view kReferencePolicies[] = {"dense", "other"};

}  // namespace farspan
