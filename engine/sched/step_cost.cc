// SPDX-License-Identifier: Apache-2.0
#include "engine/sched/step_cost.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace farspan {
namespace {

constexpr size_t kMaxSteps = 64;
constexpr double kWeightOfTheStepBefore = 0.93;
// Before the first prompt nothing is known: a small chunk finds out without a long pause.
constexpr int64_t kFirstGuess = 64;

constexpr size_t kTokens = 2;
// About what a step has of each, so that the equations are of one size.
constexpr std::array<double, 4> kScales = {1, 16, 1024, 1 << 24};
// Where the steps do not tell two terms apart, a trace of every diagonal on itself makes the smallest of the solutions
// stand, and what reads may cost as well as tokens is the tokens': a prompt is not thought dear before it was deep.
constexpr std::array<double, 4> kTraces = {1e-9, 1e-9, 1e-9, 1e-6};

using Row = std::array<double, 5>;  // the unknowns, then the right-hand side

// An unknown that the equations do not determine becomes zero.
std::array<double, 4> Solve(std::array<Row, 4> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    size_t pivot = i;
    for (size_t r = i + 1; r < rows.size(); ++r) {
      if (std::fabs(rows[r][i]) > std::fabs(rows[pivot][i])) pivot = r;
    }
    std::swap(rows[i], rows[pivot]);
    if (rows[i][i] == 0) continue;
    for (size_t r = 0; r < rows.size(); ++r) {
      if (r == i) continue;
      const double factor = rows[r][i] / rows[i][i];
      for (size_t c = 0; c < rows[r].size(); ++c) rows[r][c] -= factor * rows[i][c];
    }
  }
  std::array<double, 4> unknowns{};
  for (size_t i = 0; i < rows.size(); ++i) unknowns[i] = rows[i][i] == 0 ? 0 : rows[i].back() / rows[i][i];
  return unknowns;
}

}  // namespace

// n tokens cost n (per_token + per_read (depth + n / 2)).
int64_t ChunkBudget::TokensAt(int64_t depth_tokens) const {
  if (empty()) return 0;
  double affordable = static_cast<double>(tokens);
  if (seconds < std::numeric_limits<double>::infinity()) {
    const double first = seconds_per_token + seconds_per_read * static_cast<double>(depth_tokens);
    const double room = std::max(seconds, 0.0);
    const double root = first + std::sqrt(first * first + 2 * seconds_per_read * room);
    if (root > 0) affordable = std::min(affordable, 2 * room / root);
  }
  const auto least = std::min(tokens, std::max<int64_t>(least_tokens, 1));
  return std::max(least, static_cast<int64_t>(affordable));
}

void ChunkBudget::Take(int64_t num_tokens, int64_t depth_tokens) {
  const auto taken = static_cast<double>(num_tokens);
  tokens -= num_tokens;
  least_tokens -= num_tokens;
  seconds -= taken * (seconds_per_token + seconds_per_read * (static_cast<double>(depth_tokens) + taken / 2));
}

void StepCost::Observe(SteadyDuration duration, const StepWork& work) {
  if (steps_.size() == kMaxSteps) steps_.pop_front();
  steps_.push_back({.seconds = std::chrono::duration<double>(duration).count(),
                    .terms = {1, static_cast<double>(work.decode_rows), static_cast<double>(work.prefill_tokens),
                              static_cast<double>(work.prefill_reads)}});
}

ChunkBudget StepCost::Budget(SteadyDuration limit, int64_t decode_rows, int64_t max_tokens) const {
  double most = 0;
  for (const Step& step : steps_) most = std::max(most, step.terms[kTokens]);
  const auto cap = std::max(2 * static_cast<int64_t>(most), kFirstGuess);
  ChunkBudget budget = {.tokens = std::min(max_tokens, cap),
                        .seconds = std::numeric_limits<double>::infinity(),
                        .least_tokens = kLeastTokens};
  if (most == 0) return budget;
  const auto [fixed, per_row, per_token, per_read] = Fit();
  budget.seconds = std::chrono::duration<double>(limit).count() - fixed - per_row * static_cast<double>(decode_rows);
  budget.seconds_per_token = per_token;
  budget.seconds_per_read = per_read;
  return budget;
}

StepCost::Terms StepCost::Fit() const {
  // An unknown that came out negative is held at zero and the others are fitted again.
  std::array<bool, kNumTerms> held{};
  while (true) {
    std::array<Row, kNumTerms> rows{};
    double weight = 1;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step, weight *= kWeightOfTheStepBefore) {
      Terms terms = step->terms;
      for (size_t i = 0; i < kNumTerms; ++i) terms[i] = held[i] ? 0.0 : terms[i] / kScales[i];
      for (size_t r = 0; r < kNumTerms; ++r) {
        for (size_t c = 0; c < kNumTerms; ++c) rows[r][c] += weight * terms[r] * terms[c];
        rows[r].back() += weight * terms[r] * step->seconds;
      }
    }
    for (size_t r = 0; r < kNumTerms; ++r) rows[r][r] *= 1 + kTraces[r];
    Terms fit = Solve(rows);
    const auto negative = std::find_if(fit.begin(), fit.end(), [](double value) { return value < 0; });
    if (negative == fit.end()) {
      for (size_t i = 0; i < kNumTerms; ++i) fit[i] /= kScales[i];
      return fit;
    }
    held[static_cast<size_t>(negative - fit.begin())] = true;
  }
}

}  // namespace farspan
