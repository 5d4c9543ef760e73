// SPDX-License-Identifier: Apache-2.0
#include "server/native_families.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/base/check.h"
#include "server/error.h"
#include "server/model_description.h"

namespace farspan {
namespace {

constexpr const char* kBands[] = {"le4k", "le16k", "le64k", "le256k", "gt256k"};
constexpr const char* kPhases[] = {"prefill", "decode"};
constexpr const char* kFinishReasons[] = {"stop", "length", "cancelled", "deadline", "queue_timeout", "error"};
constexpr const char* kMethods[] = {"Generate", "Tokenize", "Detokenize", "ComparePolicies"};
constexpr absl::string_view kRejections[] = {
    reason::kInvalidField,    reason::kRequestTooLarge,   reason::kPromptTooLong,   reason::kKvNeverFits,
    reason::kChatUnsupported, reason::kModelNotFound,     reason::kQueueFull,       reason::kTokensQueued,
    reason::kTenantQuota,     reason::kPolicyUnsupported, reason::kConnectionLimit, reason::kDraining,
    reason::kDeviceLost,      reason::kCancelled,         reason::kInternal};

size_t BandOf(int64_t prompt_tokens) {
  size_t band = 0;
  for (int64_t limit = 4096; prompt_tokens > limit && band < std::size(kBands) - 1; limit *= 4) ++band;
  return band;
}

double Seconds(SteadyDuration duration) { return std::max(0.0, std::chrono::duration<double>(duration).count()); }

void RaiseTo(int64_t total, prometheus::Counter* counter) {
  const double behind = static_cast<double>(total) - counter->Value();
  if (behind > 0) counter->Increment(behind);
}

}  // namespace

NativeFamilies::NativeFamilies(const MetricsOptions& options, prometheus::Registry* registry) {
  SeriesMaker maker(registry, "farspan_", {{"model_name", options.model_name}});
  for (const std::string& policy : options.policies) policies_.emplace(policy, MakePolicy(policy, &maker));
  for (const char* method : kMethods) methods_.emplace(method, MakeMethod(method, &maker));
  MakeServerSeries(options, &maker);
}

NativeFamilies::PolicySeries NativeFamilies::MakePolicy(const std::string& policy, SeriesMaker* maker) {
  const Labels labels = {{"attention_policy", policy}};
  const auto with = [&](const char* key, const char* value) {
    Labels all = labels;
    all.emplace(key, value);
    return all;
  };
  PolicySeries series{};
  for (size_t i = 0; i < kNumBands; ++i) {
    const Labels band = with("context_band", kBands[i]);
    series.first_token[i] =
        maker->Histogram("time_to_first_token_seconds", "Arrival to first token.", TimeToFirstTokenBuckets(), band);
    series.inter_token[i] =
        maker->Histogram("inter_token_latency_seconds", "Time between two tokens.", TokenBuckets(), band);
    series.per_token[i] = maker->Histogram("request_time_per_output_token_seconds",
                                           "Mean time between a request's tokens.", TokenBuckets(), band);
    series.end_to_end[i] = maker->Histogram("e2e_request_latency_seconds", "Arrival to end.", RequestBuckets(), band);
  }
  series.queue = maker->Histogram("request_queue_seconds", "Arrival to first step.", StageBuckets(), labels);
  series.prefill = maker->Histogram("request_prefill_seconds", "First step to first token.", StageBuckets(), labels);
  series.decode = maker->Histogram("request_decode_seconds", "First to last token.", StageBuckets(), labels);
  series.selected_ratio =
      maker->Histogram("request_kv_selected_ratio", "Share of the dense tokens that was read.", RatioBuckets(), labels);
  series.peak_bytes = maker->Histogram("request_peak_kv_bytes", "Most bytes of KV pages held by a request.",
                                       PeakBytesBuckets(), labels);
  for (size_t i = 0; i < kNumReasons; ++i) {
    series.finished[i] = maker->Counter("requests_finished_total", "Requests that the engine ended.",
                                        with("finish_reason", kFinishReasons[i]));
  }
  series.prompt_computed = maker->Counter("prompt_tokens_total", "Prompt tokens.", with("source", "computed"));
  series.prompt_cached = maker->Counter("prompt_tokens_total", "Prompt tokens.", with("source", "cached"));
  series.generated = maker->Counter("generation_tokens_total", "Tokens generated.", labels);
  series.evicted = maker->Counter("kv_evicted_tokens_total", "Tokens whose KV pages were freed early.", labels);
  for (size_t i = 0; i < kNumPhases; ++i) {
    const Labels phase = with("phase", kPhases[i]);
    series.read_bytes[i] = maker->Counter("kv_read_bytes_total", "KV bytes that attention read.", phase);
    series.dense_read_bytes[i] =
        maker->Counter("kv_read_bytes_dense_total", "KV bytes that dense attention would have read.", phase);
    series.entries_selected[i] = maker->Counter("kv_entries_selected_total", "Cached tokens read.", phase);
    series.entries_candidate[i] =
        maker->Counter("kv_entries_candidate_total", "Cached tokens that dense attention would have read.", phase);
  }
  return series;
}

NativeFamilies::MethodSeries NativeFamilies::MakeMethod(const std::string& method, SeriesMaker* maker) {
  MethodSeries series{};
  for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const auto status_code = static_cast<absl::StatusCode>(code);
    series.calls[status_code] = maker->Counter("grpc_requests_total", "Calls ended.",
                                               {{"method", method}, {"code", absl::StatusCodeToString(status_code)}});
  }
  series.seconds =
      maker->Histogram("grpc_request_seconds", "Duration of calls.", RequestBuckets(), {{"method", method}});
  return series;
}

void NativeFamilies::MakeServerSeries(const MetricsOptions& options, SeriesMaker* maker) {
  for (const absl::string_view name : kRejections) {
    const std::string label = absl::AsciiStrToLower(name);
    rejected_.emplace(name, maker->Counter("requests_rejected_total", "Calls refused before the engine took them.",
                                           {{"reason", label}}));
  }
  rejected_.emplace("", maker->Counter("requests_rejected_total", "Calls refused before the engine took them.",
                                       {{"reason", "other"}}));
  for (const char* phase : {"prefill", "decode", "mixed"}) {
    step_seconds_.emplace(phase, maker->Histogram("engine_step_seconds", "Duration of an engine step.", StepBuckets(),
                                                  {{"phase", phase}}));
  }
  prefill_tokens_ = maker->Histogram("batch_tokens", "Tokens of a step.", BatchTokensBuckets(), {{"phase", "prefill"}});
  decode_tokens_ = maker->Histogram("batch_tokens", "Tokens of a step.", BatchTokensBuckets(), {{"phase", "decode"}});
  batch_requests_ = maker->Histogram("batch_requests", "Requests of a step.", BatchTokensBuckets());
  batch_policies_ =
      maker->Histogram("batch_distinct_policies", "Attention policies in one step.", BatchPoliciesBuckets());
  running_ = maker->Gauge("requests_running", "Requests in the batch.");
  waiting_ = maker->Gauge("requests_waiting", "Requests accepted and not yet running.");
  pages_free_ = maker->Gauge("kv_pages", "KV pages.", {{"state", "free"}});
  pages_used_ = maker->Gauge("kv_pages", "KV pages.", {{"state", "used"}});
  kv_free_bytes_ =
      maker->Gauge("device_memory_bytes", "Memory of the device by use.", {{"device", "cpu"}, {"kind", "kv_free"}});
  kv_used_bytes_ =
      maker->Gauge("device_memory_bytes", "Memory of the device by use.", {{"device", "cpu"}, {"kind", "kv_used"}});
  weight_bytes_ =
      maker->Gauge("device_memory_bytes", "Memory of the device by use.", {{"device", "cpu"}, {"kind", "weights"}});
  draining_ = maker->Gauge("draining", "1 while the server refuses new requests.");
  calls_active_ = maker->Gauge("grpc_streams_active", "Calls in progress.");
  connections_refused_ = maker->Counter("connections_refused_total", "Connections closed because of a limit.");
  accept_exhausted_ = maker->Counter("accept_exhausted_total", "Accepts that found no descriptor or memory.");
  log_lines_dropped_ = maker->Counter("log_dropped_total", "Log lines dropped because the log was not read.");
  maker->Gauge("build_info", "Always 1.", {{"version", kServerVersion}})->Set(1);
  for (const std::string& policy : options.policies) {
    maker->Gauge("policy_info", "Always 1.", {{"attention_policy", policy}})->Set(1);
  }
}

NativeFamilies::PolicySeries& NativeFamilies::Of(absl::string_view policy) {
  const auto series = policies_.find(std::string(policy));
  FARSPAN_CHECK(series != policies_.end(), "policy=", policy);
  return series->second;
}

void NativeFamilies::OnStep(const StepEvent& event) {
  const char* phase = event.prefill_tokens == 0 ? "decode" : event.decode_rows == 0 ? "prefill" : "mixed";
  step_seconds_.find(phase)->second->Observe(Seconds(event.duration));
  if (event.prefill_tokens > 0) prefill_tokens_->Observe(static_cast<double>(event.prefill_tokens));
  if (event.decode_rows > 0) decode_tokens_->Observe(static_cast<double>(event.decode_rows));
  batch_requests_->Observe(static_cast<double>(event.num_sequences));
  batch_policies_->Observe(static_cast<double>(event.num_policies));
}

void NativeFamilies::OnTraffic(const TrafficEvent& event) {
  PolicySeries& series = Of(std::string(event.policy));
  const size_t phase = event.prefill ? 0 : 1;
  series.read_bytes[phase]->Increment(static_cast<double>(event.traffic.read_bytes));
  series.dense_read_bytes[phase]->Increment(static_cast<double>(event.traffic.dense_read_bytes));
  series.entries_selected[phase]->Increment(static_cast<double>(event.traffic.entries_selected));
  series.entries_candidate[phase]->Increment(static_cast<double>(event.traffic.entries_candidate));
}

void NativeFamilies::OnToken(absl::string_view policy, bool first, SteadyDuration gap, int64_t prompt_tokens) {
  PolicySeries& series = Of(policy);
  (first ? series.first_token : series.inter_token)[BandOf(prompt_tokens)]->Observe(Seconds(gap));
  series.generated->Increment();
}

void NativeFamilies::OnRequestFinished(const RequestFinishedEvent& event) {
  PolicySeries& series = Of(std::string(event.policy));
  const RequestStatistics& statistics = *event.statistics;
  series.finished[static_cast<size_t>(event.reason)]->Increment();
  series.end_to_end[BandOf(statistics.prompt_tokens)]->Observe(Seconds(statistics.finished - statistics.arrival));
  series.evicted->Increment(static_cast<double>(statistics.evicted_tokens));
  series.queue->Observe(Seconds(statistics.first_step - statistics.arrival));
  if (statistics.generated_tokens == 0) return;
  series.prompt_cached->Increment(static_cast<double>(statistics.cached_prompt_tokens));
  series.prompt_computed->Increment(static_cast<double>(statistics.prompt_tokens - statistics.cached_prompt_tokens));
  series.prefill->Observe(Seconds(statistics.first_token - statistics.first_step));
  series.decode->Observe(Seconds(statistics.last_token - statistics.first_token));
  series.peak_bytes->Observe(static_cast<double>(statistics.peak_resident_bytes));
  const auto candidate =
      static_cast<double>(statistics.prefill.entries_candidate + statistics.decode.entries_candidate);
  const auto selected = static_cast<double>(statistics.prefill.entries_selected + statistics.decode.entries_selected);
  if (candidate > 0) series.selected_ratio->Observe(selected / candidate);
  if (statistics.generated_tokens > 1) {
    const double decode_seconds = Seconds(statistics.last_token - statistics.first_token);
    series.per_token[BandOf(statistics.prompt_tokens)]->Observe(decode_seconds /
                                                                static_cast<double>(statistics.generated_tokens - 1));
  }
}

void NativeFamilies::OnRejected(absl::string_view reason) {
  const auto counter = rejected_.find(std::string(reason));
  (counter == rejected_.end() ? rejected_.find("") : counter)->second->Increment();
}

void NativeFamilies::OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) {
  const auto series = methods_.find(std::string(method));
  FARSPAN_CHECK(series != methods_.end(), "method=", method);
  series->second.calls.at(code)->Increment();
  series->second.seconds->Observe(Seconds(duration));
}

void NativeFamilies::OnDraining() { draining_->Set(1); }

void NativeFamilies::Read(const MetricsReadings& readings) {
  const int64_t free_pages = readings.kv_pages_total - readings.kv_pages_used;
  running_->Set(static_cast<double>(readings.requests_running));
  waiting_->Set(static_cast<double>(readings.requests_waiting));
  pages_free_->Set(static_cast<double>(free_pages));
  pages_used_->Set(static_cast<double>(readings.kv_pages_used));
  kv_free_bytes_->Set(static_cast<double>(free_pages * readings.kv_page_bytes));
  kv_used_bytes_->Set(static_cast<double>(readings.kv_pages_used * readings.kv_page_bytes));
  weight_bytes_->Set(static_cast<double>(readings.weight_bytes));
  calls_active_->Set(static_cast<double>(readings.calls_active));
  RaiseTo(readings.connections_refused, connections_refused_);
  RaiseTo(readings.accept_exhausted, accept_exhausted_);
  RaiseTo(readings.log_lines_dropped, log_lines_dropped_);
}

}  // namespace farspan
