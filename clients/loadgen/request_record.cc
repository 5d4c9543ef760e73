// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/request_record.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "clients/cpp/error_details.h"

namespace farspan::loadgen {
namespace {

constexpr int32_t kMaxSamples = 64;

double Seconds(RunTime time) { return std::chrono::duration<double>(time).count(); }

Fate FateOf(const absl::Status& status, bool answered, bool complete) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return complete ? Fate::kOk : Fate::kFailed;
    case absl::StatusCode::kResourceExhausted:
      return answered ? Fate::kFailed : Fate::kRejected;
    case absl::StatusCode::kUnavailable:
      return answered || ErrorDetailsOf(status).info.reason().empty() ? Fate::kFailed : Fate::kRejected;
    case absl::StatusCode::kDeadlineExceeded:
      return Fate::kDeadline;
    case absl::StatusCode::kCancelled:
      return Fate::kCancelled;
    default:
      return Fate::kFailed;
  }
}

}  // namespace

const char* FateName(Fate fate) {
  switch (fate) {
    case Fate::kOk:
      return "ok";
    case Fate::kRejected:
      return "rejected";
    case Fate::kDeadline:
      return "deadline";
    case Fate::kCancelled:
      return "cancelled";
    case Fate::kFailed:
      return "failed";
  }
  return "failed";
}

void RequestRecord::OnChunk(const v1::GenerationDelta& delta, RunTime now) {
  const auto sample = static_cast<size_t>(std::clamp(delta.sample_index(), 0, kMaxSamples - 1));
  if (sample_last_chunk.size() <= sample) sample_last_chunk.resize(sample + 1, RunTime(-1));
  RunTime& last = sample_last_chunk[sample];
  if (last >= RunTime(0)) gaps_seconds.push_back(static_cast<float>(Seconds(now - last)));
  last = now;
  if (!first_chunk) first_chunk = now;
  last_chunk = now;
  chunk_tokens += delta.token_ids_size();
  if (keep_tokens && sample == 0) token_ids.insert(token_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
}

void RequestRecord::OnFinished(const v1::GenerationFinished& finished) {
  const v1::KvStatistics& kv = finished.kv();
  complete = true;
  input_tokens = finished.usage().prompt_tokens_count();
  cached_tokens = finished.usage().cached_prompt_tokens_count();
  output_tokens = finished.usage().generated_tokens_count();
  longest_sample_tokens = finished.samples().empty() ? output_tokens : 0;
  for (const v1::SampleFinish& sample : finished.samples()) {
    longest_sample_tokens = std::max(longest_sample_tokens, sample.generated_tokens_count());
  }
  preemptions = finished.timing().preemptions_count();
  read_bytes = kv.prefill_read_bytes() + kv.decode_read_bytes();
  dense_read_bytes = kv.prefill_dense_read_bytes() + kv.decode_dense_read_bytes();
  peak_kv_bytes = kv.peak_resident_bytes();
}

void RequestRecord::OnEvent(const v1::GenerateResponse& event, RunTime now) {
  answered = true;
  if (event.has_started()) {
    input_tokens = event.started().prompt_tokens_count();
    cached_tokens = event.started().cached_prompt_tokens_count();
  }
  if (event.has_delta() && event.delta().token_ids_size() > 0) OnChunk(event.delta(), now);
  if (event.has_finished()) OnFinished(event.finished());
}

void RequestRecord::OnDone(const absl::Status& status, RunTime now) {
  ended_at = now;
  if (!complete) output_tokens = chunk_tokens;
  fate = FateOf(status, answered, complete);
  if (fate == Fate::kOk) return;
  const ErrorDetails details = ErrorDetailsOf(status);
  has_retry_delay = details.retry_delay.has_value();
  message = status.ok() ? "the stream ended without its last event" : std::string(status.message());
  error = status.ok() ? "OK INCOMPLETE" : absl::StatusCodeToString(status.code());
  if (!details.info.reason().empty()) absl::StrAppend(&error, " ", details.info.reason());
}

std::optional<double> RequestRecord::ttft() const {
  if (!first_chunk) return std::nullopt;
  return Seconds(*first_chunk - clock_start);
}

std::optional<double> RequestRecord::tpot() const {
  if (!first_chunk || longest_sample_tokens <= 1) return std::nullopt;
  return Seconds(*last_chunk - *first_chunk) / static_cast<double>(longest_sample_tokens - 1);
}

std::optional<double> RequestRecord::e2el() const {
  if (!sent) return std::nullopt;
  return Seconds(last_chunk.value_or(ended_at) - clock_start);
}

}  // namespace farspan::loadgen
