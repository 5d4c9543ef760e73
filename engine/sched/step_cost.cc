// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/step_cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace farspan {
namespace {

constexpr size_t kMaxSteps = 64;
constexpr double kWeightOfTheStepBefore = 0.93;
// Before the first prompt nothing is known: a small chunk finds out without a long pause.
constexpr int64_t kFirstGuess = 64;

using Row = std::array<double, 4>;  // three unknowns, then the right-hand side

// Solves three equations; an unknown that they do not determine becomes zero.
std::array<double, 3> Solve(std::array<Row, 3> rows) {
  for (size_t i = 0; i < 3; ++i) {
    size_t pivot = i;
    for (size_t r = i + 1; r < 3; ++r) {
      if (std::fabs(rows[r][i]) > std::fabs(rows[pivot][i])) pivot = r;
    }
    std::swap(rows[i], rows[pivot]);
    if (rows[i][i] == 0) continue;
    for (size_t r = 0; r < 3; ++r) {
      if (r == i) continue;
      const double factor = rows[r][i] / rows[i][i];
      for (size_t c = 0; c < 4; ++c) rows[r][c] -= factor * rows[i][c];
    }
  }
  std::array<double, 3> unknowns{};
  for (size_t i = 0; i < 3; ++i) unknowns[i] = rows[i][i] == 0 ? 0 : rows[i][3] / rows[i][i];
  return unknowns;
}

}  // namespace

void StepCost::Observe(SteadyDuration duration, int64_t decode_rows, int64_t prefill_tokens) {
  if (steps_.size() == kMaxSteps) steps_.pop_front();
  steps_.push_back({.seconds = std::chrono::duration<double>(duration).count(),
                    .decode_rows = static_cast<double>(decode_rows),
                    .prefill_tokens = static_cast<double>(prefill_tokens)});
}

int64_t StepCost::PrefillTokensWithin(SteadyDuration limit, int64_t decode_rows) const {
  double most = 0;
  for (const Step& step : steps_) most = std::max(most, step.prefill_tokens);
  if (most == 0) return kFirstGuess;
  const auto [fixed, per_row, per_token] = Fit();
  const double room = std::chrono::duration<double>(limit).count() - fixed - per_row * static_cast<double>(decode_rows);
  const double cap = std::max(2 * most, static_cast<double>(kFirstGuess));
  const double tokens = per_token > 0 ? std::clamp(room / per_token, 0.0, cap) : (room > 0 ? cap : 0.0);
  return std::max(kLeastTokens, static_cast<int64_t>(tokens));
}

std::array<double, 3> StepCost::Fit() const {
  // An unknown that came out negative is held at zero and the others are fitted again.
  std::array<bool, 3> held{};
  while (true) {
    std::array<Row, 3> rows{};
    double weight = 1;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step, weight *= kWeightOfTheStepBefore) {
      const std::array<double, 3> terms = {held[0] ? 0.0 : 1.0, held[1] ? 0.0 : step->decode_rows,
                                           held[2] ? 0.0 : step->prefill_tokens};
      for (size_t r = 0; r < 3; ++r) {
        for (size_t c = 0; c < 3; ++c) rows[r][c] += weight * terms[r] * terms[c];
        rows[r][3] += weight * terms[r] * step->seconds;
      }
    }
    // Where steps were all alike, the smallest of the solutions: a trace of every diagonal on itself.
    for (size_t r = 0; r < 3; ++r) rows[r][r] *= 1 + 1e-9;
    const std::array<double, 3> fit = Solve(rows);
    const auto negative = std::find_if(fit.begin(), fit.end(), [](double value) { return value < 0; });
    if (negative == fit.end()) return fit;
    held[static_cast<size_t>(negative - fit.begin())] = true;
  }
}

}  // namespace farspan
