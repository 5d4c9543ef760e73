// SPDX-License-Identifier: Apache-2.0
#include "server/native_families.h"

#include <algorithm>
#include <numeric>

#include "engine/base/check.h"

namespace farspan {
namespace {

constexpr size_t kPrefill = 0;
constexpr size_t kDecode = 1;
constexpr size_t kMixed = 2;
static_assert(static_cast<size_t>(FinishReason::kError) + 1 == std::size(kFinishReasons));

size_t BandOf(int64_t prompt_tokens) {
  size_t band = 0;
  for (int64_t limit = 4096; prompt_tokens > limit && band < std::size(kContextBands) - 1; limit *= 4) ++band;
  return band;
}

}  // namespace

NativeFamilies::NativeFamilies(const MetricsOptions& options, SeriesMaker* maker)
    : kv_page_bytes_(options.shape.kv_bytes_per_page()), kv_pages_total_(options.kv_pages_total) {
  for (const PolicyTraits& policy : options.policies) {
    policies_.emplace(policy.name, MakePolicy(policy.name, options, maker));
  }
  MakeEngineSeries(options, maker);
}

NativeFamilies::PolicySeries NativeFamilies::MakePolicy(std::string_view policy, const MetricsOptions& options,
                                                        SeriesMaker* maker) {
  PolicySeries series{};
  MakeHistograms(policy, maker, &series);
  MakeCounters(policy, maker, &series);
  const auto gauge = [&](std::string_view name) { return maker->Gauge(name, {{"attention_policy", policy}}); };
  series.running = gauge("farspan_requests_running");
  series.waiting = gauge("farspan_requests_waiting");
  series.resident_bytes = maker->Gauge(
      "farspan_kv_resident_bytes",
      {{"attention_policy", policy}, {"tier", "device"}, {"kv_dtype", KvDtypeName(options.shape.kv_dtype)}});
  series.aux_bytes = gauge("farspan_kv_aux_bytes");
  series.logical_tokens = gauge("farspan_kv_logical_tokens");
  series.resident_tokens = gauge("farspan_kv_resident_tokens");
  return series;
}

void NativeFamilies::MakeHistograms(std::string_view policy, SeriesMaker* maker, PolicySeries* series) {
  for (size_t i = 0; i < std::size(kContextBands); ++i) {
    const auto histogram = [&](std::string_view name) {
      return maker->Histogram(name, {{"attention_policy", policy}, {"context_band", kContextBands[i]}});
    };
    series->first_token[i] = histogram("farspan_time_to_first_token_seconds");
    series->inter_token[i] = histogram("farspan_inter_token_latency_seconds");
    series->per_token[i] = histogram("farspan_request_time_per_output_token_seconds");
    series->end_to_end[i] = histogram("farspan_e2e_request_latency_seconds");
  }
  const auto histogram = [&](std::string_view name) { return maker->Histogram(name, {{"attention_policy", policy}}); };
  series->queue = histogram("farspan_request_queue_seconds");
  series->prefill = histogram("farspan_request_prefill_seconds");
  series->decode = histogram("farspan_request_decode_seconds");
  series->selected_ratio = histogram("farspan_request_kv_selected_ratio");
  series->peak_bytes = histogram("farspan_request_peak_kv_bytes");
}

void NativeFamilies::MakeCounters(std::string_view policy, SeriesMaker* maker, PolicySeries* series) {
  const auto counter = [&](std::string_view name) { return maker->Counter(name, {{"attention_policy", policy}}); };
  const auto labelled = [&](std::string_view name, std::string_view label, std::string_view value) {
    return maker->Counter(name, {{"attention_policy", policy}, {label, value}});
  };
  for (size_t i = 0; i < std::size(kFinishReasons); ++i) {
    series->finished[i] = labelled("farspan_requests_finished_total", "finish_reason", kFinishReasons[i]);
  }
  series->prompt_computed = labelled("farspan_prompt_tokens_total", "source", "computed");
  series->prompt_cached = labelled("farspan_prompt_tokens_total", "source", "cached");
  series->generated = counter("farspan_generation_tokens_total");
  series->evicted = counter("farspan_kv_evicted_tokens_total");
  series->preempted = labelled("farspan_preemptions_total", "mode", "recompute");
  series->queried = counter("farspan_prefix_cache_queried_tokens_total");
  series->hit = counter("farspan_prefix_cache_hit_tokens_total");
  for (size_t i = 0; i < std::size(kPhases); ++i) {
    series->read_bytes[i] = labelled("farspan_kv_read_bytes_total", "phase", kPhases[i]);
    series->dense_read_bytes[i] = labelled("farspan_kv_read_bytes_dense_total", "phase", kPhases[i]);
    series->side_read_bytes[i] = labelled("farspan_kv_side_read_bytes_total", "phase", kPhases[i]);
    series->entries_selected[i] = labelled("farspan_kv_entries_selected_total", "phase", kPhases[i]);
    series->entries_candidate[i] = labelled("farspan_kv_entries_candidate_total", "phase", kPhases[i]);
  }
}

void NativeFamilies::MakeEngineSeries(const MetricsOptions& options, SeriesMaker* maker) {
  for (size_t i = 0; i < std::size(kStepPhases); ++i) {
    step_seconds_[i] = maker->Histogram("farspan_engine_step_seconds", {{"phase", kStepPhases[i]}});
  }
  for (size_t i = 0; i < std::size(kPhases); ++i) {
    batch_tokens_[i] = maker->Histogram("farspan_batch_tokens", {{"phase", kPhases[i]}});
    attention_seconds_[i] = maker->Counter("farspan_attention_seconds_total", {{"phase", kPhases[i]}});
    overhead_seconds_[i] = maker->Counter("farspan_policy_overhead_seconds_total", {{"phase", kPhases[i]}});
  }
  overrun_rows_ = maker->Counter("farspan_batch_overrun_rows_total");
  batch_requests_ = maker->Histogram("farspan_batch_requests");
  batch_policies_ = maker->Histogram("farspan_batch_distinct_policies");
  for (const std::string_view state : kPageStates) {
    pages_.emplace(state, maker->Gauge("farspan_kv_pages", {{"state", state}}));
  }
  for (const std::string_view kind : kMemoryKindNames) {
    memory_.emplace(kind, maker->Gauge("farspan_device_memory_bytes", {{"device", options.device}, {"kind", kind}}));
  }
}

NativeFamilies::PolicySeries& NativeFamilies::Of(std::string_view policy) {
  const auto series = policies_.find(policy);
  FARSPAN_CHECK(series != policies_.end(), "policy=", std::string(policy));
  return series->second;
}

void NativeFamilies::OnStep(const StepEvent& event) {
  const size_t phase = event.prefill_tokens == 0 ? kDecode : event.decode_rows == 0 ? kPrefill : kMixed;
  step_seconds_[phase]->Observe(MetricSeconds(event.duration));
  if (event.prefill_tokens > 0) batch_tokens_[kPrefill]->Observe(static_cast<double>(event.prefill_tokens));
  if (event.decode_rows > 0) batch_tokens_[kDecode]->Observe(static_cast<double>(event.decode_rows));
  batch_requests_->Observe(static_cast<double>(event.num_sequences));
  batch_policies_->Observe(static_cast<double>(event.num_policies));
  overrun_rows_->Increment(static_cast<double>(event.overrun_rows));
}

void NativeFamilies::OnTraffic(const TrafficEvent& event) {
  PolicySeries& series = Of(event.policy);
  const size_t phase = event.prefill ? kPrefill : kDecode;
  series.read_bytes[phase]->Increment(static_cast<double>(event.traffic.read_bytes));
  series.dense_read_bytes[phase]->Increment(static_cast<double>(event.traffic.dense_read_bytes));
  series.side_read_bytes[phase]->Increment(static_cast<double>(event.traffic.side_read_bytes));
  series.entries_selected[phase]->Increment(static_cast<double>(event.traffic.entries_selected));
  series.entries_candidate[phase]->Increment(static_cast<double>(event.traffic.entries_candidate));
}

void NativeFamilies::OnToken(const TokenEvent& event) {
  PolicySeries& series = Of(event.policy);
  series.generated->Increment();
  const size_t band = BandOf(event.prompt_tokens);
  if (event.place == TokenEvent::Place::kFirstOfRequest) {
    series.first_token[band]->Observe(MetricSeconds(event.gap));
  } else if (event.place == TokenEvent::Place::kLater) {
    series.inter_token[band]->Observe(MetricSeconds(event.gap));
  }
}

void NativeFamilies::OnRequestFinished(const RequestFinishedEvent& event) {
  PolicySeries& series = Of(event.policy);
  const RequestStatistics& statistics = *event.statistics;
  const size_t band = BandOf(statistics.prompt_tokens);
  series.finished[static_cast<size_t>(event.reason)]->Increment();
  series.end_to_end[band]->Observe(MetricSeconds(statistics.finished - statistics.arrival));
  series.evicted->Increment(static_cast<double>(statistics.evicted_tokens));
  series.queue->Observe(MetricSeconds(statistics.first_step - statistics.arrival));
  if (statistics.generated_tokens == 0) return;
  series.prompt_cached->Increment(static_cast<double>(statistics.cached_prompt_tokens));
  series.prompt_computed->Increment(static_cast<double>(statistics.prompt_tokens - statistics.cached_prompt_tokens));
  series.prefill->Observe(MetricSeconds(statistics.first_token - statistics.first_step));
  const double decode_seconds = MetricSeconds(statistics.last_token - statistics.first_token);
  series.decode->Observe(decode_seconds);
  series.peak_bytes->Observe(static_cast<double>(statistics.peak_resident_bytes));
  const auto candidate =
      static_cast<double>(statistics.prefill.entries_candidate + statistics.decode.entries_candidate);
  const auto selected = static_cast<double>(statistics.prefill.entries_selected + statistics.decode.entries_selected);
  if (candidate > 0) series.selected_ratio->Observe(selected / candidate);
  if (event.longest_sample_tokens > 1) {
    series.per_token[band]->Observe(decode_seconds / static_cast<double>(event.longest_sample_tokens - 1));
  }
}

void NativeFamilies::OnPreempted(std::string_view policy) { Of(policy).preempted->Increment(); }

void NativeFamilies::OnPrefixLookup(const PrefixLookupEvent& event) {
  PolicySeries& series = Of(event.policy);
  series.queried->Increment(static_cast<double>(event.queried_tokens));
  series.hit->Increment(static_cast<double>(event.hit_tokens));
}

void NativeFamilies::SetGauges(const PolicyGauges& gauges, PolicySeries* series) {
  series->running->Set(static_cast<double>(gauges.requests_running));
  series->waiting->Set(static_cast<double>(gauges.requests_waiting));
  series->resident_bytes->Set(static_cast<double>(gauges.resident_bytes));
  series->aux_bytes->Set(static_cast<double>(gauges.side_data_bytes));
  series->logical_tokens->Set(static_cast<double>(gauges.logical_tokens));
  series->resident_tokens->Set(static_cast<double>(gauges.resident_tokens));
}

void NativeFamilies::Read(const MetricsReadings& readings, const EngineGauges& gauges) {
  for (auto& [policy, series] : policies_) SetGauges({}, &series);
  for (const PolicyGauges& policy : gauges.policies) SetGauges(policy, &Of(policy.policy));
  ReadMemory(readings, gauges);
  const auto seconds = [&](TimedOp op) { return MetricSeconds(readings.op_time[static_cast<size_t>(op)]); };
  RaiseTo(seconds(TimedOp::kPrefillAttention), attention_seconds_[kPrefill]);
  RaiseTo(seconds(TimedOp::kDecodeAttention), attention_seconds_[kDecode]);
  RaiseTo(seconds(TimedOp::kPrefillSelection), overhead_seconds_[kPrefill]);
  RaiseTo(seconds(TimedOp::kDecodeSelection), overhead_seconds_[kDecode]);
}

void NativeFamilies::ReadMemory(const MetricsReadings& readings, const EngineGauges& gauges) {
  const int64_t free_pages = kv_pages_total_ - gauges.kv_pages_used - gauges.kv_pages_cached;
  pages_.at("free")->Set(static_cast<double>(free_pages));
  pages_.at("used")->Set(static_cast<double>(gauges.kv_pages_used));
  pages_.at("cached")->Set(static_cast<double>(gauges.kv_pages_cached));
  const auto held = [&](MemoryKind kind) {
    return static_cast<double>(readings.memory_bytes[static_cast<size_t>(kind)]);
  };
  const auto used = static_cast<double>(gauges.kv_pages_used * kv_page_bytes_);
  const auto cached = static_cast<double>(gauges.kv_pages_cached * kv_page_bytes_);
  memory_.at("weights")->Set(held(MemoryKind::kWeights));
  memory_.at("kv_used")->Set(used);
  memory_.at("kv_cached")->Set(cached);
  memory_.at("kv_free")->Set(held(MemoryKind::kKvPages) - used - cached);
  memory_.at("side_data")->Set(held(MemoryKind::kSideData));
  memory_.at("activations")->Set(held(MemoryKind::kActivations));
  memory_.at("workspace")->Set(held(MemoryKind::kWorkspace));
  const auto all_held = std::accumulate(readings.memory_bytes.begin(), readings.memory_bytes.end(), int64_t{0});
  const DeviceMemory& device = readings.device_memory;
  memory_.at("other")->Set(
      static_cast<double>(std::max<int64_t>(0, device.total_bytes - device.free_bytes - all_held)));
  memory_.at("free")->Set(static_cast<double>(device.free_bytes));
}

}  // namespace farspan
