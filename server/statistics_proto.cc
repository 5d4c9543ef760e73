// SPDX-License-Identifier: Apache-2.0
#include "server/statistics_proto.h"

#include <algorithm>

namespace farspan {

void SetDuration(SteadyDuration duration, google::protobuf::Duration* out) {
  const int64_t nanoseconds =
      std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
  out->set_seconds(nanoseconds / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
}

void SetUsage(const RequestStatistics& statistics, v1::Usage* out) {
  out->set_prompt_tokens_count(statistics.prompt_tokens);
  out->set_cached_prompt_tokens_count(statistics.cached_prompt_tokens);
  out->set_generated_tokens_count(statistics.generated_tokens);
}

void SetTiming(const RequestStatistics& statistics, int64_t longest_sample_tokens, v1::Timing* out) {
  SetDuration(statistics.first_step - statistics.arrival, out->mutable_queue_duration());
  SetDuration(statistics.first_token - statistics.first_step, out->mutable_prefill_duration());
  SetDuration(statistics.first_token - statistics.arrival, out->mutable_ttft_duration());
  const SteadyDuration decode = statistics.last_token - statistics.first_token;
  SetDuration(decode, out->mutable_decode_duration());
  if (longest_sample_tokens >= 2) SetDuration(decode / (longest_sample_tokens - 1), out->mutable_tpot_duration());
  SetDuration(statistics.finished - statistics.arrival, out->mutable_total_duration());
  out->set_preemptions_count(statistics.preemptions);
}

void SetKvStatistics(const RequestStatistics& statistics, PolicyMode mode, v1::KvStatistics* out) {
  switch (mode) {
    case PolicyMode::kDense:
      out->set_mode(v1::ATTENTION_MODE_DENSE);
      break;
    case PolicyMode::kTrainingFree:
      out->set_mode(v1::ATTENTION_MODE_TRAINING_FREE);
      break;
    case PolicyMode::kTrained:
      out->set_mode(v1::ATTENTION_MODE_TRAINED);
      break;
  }
  out->set_selected_entries_count(statistics.prefill.entries_selected + statistics.decode.entries_selected);
  out->set_candidate_entries_count(statistics.prefill.entries_candidate + statistics.decode.entries_candidate);
  out->set_prefill_read_bytes(statistics.prefill.read_bytes);
  out->set_decode_read_bytes(statistics.decode.read_bytes);
  out->set_prefill_dense_read_bytes(statistics.prefill.dense_read_bytes);
  out->set_decode_dense_read_bytes(statistics.decode.dense_read_bytes);
  out->set_prefill_side_read_bytes(statistics.prefill.side_read_bytes);
  out->set_decode_side_read_bytes(statistics.decode.side_read_bytes);
  out->set_peak_resident_bytes(statistics.peak_resident_bytes);
  out->set_side_data_bytes(statistics.side_data_bytes);
  out->set_logical_tokens_count(statistics.logical_tokens);
  out->set_resident_tokens_count(statistics.resident_tokens);
  out->set_evicted_tokens_count(statistics.evicted_tokens);
}

}  // namespace farspan
