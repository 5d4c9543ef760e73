// SPDX-License-Identifier: Apache-2.0
#include "server/metric_page.h"

#include <algorithm>
#include <sstream>
#include <string_view>
#include <vector>

#include "server/metric_table.h"

namespace farspan {
namespace {

constexpr char kHead[] = R"(# Metrics

<!-- Written by `farspan-metric-page deploy/metrics.md` from server/metric_table.cc; a test compares the two. -->

`farspan-server` serves these families at `http://HOST:8002/metrics` in the Prometheus text format. Every series exists
from the start, with 0 until something happens; none is ever made from what a client sends. Every series has the label
`model_name`, the name under which the model is served; those under vLLM's names have `engine="0"` as well. A policy's
options never become labels: `attention_policy` is its name alone.

Counters only grow and end in `_total`; rates and ratios are for the query:
`rate(farspan_kv_read_bytes_total[5m]) / rate(farspan_kv_read_bytes_dense_total[5m])`. Compare latencies of policies at
equal `context_band`: without it the lengths of their prompts are compared. "Filled by" says who knows the value: the
engine, the backend of the device, or the server's edge.
)";

constexpr char kVllmNote[] = R"(
Names, types, buckets and labels are vLLM's, summed over policies, so that its dashboards work unchanged;
`--metrics-compat off` leaves them out. `vllm:iteration_tokens_total` is a histogram in spite of its name.
)";

constexpr char kTail[] = R"(
## What is left out

A family that this server cannot fill truthfully is absent, not zero.

- vLLM's `external_prefix_cache_*`, `mm_cache_*`, `kv_offload_*`, `kv_block_*`, `spec_decode_*`, `lora_requests_info`,
  `engine_sleep_state`, `corrupted_requests` and `estimated_*`: there is no external or multimodal cache, no offloading,
  no sampling of blocks, no speculation, no adapter, no sleep, no check of that kind; bytes read are counted instead of
  estimated (`farspan_kv_read_bytes_total`).
- `vllm:request_success_total` has no reason `repetition`: no such detector runs.
- Fallbacks from one policy to another: none exists, a policy that cannot run is refused.
- Pages recalled from the host: none leave the device. CUDA graphs and context by themselves: they are in `other`.
- Attention time by policy: rows of all policies share a launch.
- Selected pages: policies choose tokens as well as pages, so `farspan_kv_entries_*` count tokens.
- Peaks of the device's memory: all that a step needs is taken before the first. The host's memory beside a GPU.
- Anything by tenant, priority, client or call.
)";

struct GroupHeading {
  MetricGroup group;
  std::string_view heading;
};
constexpr GroupHeading kGroups[] = {
    {MetricGroup::kLatency, "Latency"},       {MetricGroup::kRequests, "Requests"},
    {MetricGroup::kTokens, "Tokens"},         {MetricGroup::kKvCache, "KV cache and memory"},
    {MetricGroup::kAttention, "Attention"},   {MetricGroup::kSteps, "Steps and batches"},
    {MetricGroup::kComparison, "Comparison"}, {MetricGroup::kServer, "The server"},
    {MetricGroup::kVllm, "vLLM's names"}};

std::string_view TypeName(MetricType type) {
  if (type == MetricType::kHistogram) return "histogram";
  return type == MetricType::kCounter ? "counter" : "gauge";
}

std::string_view SourceName(MetricSource source) {
  if (source == MetricSource::kEngine) return "engine";
  return source == MetricSource::kBackend ? "backend" : "server";
}

// "`a`, `b`", or a dash for none.
std::string LabelNames(const MetricFamily& family) {
  std::string names;
  for (const MetricLabel* label : family.labels) {
    if (!names.empty()) names += ", ";
    names += '`' + std::string(label->name) + '`';
  }
  return names.empty() ? "-" : names;
}

void WriteGroup(const GroupHeading& group, std::ostream& out) {
  out << "\n## " << group.heading << "\n";
  if (group.group == MetricGroup::kVllm) out << kVllmNote;
  out << "\n| family | type | unit | labels | buckets | filled by | meaning |\n|---|---|---|---|---|---|---|\n";
  for (const MetricFamily& family : MetricTable()) {
    if (family.group != group.group) continue;
    out << "| `" << family.name << "` | " << TypeName(family.type) << " | " << (family.unit.empty() ? "-" : family.unit)
        << " | " << LabelNames(family) << " | " << (family.buckets == nullptr ? "-" : family.buckets->name) << " | "
        << SourceName(family.source) << " | " << family.help << " |\n";
  }
}

// The distinct ones of `member(family)`, in the order of first use.
template <typename T, typename Members>
std::vector<const T*> Distinct(const Members& members) {
  std::vector<const T*> distinct;
  for (const MetricFamily& family : MetricTable()) {
    for (const T* item : members(family)) {
      if (std::find(distinct.begin(), distinct.end(), item) == distinct.end()) distinct.push_back(item);
    }
  }
  return distinct;
}

void WriteLabels(std::ostream& out) {
  out << "\n## Labels\n\n| label | meaning | values |\n|---|---|---|\n";
  for (const MetricLabel* label : Distinct<MetricLabel>([](const MetricFamily& family) { return family.labels; })) {
    out << "| `" << label->name << "` | " << label->meaning << " | ";
    if (label->values.empty()) out << "fixed when serving starts";
    for (size_t i = 0; i < label->values.size(); ++i) out << (i == 0 ? "`" : ", `") << label->values[i] << '`';
    out << " |\n";
  }
}

void WriteBuckets(std::ostream& out) {
  out << "\n## Buckets\n\n| name | upper bounds, in the family's unit |\n|---|---|\n";
  const auto buckets = Distinct<BucketList>([](const MetricFamily& family) {
    return family.buckets == nullptr ? std::vector<const BucketList*>()
                                     : std::vector<const BucketList*>{family.buckets};
  });
  for (const BucketList* list : buckets) {
    out << "| " << list->name << " | ";
    if (list->bounds.empty()) out << "1, 2, 5, 10, 20, 50, ... up to the longest context";
    for (size_t i = 0; i < list->bounds.size(); ++i) out << (i == 0 ? "" : ", ") << list->bounds[i];
    out << " |\n";
  }
}

}  // namespace

std::string MetricPage() {
  std::ostringstream out;
  out.precision(12);
  out << kHead;
  for (const GroupHeading& group : kGroups) WriteGroup(group, out);
  WriteLabels(out);
  WriteBuckets(out);
  out << kTail;
  return out.str();
}

}  // namespace farspan
