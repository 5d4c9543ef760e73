// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/candidates.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/base/check.h"

namespace farspan {
namespace {

// Unsigned integers that order as floats do, both zeros alike.
uint32_t OrderOf(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

struct Digit {
  int shift;
  int bits;
};
constexpr Digit kDigits[] = {{21, 11}, {10, 11}, {0, 10}};  // most significant first, 32 bits in all
constexpr size_t kMaxBuckets = 1u << 11;

// Where the walk from the largest logit down has gathered `target` of some measure.
struct Cut {
  uint32_t order = 0;  // of the last logit needed
  double above = 0;    // measured of all larger logits, less than the target
};

// Radix selection by digits: at each, the sum of each bucket tells in which one the target is reached. Where rounding
// leaves it unreached, the smallest logit is the cut.
template <typename Measure>
Cut FindCut(const Candidates& candidates, double target, Measure measure) {
  Cut cut;
  std::array<double, kMaxBuckets> sums;
  std::array<bool, kMaxBuckets> occupied;
  for (const Digit digit : kDigits) {
    const uint32_t num_buckets = 1u << digit.bits;
    const uint64_t prefix = uint64_t{cut.order} >> (digit.shift + digit.bits);
    sums.fill(0);
    occupied.fill(false);
    for (const Candidate& candidate : candidates) {
      if (uint64_t{candidate.order} >> (digit.shift + digit.bits) != prefix) continue;
      const uint32_t bucket = (candidate.order >> digit.shift) & (num_buckets - 1);
      sums[bucket] += measure(candidate);
      occupied[bucket] = true;
    }
    double above = cut.above;
    uint32_t chosen = 0;
    for (uint32_t bucket = num_buckets; bucket-- > 0;) {
      if (!occupied[bucket]) continue;
      chosen = bucket;
      cut.above = above;
      above += sums[bucket];
      if (above >= target) break;
    }
    cut.order |= chosen << digit.shift;
  }
  return cut;
}

// Keeps the largest logits until their measures reach `target`.
template <typename Measure>
void KeepLargest(double target, Candidates& candidates, Measure measure) {
  const Cut cut = FindCut(candidates, target, measure);
  double reached = cut.above;
  std::erase_if(candidates, [&](const Candidate& candidate) {
    if (candidate.order != cut.order) return candidate.order < cut.order;
    if (reached >= target) return true;
    reached += measure(candidate);
    return false;
  });
}

double SumOfWeights(const Candidates& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

}  // namespace

Candidates MakeCandidates(std::span<const float> logits) {
  Candidates candidates;
  candidates.reserve(logits.size());
  for (size_t token = 0; token < logits.size(); ++token) {
    const float logit = logits[token];
    if (logit == -std::numeric_limits<float>::infinity()) continue;
    candidates.push_back({.token = static_cast<TokenId>(token), .order = OrderOf(logit), .logit = logit});
  }
  return candidates;
}

void KeepTopK(int64_t top_k, Candidates& candidates) {
  if (top_k <= 0 || top_k >= static_cast<int64_t>(candidates.size())) return;
  KeepLargest(static_cast<double>(top_k), candidates, [](const Candidate&) { return 1.0; });
}

void SetWeights(float max_logit, double temperature, Candidates& candidates) {
  for (Candidate& candidate : candidates) {
    const double distance = static_cast<double>(candidate.logit) - static_cast<double>(max_logit);
    candidate.weight = std::exp(distance / temperature);
  }
}

void KeepTopP(double top_p, Candidates& candidates) {
  if (top_p >= 1) return;
  KeepLargest(top_p * SumOfWeights(candidates), candidates, [](const Candidate& c) { return c.weight; });
}

void KeepMinP(double min_p, Candidates& candidates) {
  if (min_p <= 0) return;
  std::erase_if(candidates, [min_p](const Candidate& candidate) { return candidate.weight < min_p; });
}

TokenId Draw(double uniform, const Candidates& candidates) {
  FARSPAN_CHECK(!candidates.empty());
  const double target = uniform * SumOfWeights(candidates);
  double sum = 0;
  for (const Candidate& candidate : candidates) {
    sum += candidate.weight;
    if (sum > target) return candidate.token;
  }
  FARSPAN_CHECK(false, "uniform=", uniform);
  return 0;
}

}  // namespace farspan
