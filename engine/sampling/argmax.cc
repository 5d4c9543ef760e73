// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/argmax.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Independent lanes, since a compiler may not reorder a float maximum by itself.
constexpr size_t kLanes = 16;
constexpr size_t kBlockLogits = 1024;

struct BlockMaximum {
  float maximum = -kInfinity;
  bool has_nan = false;
};

BlockMaximum MaximumOf(std::span<const float> block) {
  std::array<float, kLanes> maxima;
  maxima.fill(-kInfinity);
  std::array<uint32_t, kLanes> nans{};
  size_t i = 0;
  for (; i + kLanes <= block.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = block[i + lane];
      maxima[lane] = logit > maxima[lane] ? logit : maxima[lane];
      nans[lane] |= static_cast<uint32_t>(logit != logit);
    }
  }
  for (; i < block.size(); ++i) {
    maxima[0] = block[i] > maxima[0] ? block[i] : maxima[0];
    nans[0] |= static_cast<uint32_t>(block[i] != block[i]);
  }
  return {.maximum = *std::max_element(maxima.begin(), maxima.end()),
          .has_nan = std::any_of(nans.begin(), nans.end(), [](uint32_t nan) { return nan != 0; })};
}

}  // namespace

absl::StatusOr<TokenId> Argmax(std::span<const float> logits) {
  float maximum = -kInfinity;
  size_t best_block = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlockLogits) {
    const BlockMaximum block = MaximumOf(logits.subspan(begin, std::min(kBlockLogits, logits.size() - begin)));
    if (block.has_nan) return absl::InternalError("the model computed a logit that is not a number");
    if (block.maximum > maximum) {
      maximum = block.maximum;
      best_block = begin;
    }
  }
  if (!std::isfinite(maximum)) {
    return absl::InternalError(absl::StrCat("the model computed ", maximum, " as the largest of its logits"));
  }
  const auto best = std::find(logits.begin() + static_cast<std::ptrdiff_t>(best_block), logits.end(), maximum);
  return static_cast<TokenId>(best - logits.begin());
}

}  // namespace farspan
