// SPDX-License-Identifier: Apache-2.0
#include "server/call_log.h"

#include "server/error.h"
#include "server/json_line.h"
#include "server/server_log.h"
#include "server/serving_context.h"

namespace farspan {
namespace {

double Milliseconds(SteadyDuration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

}  // namespace

CallLog::CallLog(absl::string_view method, ServerMetrics* metrics)
    : method_(method), metrics_(metrics), request_id_(NewRequestId()), arrival_(std::chrono::steady_clock::now()) {
  metrics_->OnCallStarted(method_);
}

void CallLog::SetOutcome(absl::string_view policy, const GenerationOutcome& outcome) {
  policy_ = std::string(policy);
  outcome_ = outcome;
}

void CallLog::End(const absl::Status& status, bool accepted) {
  const SteadyDuration duration = std::chrono::steady_clock::now() - arrival_;
  const std::string reason = ReasonOf(status);
  metrics_->OnCallEnded(method_, status.code(), duration);
  if (!status.ok() && !accepted) metrics_->OnRejected(reason);
  JsonLine line("request");
  line.Add("request_id", request_id_).Add("method", method_).Add("code", absl::StatusCodeToString(status.code()));
  if (!reason.empty()) line.Add("reason", reason);
  line.Add("duration_ms", Milliseconds(duration));
  if (outcome_) {
    const RequestStatistics& statistics = outcome_->statistics;
    line.Add("policy", policy_).Add("phase", PhaseName(outcome_->phase));
    line.Add("prompt_tokens", statistics.prompt_tokens).Add("generated_tokens", statistics.generated_tokens);
    line.Add("queue_ms", Milliseconds(statistics.first_step - statistics.arrival));
    line.Add("ttft_ms", Milliseconds(statistics.first_token - statistics.arrival));
    line.Add("decode_ms", Milliseconds(statistics.last_token - statistics.first_token));
    line.Add("kv_read_bytes", statistics.prefill.read_bytes + statistics.decode.read_bytes);
    line.Add("peak_kv_bytes", statistics.peak_resident_bytes);
  }
  LogLine(absl::IsInternal(status) ? LogLevel::kError : LogLevel::kInfo, line);
}

}  // namespace farspan
