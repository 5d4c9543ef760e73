// SPDX-License-Identifier: Apache-2.0
#include "server/prometheus_sink.h"

#include <prometheus/text_serializer.h>

#include "server/edge_families.h"
#include "server/native_families.h"
#include "server/vllm_families.h"

namespace farspan {

PrometheusSink::PrometheusSink() = default;
PrometheusSink::~PrometheusSink() = default;

void PrometheusSink::Open(const MetricsOptions& options) {
  SeriesMaker native(&registry_, {{"model_name", options.model_name}}, options.shape.max_context_tokens);
  native_ = std::make_unique<NativeFamilies>(options, &native);
  edge_ = std::make_unique<EdgeFamilies>(options, &native);
  if (!options.vllm_families) return;
  SeriesMaker vllm(&registry_, {{"model_name", options.model_name}, {"engine", "0"}}, options.shape.max_context_tokens);
  vllm_ = std::make_unique<VllmFamilies>(options, &vllm);
}

std::string PrometheusSink::Text(const MetricsReadings& readings) const {
  {
    MutexLock lock(&mutex_);
    if (native_) native_->Read(readings, gauges_);
    if (edge_) edge_->Read(readings);
    if (vllm_) vllm_->Read(readings, gauges_);
  }
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

void PrometheusSink::OnStep(const StepEvent& event) {
  if (native_) native_->OnStep(event);
  if (vllm_) vllm_->OnStep(event);
}

void PrometheusSink::OnTraffic(const TrafficEvent& event) {
  if (native_) native_->OnTraffic(event);
}

void PrometheusSink::OnToken(const TokenEvent& event) {
  if (native_) native_->OnToken(event);
  if (vllm_) vllm_->OnToken(event);
}

void PrometheusSink::OnRequestFinished(const RequestFinishedEvent& event) {
  if (native_) native_->OnRequestFinished(event);
  if (vllm_) vllm_->OnRequestFinished(event);
}

void PrometheusSink::OnPreempted(std::string_view policy) {
  if (native_) native_->OnPreempted(policy);
  if (vllm_) vllm_->OnPreempted();
}

void PrometheusSink::OnPrefixLookup(const PrefixLookupEvent& event) {
  if (native_) native_->OnPrefixLookup(event);
  if (vllm_) vllm_->OnPrefixLookup(event);
}

void PrometheusSink::OnGauges(const EngineGauges& gauges) {
  MutexLock lock(&mutex_);
  gauges_ = gauges;
}

void PrometheusSink::OnRejected(absl::string_view reason) {
  if (edge_) edge_->OnRejected(reason);
}

void PrometheusSink::OnCallStarted(absl::string_view) {}

void PrometheusSink::OnCallEnded(absl::string_view method, absl::StatusCode code, SteadyDuration duration) {
  if (edge_) edge_->OnCallEnded(method, code, duration);
}

void PrometheusSink::OnMessage(absl::string_view method, MessageDirection direction, int64_t bytes) {
  if (edge_) edge_->OnMessage(method, direction, bytes);
}

void PrometheusSink::OnCompared(const ComparedEvent& event) {
  if (edge_) edge_->OnCompared(event);
}

void PrometheusSink::OnDraining() {
  if (edge_) edge_->OnDraining();
}

}  // namespace farspan
