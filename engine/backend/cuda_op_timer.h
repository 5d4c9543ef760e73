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
    for (const Step& step : steps_) {
      for (const Span& span : step.spans) {
        cudaEventDestroy(span.begin);
        cudaEventDestroy(span.end);
      }
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
    Step& step = steps_[turn_];
    if (step.num_used == step.spans.size()) {
      Span span;
      for (cudaEvent_t* event : {&span.begin, &span.end}) {
        if (const cudaError_t error = cudaEventCreate(event); error != cudaSuccess) return error;
      }
      step.spans.push_back(span);
    }
    Span& span = step.spans[step.num_used++];
    span.op = op;
    span.weight = weight_;
    if (const cudaError_t error = cudaEventRecord(span.begin, stream); error != cudaSuccess) return error;
    if (const cudaError_t error = launch(); error != cudaSuccess) return error;
    return cudaEventRecord(span.end, stream);
  }

  // What is timed from now on is the next step's; that of the step before the last has been collected.
  void BeginNextStep() {
    turn_ = 1 - turn_;
    weight_ = 1;
  }

  // Reads what a completed step ran: steps with odd numbers and with even ones take turns, the first being number 1.
  cudaError_t Collect(uint64_t number) {
    Step& step = steps_[number % 2];
    const size_t num_spans = std::exchange(step.num_used, 0);
    for (size_t i = 0; i < num_spans; ++i) {
      const Span& span = step.spans[i];
      float milliseconds = 0;
      const cudaError_t error = cudaEventElapsedTime(&milliseconds, span.begin, span.end);
      if (error != cudaSuccess) return error;
      const auto elapsed = std::chrono::duration<float, std::milli>(milliseconds);
      totals_[static_cast<size_t>(span.op)] +=
          span.weight * std::chrono::duration_cast<SteadyDuration>(elapsed).count();
    }
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
  struct Step {
    std::vector<Span> spans;
    size_t num_used = 0;
  };
  std::array<Step, 2> steps_;  // in turns
  size_t turn_ = 1;
  int64_t untimed_steps_ = 0;
  int64_t timed_after_ = 8;  // so that a short run is not without a figure
  int64_t weight_ = 1;       // of the step that is being enqueued
  std::array<std::atomic<SteadyDuration::rep>, kNumTimedOps> totals_{};
};

}  // namespace farspan
