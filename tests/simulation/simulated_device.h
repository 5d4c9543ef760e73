// SPDX-License-Identifier: Apache-2.0
// The device of a simulation: the hash model whose steps take virtual time, and a sink that keeps the last step's
// events.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/metrics/metrics_sink.h"
#include "engine/model/hash_model.h"
#include "tests/support/fake_clock.h"

namespace farspan {

class TimedHashModel final : public Model {
 public:
  // `clock` outlives this.
  TimedHashModel(const ModelShape& shape, int64_t max_batch_rows, FakeClock* clock)
      : hash_(shape, max_batch_rows), clock_(clock) {}

  HashModel& hash() { return hash_; }
  const ModelShape& shape() const override { return hash_.shape(); }
  const ModelInfo& info() const override { return hash_.info(); }
  int64_t max_batch_rows() const override { return hash_.max_batch_rows(); }
  absl::Status Forward(const ForwardBatch& batch, KvCache& kv) override {
    constexpr int64_t kStepUs = 200;
    constexpr int64_t kRowUs = 20;
    clock_->Advance(std::chrono::microseconds(kStepUs + kRowUs * batch.num_rows()));
    return hash_.Forward(batch, kv);
  }
  absl::StatusOr<std::span<float>> Logits(int64_t first, int64_t count) override { return hash_.Logits(first, count); }

 private:
  HashModel hash_;
  FakeClock* const clock_;
};

class StepRecorder final : public MetricsSink {
 public:
  void BeginStep() { step_ = {}; }
  // Of the last step; no rows where it ran none.
  const StepEvent& step() const { return step_; }
  const EngineGauges& gauges() const { return gauges_; }
  int64_t num_preemptions() const { return num_preemptions_; }
  int64_t num_prefix_hits() const { return num_prefix_hits_; }
  int64_t num_finished() const { return num_finished_; }

  void OnStep(const StepEvent& event) override { step_ = event; }
  void OnTraffic(const TrafficEvent&) override {}
  void OnToken(const TokenEvent&) override {}
  void OnRequestFinished(const RequestFinishedEvent&) override { ++num_finished_; }
  void OnPreempted(std::string_view) override { ++num_preemptions_; }
  void OnPrefixLookup(const PrefixLookupEvent& event) override { num_prefix_hits_ += event.hit_tokens > 0 ? 1 : 0; }
  void OnGauges(const EngineGauges& gauges) override { gauges_ = gauges; }

 private:
  StepEvent step_;
  EngineGauges gauges_;
  int64_t num_preemptions_ = 0;
  int64_t num_prefix_hits_ = 0;
  int64_t num_finished_ = 0;
};

}  // namespace farspan
