// SPDX-License-Identifier: Apache-2.0
// Rows of logits for tests, the same for equal seeds.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace farspan {

enum class LogitKind { kNormal, kPeaked, kManyTies, kSomeImpossible, kHuge, kAllEqual };
inline constexpr LogitKind kAllLogitKinds[] = {LogitKind::kNormal,         LogitKind::kPeaked, LogitKind::kManyTies,
                                               LogitKind::kSomeImpossible, LogitKind::kHuge,   LogitKind::kAllEqual};

inline std::vector<float> RandomLogits(LogitKind kind, size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(size);
  for (float& logit : logits) {
    logit = normal(random);
    switch (kind) {
      case LogitKind::kNormal:
        break;
      case LogitKind::kPeaked:
        logit = logit * std::abs(logit);
        break;
      case LogitKind::kManyTies:
        logit = std::round(logit);
        break;
      case LogitKind::kSomeImpossible:
        if (random() % 4 == 0) logit = -std::numeric_limits<float>::infinity();
        break;
      case LogitKind::kHuge:
        logit *= 1e37f;
        break;
      case LogitKind::kAllEqual:
        logit = -3.5f;
        break;
    }
  }
  logits[size / 2] = 1;  // one is always possible
  return logits;
}

}  // namespace farspan
