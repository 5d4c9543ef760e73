// SPDX-License-Identifier: Apache-2.0
#include "server/prometheus_sink.h"

#include <prometheus/text_serializer.h>

#include "server/native_families.h"
#include "server/vllm_families.h"

namespace farspan {

PrometheusSink::PrometheusSink() = default;
PrometheusSink::~PrometheusSink() = default;

void PrometheusSink::Open(const MetricsOptions& options) {
  native_ = std::make_unique<NativeFamilies>(options, &registry_);
  if (options.vllm_families) vllm_ = std::make_unique<VllmFamilies>(options, &registry_);
}

std::string PrometheusSink::Text(const MetricsReadings& readings) const {
  if (native_) native_->Read(readings);
  if (vllm_) vllm_->Read(readings);
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

void PrometheusSink::OnStep(const StepEvent& event) {
  if (native_) native_->OnStep(event);
  if (vllm_) vllm_->OnStep(event);
}

void PrometheusSink::OnTraffic(const TrafficEvent& event) {
  if (native_) native_->OnTraffic(event);
}

void PrometheusSink::OnToken(std::string_view policy, bool first, SteadyDuration gap, int64_t prompt_tokens) {
  if (native_) native_->OnToken(absl::string_view(policy.data(), policy.size()), first, gap, prompt_tokens);
  if (vllm_) vllm_->OnToken(first, gap);
}

void PrometheusSink::OnRequestFinished(const RequestFinishedEvent& event) {
  if (native_) native_->OnRequestFinished(event);
  if (vllm_) vllm_->OnRequestFinished(event);
}

// Read from the engine's snapshot when the page is asked for.
void PrometheusSink::OnPreempted(std::string_view) {}
void PrometheusSink::OnPrefixLookup(const PrefixLookupEvent&) {}
void PrometheusSink::OnGauges(const EngineGauges&) {}

void PrometheusSink::OnRejected(absl::string_view reason) {
  if (native_) native_->OnRejected(reason);
}

void PrometheusSink::OnCallStarted(absl::string_view) {}

void PrometheusSink::OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) {
  if (native_) native_->OnCallEnded(method, code, duration);
}

void PrometheusSink::OnDraining() {
  if (native_) native_->OnDraining();
}

}  // namespace farspan
