// SPDX-License-Identifier: Apache-2.0
// Random batches of draws, and whether what a device drew is what the host draws.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/sampling/draw.h"

namespace farspan {

struct DrawCase {
  int64_t vocab_size = 0;
  std::vector<float> logits;                         // [requests][vocab_size]
  std::vector<std::unique_ptr<TokenCounts>> counts;  // of requests that penalise
  std::vector<DrawRequest> requests;                 // one a row, each reads it
};

// Every kind of logits, parameters, penalties, log-probabilities and given tokens, unsound rows among them; the same
// for equal seeds.
DrawCase RandomDrawCase(int64_t num_rows, int64_t vocab_size, uint32_t seed);

enum class DrawAgreement : uint8_t {
  kEqual,
  kAtBoundary,  // another token, which the host draws too when uniform or thresholds move by 2e-6
  kDifferent,
};

// Compares `drawn` with what the host makes of the row's logits; `why` says what differs.
DrawAgreement CompareDraw(const DrawCase& draws, size_t row, const DrawResult& drawn, std::string* why);

}  // namespace farspan
