// SPDX-License-Identifier: Apache-2.0
// How long ops ran on the device, from events around each; read when their step has completed. Steps that are replayed
// as graphs are not timed one by one: one in kTimedEvery runs op by op and stands for those before it.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"

namespace farspan {

// Engine thread only, except Total.
class CudaOpTimer {
 public:
  ~CudaOpTimer() {
    for (const Span& span : spans_) {
      cudaEventDestroy(span.begin);
      cudaEventDestroy(span.end);
    }
  }

  static constexpr int64_t kTimedEvery = 128;

  // A recorded step is about to run; true when it has to be timed.
  bool NextRecordedStep() {
    if (++untimed_steps_ < timed_after_) return false;
    weight_ = std::exchange(untimed_steps_, 0);
    timed_after_ = kTimedEvery;
    return true;
  }

  template <typename Launch>
  cudaError_t Time(TimedOp op, cudaStream_t stream, const Launch& launch) {
    if (num_used_ == spans_.size()) {
      Span span;
      for (cudaEvent_t* event : {&span.begin, &span.end}) {
        if (const cudaError_t error = cudaEventCreate(event); error != cudaSuccess) return error;
      }
      spans_.push_back(span);
    }
    Span& span = spans_[num_used_++];
    span.op = op;
    span.weight = weight_;
    if (const cudaError_t error = cudaEventRecord(span.begin, stream); error != cudaSuccess) return error;
    if (const cudaError_t error = launch(); error != cudaSuccess) return error;
    return cudaEventRecord(span.end, stream);
  }

  cudaError_t Collect() {
    const size_t num_spans = std::exchange(num_used_, 0);
    for (size_t i = 0; i < num_spans; ++i) {
      float milliseconds = 0;
      const cudaError_t error = cudaEventElapsedTime(&milliseconds, spans_[i].begin, spans_[i].end);
      if (error != cudaSuccess) return error;
      const auto elapsed = std::chrono::duration<float, std::milli>(milliseconds);
      totals_[static_cast<size_t>(spans_[i].op)] +=
          spans_[i].weight * std::chrono::duration_cast<SteadyDuration>(elapsed).count();
    }
    weight_ = 1;
    return cudaSuccess;
  }

  SteadyDuration Total(TimedOp op) const { return SteadyDuration(totals_[static_cast<size_t>(op)].load()); }

 private:
  struct Span {
    TimedOp op{};
    int64_t weight = 1;  // steps that it stands for
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
  };
  std::vector<Span> spans_;
  size_t num_used_ = 0;
  int64_t untimed_steps_ = 0;
  int64_t timed_after_ = 8;  // so that a short run is not without a figure
  int64_t weight_ = 1;       // of the step that is being enqueued
  std::array<std::atomic<SteadyDuration::rep>, kNumTimedOps> totals_{};
};

}  // namespace farspan
