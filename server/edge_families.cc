// SPDX-License-Identifier: Apache-2.0
#include "server/edge_families.h"

#include "absl/strings/ascii.h"
#include "engine/base/check.h"
#include "server/model_description.h"

namespace farspan {
namespace {

constexpr char kOtherReason[] = "other";

const char* TrueOrFalse(bool value) { return value ? "true" : "false"; }

}  // namespace

EdgeFamilies::EdgeFamilies(const MetricsOptions& options, SeriesMaker* maker) {
  for (const std::string_view method : kGrpcMethods) methods_.emplace(method, MakeMethod(method, maker));
  for (const PolicyTraits& policy : options.policies) {
    ComparisonsByReference& series = comparisons_[std::string(policy.name)];
    for (size_t i = 0; i < series.size(); ++i) series[i] = MakeComparison(policy.name, kReferencePolicies[i], maker);
  }
  for (const std::string_view reason : kRejectionReasons) {
    rejected_.emplace(reason, maker->Counter("farspan_requests_rejected_total", {{"reason", reason}}));
  }
  draining_ = maker->Gauge("farspan_draining");
  calls_active_ = maker->Gauge("farspan_grpc_streams_active");
  connections_refused_ = maker->Counter("farspan_connections_refused_total");
  accept_exhausted_ = maker->Counter("farspan_accept_exhausted_total");
  log_lines_dropped_ = maker->Counter("farspan_log_dropped_total");
  MakeInfo(options, maker);
}

EdgeFamilies::MethodSeries EdgeFamilies::MakeMethod(std::string_view method, SeriesMaker* maker) {
  MethodSeries series{};
  for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const auto status_code = static_cast<absl::StatusCode>(code);
    series.calls[status_code] = maker->Counter("farspan_grpc_requests_total",
                                               {{"method", method}, {"code", absl::StatusCodeToString(status_code)}});
  }
  series.seconds = maker->Histogram("farspan_grpc_request_seconds", {{"method", method}});
  for (size_t i = 0; i < series.bytes.size(); ++i) {
    series.bytes[i] =
        maker->Counter("farspan_grpc_message_bytes_total", {{"method", method}, {"direction", kDirections[i]}});
  }
  return series;
}

EdgeFamilies::ComparisonSeries EdgeFamilies::MakeComparison(std::string_view policy, std::string_view reference,
                                                            SeriesMaker* maker) {
  const SeriesMaker::Labels labels = {{"attention_policy", policy}, {"reference_policy", reference}};
  return {.runs = maker->Counter("farspan_compare_runs_total", labels),
          .equal_runs = maker->Counter("farspan_compare_equal_runs_total", labels),
          .first_divergence = maker->Histogram("farspan_compare_first_divergence_tokens", labels),
          .token_agreement = maker->Histogram("farspan_compare_token_agreement_ratio", labels)};
}

void EdgeFamilies::MakeInfo(const MetricsOptions& options, SeriesMaker* maker) {
  const ModelShape& shape = options.shape;
  maker->Gauge("farspan_build_info", {{"version", kServerVersion}})->Set(1);
  maker
      ->Gauge("farspan_model_info", {{"architecture", options.architecture},
                                     {"weights_id", options.weights_id},
                                     {"layers", std::to_string(shape.num_layers)},
                                     {"max_context_tokens", std::to_string(shape.max_context_tokens)},
                                     {"kv_dtype", KvDtypeName(shape.kv_dtype)},
                                     {"page_tokens", std::to_string(shape.page_tokens)}})
      ->Set(1);
  for (const PolicyTraits& policy : options.policies) {
    maker
        ->Gauge("farspan_policy_info", {{"attention_policy", policy.name},
                                        {"sparse_prefill", TrueOrFalse(policy.sparse_prefill)},
                                        {"sparse_decode", TrueOrFalse(policy.sparse_decode)},
                                        {"evicts", TrueOrFalse(policy.evicts)},
                                        {"version", std::to_string(policy.version)}})
        ->Set(1);
  }
}

EdgeFamilies::MethodSeries& EdgeFamilies::Of(absl::string_view method) {
  const auto series = methods_.find(std::string(method));
  FARSPAN_CHECK(series != methods_.end(), "method=", method);
  return series->second;
}

void EdgeFamilies::OnRejected(absl::string_view reason) {
  const auto counter = rejected_.find(absl::AsciiStrToLower(reason));
  (counter == rejected_.end() ? rejected_.find(kOtherReason) : counter)->second->Increment();
}

void EdgeFamilies::OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) {
  MethodSeries& series = Of(method);
  series.calls.at(code)->Increment();
  series.seconds->Observe(MetricSeconds(duration));
}

void EdgeFamilies::OnMessage(absl::string_view method, MessageDirection direction, int64_t bytes) {
  Of(method).bytes[static_cast<size_t>(direction)]->Increment(static_cast<double>(bytes));
}

void EdgeFamilies::OnCompared(const ComparedEvent& event) {
  const auto series = comparisons_.find(std::string(event.policy));
  FARSPAN_CHECK(series != comparisons_.end(), "policy=", event.policy);
  ComparisonSeries& comparison = series->second[event.reference == "dense" ? 0 : 1];
  comparison.runs->Increment();
  comparison.token_agreement->Observe(event.token_agreement);
  if (event.first_divergence) {
    comparison.first_divergence->Observe(static_cast<double>(*event.first_divergence));
  } else {
    comparison.equal_runs->Increment();
  }
}

void EdgeFamilies::OnDraining() { draining_->Set(1); }

void EdgeFamilies::Read(const MetricsReadings& readings) {
  calls_active_->Set(static_cast<double>(readings.calls_active));
  RaiseTo(static_cast<double>(readings.connections_refused), connections_refused_);
  RaiseTo(static_cast<double>(readings.accept_exhausted), accept_exhausted_);
  RaiseTo(static_cast<double>(readings.log_lines_dropped), log_lines_dropped_);
}

}  // namespace farspan
