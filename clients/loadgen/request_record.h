// SPDX-License-Identifier: Apache-2.0
// What one request of a load run was sent for, saw and came to. Times are offsets from the start of the run.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "farspan/v1/inference.pb.h"

namespace farspan::loadgen {

using RunTime = std::chrono::nanoseconds;

// Every request that was sent has exactly one.
enum class Fate {
  kOk,
  kRejected,   // RESOURCE_EXHAUSTED, or UNAVAILABLE with the server's own reason, before any event
  kDeadline,   // DEADLINE_EXCEEDED
  kCancelled,  // CANCELLED: the client left
  kFailed,     // anything else, and streams without their last event
};
const char* FateName(Fate fate);

struct RequestRecord {
  bool sent = false;
  RunTime clock_start{0};  // latencies count from here
  RunTime sent_at{0};
  RunTime ended_at{0};
  std::optional<RunTime> first_chunk;  // of tokens
  std::optional<RunTime> last_chunk;
  std::vector<float> gaps_seconds;         // between consecutive chunks of a sample's tokens
  std::vector<RunTime> sample_last_chunk;  // by sample
  std::vector<int32_t> token_ids;          // of the first sample; kept where keep_tokens
  bool keep_tokens = false;
  int64_t chunk_tokens = 0;  // tokens seen in chunks
  bool answered = false;     // any event came
  bool complete = false;     // the last event came
  int64_t longest_sample_tokens = 0;
  int64_t input_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;  // as the server counted them, as seen where it did not say
  int64_t preemptions = 0;
  int64_t read_bytes = 0;
  int64_t dense_read_bytes = 0;
  int64_t peak_kv_bytes = 0;
  Fate fate = Fate::kFailed;
  std::string error;             // "RESOURCE_EXHAUSTED QUEUE_FULL"; empty when OK
  std::string message;           // the server's sentence; empty when OK
  bool has_retry_delay = false;  // the refusal says when to come back

  void OnEvent(const v1::GenerateResponse& event, RunTime now);
  void OnDone(const absl::Status& status, RunTime now);

  // Seconds; none where the request did not come so far.
  std::optional<double> ttft() const;
  std::optional<double> tpot() const;  // first to last chunk over the longest sample's tokens after its first
  std::optional<double> e2el() const;  // to the last chunk; to the end where there was none

 private:
  void OnChunk(const v1::GenerationDelta& delta, RunTime now);
  void OnFinished(const v1::GenerationFinished& finished);
};

}  // namespace farspan::loadgen
