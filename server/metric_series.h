// SPDX-License-Identifier: Apache-2.0
// Makes series in a Prometheus registry with the labels that all of ours share, and the bucket bounds in one place.
#pragma once

#include <string>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

namespace farspan {

using Buckets = std::vector<double>;
using Labels = std::map<std::string, std::string>;

// One thread, while the server starts. The series belong to the registry.
class SeriesMaker {
 public:
  // `prefix` is "farspan_" or "vllm:".
  SeriesMaker(prometheus::Registry* registry, std::string prefix, Labels common)
      : registry_(*registry), prefix_(std::move(prefix)), common_(std::move(common)) {}

  prometheus::Counter* Counter(const std::string& name, const std::string& help, const Labels& labels = {}) {
    return &prometheus::BuildCounter().Name(prefix_ + name).Help(help).Register(registry_).Add(All(labels));
  }
  prometheus::Gauge* Gauge(const std::string& name, const std::string& help, const Labels& labels = {}) {
    return &prometheus::BuildGauge().Name(prefix_ + name).Help(help).Register(registry_).Add(All(labels));
  }
  prometheus::Histogram* Histogram(const std::string& name, const std::string& help, const Buckets& buckets,
                                   const Labels& labels = {}) {
    return &prometheus::BuildHistogram().Name(prefix_ + name).Help(help).Register(registry_).Add(All(labels), buckets);
  }

 private:
  Labels All(Labels labels) const {
    labels.insert(common_.begin(), common_.end());
    return labels;
  }

  prometheus::Registry& registry_;
  const std::string prefix_;
  const Labels common_;
};

// vLLM's.
const Buckets& TimeToFirstTokenBuckets();
const Buckets& VllmTokenBuckets();
const Buckets& VllmRequestBuckets();
const Buckets& IterationTokensBuckets();
// 1, 2, 5, 10, ... up to `limit`.
Buckets OneTwoFiveBuckets(double limit);
// Ours: a small model decodes faster than vLLM's first bounds.
const Buckets& TokenBuckets();
const Buckets& RequestBuckets();
const Buckets& StageBuckets();
const Buckets& StepBuckets();
const Buckets& RatioBuckets();
const Buckets& PeakBytesBuckets();
const Buckets& BatchTokensBuckets();
const Buckets& BatchPoliciesBuckets();

}  // namespace farspan
