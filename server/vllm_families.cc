// SPDX-License-Identifier: Apache-2.0
#include "server/vllm_families.h"

namespace farspan {

VllmFamilies::VllmFamilies(const MetricsOptions& options, SeriesMaker* maker)
    : kv_pages_total_(options.kv_pages_total) {
  running_ = maker->Gauge("vllm:num_requests_running");
  waiting_ = maker->Gauge("vllm:num_requests_waiting");
  waiting_for_capacity_ = maker->Gauge("vllm:num_requests_waiting_by_reason", {{"reason", "capacity"}});
  maker->Gauge("vllm:num_requests_waiting_by_reason", {{"reason", "deferred"}});
  usage_ = maker->Gauge("vllm:kv_cache_usage_perc");
  maker
      ->Gauge("vllm:cache_config_info", {{"block_size", std::to_string(options.shape.page_tokens)},
                                         {"cache_dtype", KvDtypeName(options.shape.kv_dtype)},
                                         {"num_gpu_blocks", std::to_string(options.kv_pages_total)},
                                         {"enable_prefix_caching", options.prefix_caching ? "True" : "False"}})
      ->Set(1);
  prompt_tokens_ = maker->Counter("vllm:prompt_tokens_total");
  computed_tokens_ = maker->Counter("vllm:prompt_tokens_by_source_total", {{"source", "local_compute"}});
  hit_tokens_ = maker->Counter("vllm:prompt_tokens_by_source_total", {{"source", "local_cache_hit"}});
  maker->Counter("vllm:prompt_tokens_by_source_total", {{"source", "external_kv_transfer"}});
  cached_tokens_ = maker->Counter("vllm:prompt_tokens_cached_total");
  generation_tokens_ = maker->Counter("vllm:generation_tokens_total");
  preemptions_ = maker->Counter("vllm:num_preemptions_total");
  cache_queries_ = maker->Counter("vllm:prefix_cache_queries_total");
  cache_hits_ = maker->Counter("vllm:prefix_cache_hits_total");
  stop_ = maker->Counter("vllm:request_success_total", {{"finished_reason", "stop"}});
  length_ = maker->Counter("vllm:request_success_total", {{"finished_reason", "length"}});
  abort_ = maker->Counter("vllm:request_success_total", {{"finished_reason", "abort"}});
  error_ = maker->Counter("vllm:request_success_total", {{"finished_reason", "error"}});
  first_token_ = maker->Histogram("vllm:time_to_first_token_seconds");
  inter_token_ = maker->Histogram("vllm:inter_token_latency_seconds");
  time_per_output_token_ = maker->Histogram("vllm:time_per_output_token_seconds");
  per_token_ = maker->Histogram("vllm:request_time_per_output_token_seconds");
  end_to_end_ = maker->Histogram("vllm:e2e_request_latency_seconds");
  queue_ = maker->Histogram("vllm:request_queue_time_seconds");
  inference_ = maker->Histogram("vllm:request_inference_time_seconds");
  prefill_ = maker->Histogram("vllm:request_prefill_time_seconds");
  decode_ = maker->Histogram("vllm:request_decode_time_seconds");
  request_prompt_tokens_ = maker->Histogram("vllm:request_prompt_tokens");
  request_generation_tokens_ = maker->Histogram("vllm:request_generation_tokens");
  request_longest_ = maker->Histogram("vllm:request_max_num_generation_tokens");
  params_n_ = maker->Histogram("vllm:request_params_n");
  params_max_tokens_ = maker->Histogram("vllm:request_params_max_tokens");
  request_computed_tokens_ = maker->Histogram("vllm:request_prefill_kv_computed_tokens");
  request_preemptions_ = maker->Histogram("vllm:request_num_preemptions");
  iteration_tokens_ = maker->Histogram("vllm:iteration_tokens_total");
}

void VllmFamilies::OnStep(const StepEvent& event) {
  iteration_tokens_->Observe(static_cast<double>(event.decode_rows + event.prefill_tokens));
}

void VllmFamilies::OnToken(const TokenEvent& event) {
  generation_tokens_->Increment();
  if (event.place == TokenEvent::Place::kFirstOfRequest) {
    first_token_->Observe(MetricSeconds(event.gap));
  } else if (event.place == TokenEvent::Place::kLater) {
    inter_token_->Observe(MetricSeconds(event.gap));
    time_per_output_token_->Observe(MetricSeconds(event.gap));
  }
}

void VllmFamilies::CountEnd(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return stop_->Increment();
    case FinishReason::kLength:
      return length_->Increment();
    case FinishReason::kCancelled:
    case FinishReason::kDeadline:
    case FinishReason::kQueueTimeout:
      return abort_->Increment();
    case FinishReason::kError:
      return error_->Increment();
  }
}

void VllmFamilies::CountPrompt(const RequestStatistics& statistics) {
  const auto prompt = static_cast<double>(statistics.prompt_tokens);
  const auto cached = static_cast<double>(statistics.cached_prompt_tokens);
  prompt_tokens_->Increment(prompt);
  computed_tokens_->Increment(prompt - cached);
  hit_tokens_->Increment(cached);
  cached_tokens_->Increment(cached);
  request_prompt_tokens_->Observe(prompt);
  request_computed_tokens_->Observe(prompt - cached);
}

void VllmFamilies::OnRequestFinished(const RequestFinishedEvent& event) {
  const RequestStatistics& statistics = *event.statistics;
  CountEnd(event.reason);
  params_n_->Observe(static_cast<double>(event.request->num_samples));
  params_max_tokens_->Observe(static_cast<double>(event.request->stop.max_tokens));
  request_preemptions_->Observe(static_cast<double>(statistics.preemptions));
  end_to_end_->Observe(MetricSeconds(statistics.finished - statistics.arrival));
  queue_->Observe(MetricSeconds(statistics.first_step - statistics.arrival));
  if (statistics.generated_tokens == 0) return;
  CountPrompt(statistics);
  request_generation_tokens_->Observe(static_cast<double>(statistics.generated_tokens));
  request_longest_->Observe(static_cast<double>(event.longest_sample_tokens));
  inference_->Observe(MetricSeconds(statistics.last_token - statistics.first_step));
  prefill_->Observe(MetricSeconds(statistics.first_token - statistics.first_step));
  const double decode_seconds = MetricSeconds(statistics.last_token - statistics.first_token);
  decode_->Observe(decode_seconds);
  if (event.longest_sample_tokens > 1) {
    per_token_->Observe(decode_seconds / static_cast<double>(event.longest_sample_tokens - 1));
  }
}

void VllmFamilies::OnPreempted() { preemptions_->Increment(); }

void VllmFamilies::OnPrefixLookup(const PrefixLookupEvent& event) {
  cache_queries_->Increment(static_cast<double>(event.queried_tokens));
  cache_hits_->Increment(static_cast<double>(event.hit_tokens));
}

void VllmFamilies::Read(const MetricsReadings& readings, const EngineGauges& gauges) {
  running_->Set(static_cast<double>(readings.requests_running));
  waiting_->Set(static_cast<double>(readings.requests_waiting));
  waiting_for_capacity_->Set(static_cast<double>(readings.requests_waiting));
  if (kv_pages_total_ > 0) {
    usage_->Set(static_cast<double>(gauges.kv_pages_used) / static_cast<double>(kv_pages_total_));
  }
}

}  // namespace farspan
