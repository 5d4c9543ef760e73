// SPDX-License-Identifier: Apache-2.0
#include "server/call_log.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"
#include "server/server_log.h"
#include "server/serving_context.h"

namespace farspan {
namespace {

double Seconds(SteadyDuration duration) { return std::chrono::duration<double>(duration).count(); }
double Milliseconds(SteadyDuration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

}  // namespace

CallLog::CallLog(absl::string_view method, CallOrigin origin, ServerMetrics* metrics)
    : method_(method),
      origin_(std::move(origin)),
      metrics_(metrics),
      request_id_(NewRequestId()),
      arrival_(std::chrono::steady_clock::now()) {
  metrics_->OnCallStarted(method_);
}

void CallLog::End(const absl::Status& status, bool accepted) {
  const SteadyDuration duration = std::chrono::steady_clock::now() - arrival_;
  const std::string reason = ReasonOf(status);
  metrics_->OnCallEnded(method_, status.code(), duration);
  if (!status.ok() && !accepted) metrics_->OnRejected(reason);
  JsonLine line("request");
  line.Add("request_id", request_id_).Add("method", method_).Add("code", absl::StatusCodeToString(status.code()));
  if (!reason.empty()) line.Add("reason", reason).Add("error.type", reason);
  if (!status.ok() && !accepted) line.Add("phase", "admission");
  AddOrigin(&line);
  line.Add("duration_ms", Milliseconds(duration));
  if (generation_) {
    line.Add("gen_ai.operation.name", generation_->is_chat ? "chat" : "text_completion");
    line.Add("gen_ai.request.model", generation_->model);
    line.Add("policy", generation_->policy).Add("samples", int64_t{generation_->num_samples});
  }
  if (outcome_) AddOutcome(*outcome_, &line);
  LogLine(absl::IsInternal(status) ? LogLevel::kError : LogLevel::kInfo, line);
}

void CallLog::AddOrigin(JsonLine* line) const {
  const TraceContext& trace = origin_.trace;
  line->Add("trace_id", trace.trace_id).Add("span_id", trace.span_id);
  if (!trace.parent_span_id.empty()) line->Add("parent_span_id", trace.parent_span_id);
  line->Add("trace_flags", absl::StrFormat("%02x", trace.flags));
  if (!origin_.tenant.empty()) line->Add("tenant_hash", TenantHash(origin_.tenant));
}

void CallLog::AddOutcome(const GenerationOutcome& outcome, JsonLine* line) const {
  const RequestStatistics& statistics = outcome.statistics;
  const SteadyDuration queue = statistics.first_step - statistics.arrival;
  const SteadyDuration ttft = statistics.first_token - statistics.arrival;
  const SteadyDuration decode = statistics.last_token - statistics.first_token;
  line->Add("phase", PhaseName(outcome.phase));
  line->Add("prompt_tokens", statistics.prompt_tokens).Add("cached_tokens", statistics.cached_prompt_tokens);
  line->Add("generated_tokens", statistics.generated_tokens).Add("preemptions", statistics.preemptions);
  line->Add("queue_ms", Milliseconds(queue)).Add("ttft_ms", Milliseconds(ttft)).Add("decode_ms", Milliseconds(decode));
  line->Add("kv_read_bytes", statistics.prefill.read_bytes + statistics.decode.read_bytes);
  line->Add("peak_kv_bytes", statistics.peak_resident_bytes);
  line->Add("gen_ai.usage.input_tokens", statistics.prompt_tokens);
  line->Add("gen_ai.usage.output_tokens", statistics.generated_tokens);
  line->Add("gen_ai.latency.time_in_queue", Seconds(queue));
  line->Add("gen_ai.latency.time_to_first_token", Seconds(ttft));
  line->Add("gen_ai.latency.time_in_model_prefill", Seconds(ttft - queue));
  line->Add("gen_ai.latency.time_in_model_decode", Seconds(decode));
  line->Add("gen_ai.latency.time_in_model_inference", Seconds(ttft - queue + decode));
  line->Add("gen_ai.latency.e2e", Seconds(statistics.finished - statistics.arrival));
}

}  // namespace farspan
