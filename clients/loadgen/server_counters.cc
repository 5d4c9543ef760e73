// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/server_counters.h"

namespace farspan::loadgen {
namespace {

constexpr const char* kPolicy = "attention_policy";

double Growth(double before, double after) { return after >= before ? after - before : after; }

class Difference {
 public:
  Difference(const MetricsSnapshot& before, const MetricsSnapshot& after) : before_(before), after_(after) {}

  std::optional<double> Of(const char* name, const MetricLabels& labels = {}) const {
    const std::optional<double> now = after_.Sum(name, labels);
    if (!now) return std::nullopt;
    return Growth(before_.Sum(name, labels).value_or(0), *now);
  }

  // Values above 0 by a label's values.
  std::map<std::string, double> By(const char* name, const char* label, const MetricLabels& labels = {}) const {
    const std::map<std::string, double> before = before_.SumBy(name, label, labels);
    std::map<std::string, double> growth;
    for (const auto& [value, now] : after_.SumBy(name, label, labels)) {
      const auto earlier = before.find(value);
      const double grown = Growth(earlier == before.end() ? 0 : earlier->second, now);
      if (grown > 0) growth[value] = grown;
    }
    return growth;
  }

 private:
  const MetricsSnapshot& before_;
  const MetricsSnapshot& after_;
};

PolicyCounters CountersOf(const Difference& difference, const std::string& policy) {
  const MetricLabels labels{{kPolicy, policy}};
  PolicyCounters counters;
  counters.prompt_tokens_computed =
      difference.Of("farspan_prompt_tokens_total", {{kPolicy, policy}, {"source", "computed"}});
  counters.prompt_tokens_cached =
      difference.Of("farspan_prompt_tokens_total", {{kPolicy, policy}, {"source", "cached"}});
  counters.generation_tokens = difference.Of("farspan_generation_tokens_total", labels);
  counters.read_bytes = difference.Of("farspan_kv_read_bytes_total", labels);
  counters.dense_read_bytes = difference.Of("farspan_kv_read_bytes_dense_total", labels);
  counters.preemptions = difference.Of("farspan_preemptions_total", labels);
  counters.finished = difference.By("farspan_requests_finished_total", "finish_reason", labels);
  return counters;
}

bool DidSomething(const PolicyCounters& counters) {
  return !counters.finished.empty() || counters.read_bytes.value_or(0) > 0 ||
         counters.generation_tokens.value_or(0) > 0 || counters.prompt_tokens_computed.value_or(0) > 0;
}

}  // namespace

ServerCounters CountersBetween(const MetricsSnapshot& before, const MetricsSnapshot& after) {
  const Difference difference(before, after);
  ServerCounters counters;
  for (const auto& [policy, total] : after.SumBy("farspan_requests_finished_total", kPolicy)) {
    PolicyCounters of_policy = CountersOf(difference, policy);
    if (DidSomething(of_policy)) counters.policies.emplace(policy, std::move(of_policy));
  }
  counters.rejected = difference.By("farspan_requests_rejected_total", "reason");
  counters.calls = difference.By("farspan_grpc_requests_total", "code", {{"method", "Generate"}});
  counters.preemptions = difference.Of("farspan_preemptions_total");
  if (!counters.preemptions) counters.preemptions = difference.Of("vllm:num_preemptions_total");
  counters.prefix_cache_queries = difference.Of("farspan_prefix_cache_queried_tokens_total");
  counters.prefix_cache_hits = difference.Of("farspan_prefix_cache_hit_tokens_total");
  return counters;
}

}  // namespace farspan::loadgen
