// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/step_cost.h"

#include <algorithm>

namespace farspan {
namespace {

constexpr double kNewestWeight = 0.3;

void Learn(double seen, double* estimate) {
  *estimate = *estimate == 0 ? seen : kNewestWeight * seen + (1 - kNewestWeight) * *estimate;
}

double Seconds(SteadyDuration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void StepCost::Observe(SteadyDuration duration, int64_t decode_rows, int64_t prefill_tokens) {
  const double seconds = Seconds(duration);
  if (prefill_tokens == 0) {
    if (decode_rows > 0) Learn(seconds / static_cast<double>(decode_rows), &seconds_per_decode_row_);
    return;
  }
  const double prefill_seconds = std::max(0.0, seconds - DecodeSeconds(decode_rows));
  Learn(prefill_seconds / static_cast<double>(prefill_tokens), &seconds_per_prefill_token_);
}

int64_t StepCost::PrefillTokensWithin(SteadyDuration limit, int64_t decode_rows) const {
  // Before the first prompt nothing is known: a small chunk finds out without a long pause.
  constexpr int64_t kFirstGuess = 64;
  if (seconds_per_prefill_token_ == 0) return kFirstGuess;
  const double room = Seconds(limit) - DecodeSeconds(decode_rows);
  constexpr double kMost = 1e9;
  const double tokens = std::clamp(room / seconds_per_prefill_token_, 0.0, kMost);
  return std::max(kLeastTokens, static_cast<int64_t>(tokens));
}

double StepCost::DecodeSeconds(int64_t decode_rows) const {
  return seconds_per_decode_row_ * static_cast<double>(decode_rows);
}

}  // namespace farspan
