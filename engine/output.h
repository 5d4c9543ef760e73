// SPDX-License-Identifier: Apache-2.0
// What the engine reports of a request: one Started, any number of PrefillProgress and NewTokens, exactly one Finished.
// A request that ends before its first step has the Finished alone.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "engine/base/ids.h"
#include "engine/sampling/logprobs.h"

namespace farspan {

enum class FinishReason : uint8_t {
  kStop,       // a stop id, or RequestHandle::StopSample
  kLength,     // max_tokens, or the last forced token
  kCancelled,  // the client left
  kDeadline,
  kQueueTimeout,  // not begun by its queue_deadline
  kError,
};

// Where a request was when it ended early.
enum class RequestPhase : uint8_t { kQueued, kPrefill, kDecode };

constexpr const char* PhaseName(RequestPhase phase) {
  switch (phase) {
    case RequestPhase::kQueued:
      return "queue";
    case RequestPhase::kPrefill:
      return "prefill";
    case RequestPhase::kDecode:
      return "decode";
  }
  return "queue";
}

// Bytes and tokens that attention read, counted from the lists that kernels walked (architecture: "bytes read").
struct AttentionTraffic {
  // Tokens of the lists, summed over decode rows and prefill chunks; where layers read different numbers, their mean,
  // rounded to the nearest. The bytes are exact.
  int64_t entries_selected = 0;
  int64_t entries_candidate = 0;  // tokens that dense would have read
  int64_t read_bytes = 0;
  int64_t dense_read_bytes = 0;
  int64_t side_read_bytes = 0;  // side data read to choose the lists, beside read_bytes

  void Add(const AttentionTraffic& other) {
    entries_selected += other.entries_selected;
    entries_candidate += other.entries_candidate;
    read_bytes += other.read_bytes;
    dense_read_bytes += other.dense_read_bytes;
    side_read_bytes += other.side_read_bytes;
  }
};

struct RequestStatistics {
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  int64_t generated_tokens = 0;
  AttentionTraffic prefill;
  AttentionTraffic decode;
  int64_t peak_resident_bytes = 0;  // most held at one time; of several samples the sum of each one's
  int64_t side_data_bytes = 0;      // most side data held at one time, beside peak_resident_bytes
  int64_t logical_tokens = 0;
  int64_t resident_tokens = 0;
  int64_t evicted_tokens = 0;
  int64_t preemptions = 0;
  // A time that was not reached equals `finished`.
  SteadyTime arrival{};
  SteadyTime first_step{};
  SteadyTime first_token{};
  SteadyTime last_token{};
  SteadyTime finished{};
};

struct StartedEvent {
  int64_t cached_prompt_tokens = 0;
  int64_t reserved_kv_bytes = 0;
  SteadyDuration queue_duration{};
};

struct PrefillProgressEvent {
  int64_t done_tokens = 0;
  int64_t total_tokens = 0;
  // Of prompt tokens not reported before, in order. The first of all is the prompt's second token.
  std::vector<TokenLogprobs> prompt_logprobs;
};

struct NewTokensEvent {
  int sample = 0;  // which of the request's samples
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;  // one a token where asked for, else empty
};

// How one sample of a request ended.
struct SampleOutcome {
  FinishReason reason = FinishReason::kError;
  std::optional<TokenId> stop_token;  // the stop id that ended it; it is the last of the sample's tokens
  int64_t generated_tokens = 0;
};

// The end of all samples. A failure of one fails the request.
struct FinishedEvent {
  FinishReason reason = FinishReason::kError;  // of the failure, else of the first sample
  absl::Status status;                         // OK for kStop and kLength, else why
  std::optional<TokenId> stop_token;           // of the first sample
  std::vector<SampleOutcome> samples;          // every sample's; empty when the request failed
  RequestPhase phase = RequestPhase::kQueued;
  // Summed over samples, their prompt counted once; evicted_tokens are of the sample that lost most.
  RequestStatistics statistics;
};

using OutputEvent = std::variant<StartedEvent, PrefillProgressEvent, NewTokensEvent, FinishedEvent>;

// Receives the events of one request in order, on the engine thread. Must not block and must not call the engine,
// except RequestHandle::Cancel. Never called after the Finished event.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void OnEvent(OutputEvent event) = 0;
};

}  // namespace farspan
