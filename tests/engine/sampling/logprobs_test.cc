// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/logprobs.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/engine/sampling/random_logits.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(LogprobsTest, EqualsANaiveLogSoftmaxAndSort) {
  for (const LogitKind kind : kAllLogitKinds) {
    if (kind == LogitKind::kHuge) continue;  // the naive sum overflows
    for (uint32_t seed = 0; seed < 10; ++seed) {
      const std::vector<float> logits = RandomLogits(kind, 1000, seed);
      long double sum = 0;
      for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
      std::vector<TokenId> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
      });
      const auto naive = [&](TokenId token) {
        return static_cast<float>(logits[static_cast<size_t>(token)] - std::log(sum));
      };
      const absl::StatusOr<TokenLogprobs> result = ComputeLogprobs(logits, 500, 20);
      ASSERT_THAT(result, IsOk());
      EXPECT_EQ(result->chosen.token, 500);
      EXPECT_NEAR(result->chosen.logprob, naive(500), 1e-6 * std::max(1.0f, -naive(500)));
      ASSERT_EQ(result->top.size(), 20u);
      for (size_t i = 0; i < 20; ++i) {
        EXPECT_EQ(result->top[i].token, order[i]);
        EXPECT_NEAR(result->top[i].logprob, naive(order[i]), 1e-6 * std::max(1.0f, -naive(order[i])));
      }
    }
  }
}

TEST(LogprobsTest, LogitsFarFromZeroNeitherOverflowNorVanish) {
  for (const float offset : {-1e30f, 0.0f, 3e38f}) {
    const std::vector<float> logits = {offset, offset};
    const absl::StatusOr<TokenLogprobs> result = ComputeLogprobs(logits, 1, 2);
    ASSERT_THAT(result, IsOk());
    EXPECT_FLOAT_EQ(result->chosen.logprob, std::log(0.5f));
  }
}

TEST(LogprobsTest, AnImpossibleTokenHasMinusInfinity) {
  const absl::StatusOr<TokenLogprobs> result = ComputeLogprobs(std::vector<float>{0, -kInfinity}, 1, 20);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->chosen.logprob, -kInfinity);
  ASSERT_EQ(result->top.size(), 2u);
  EXPECT_EQ(result->top[0].logprob, 0);
}

TEST(LogprobsTest, NoAlternativesAreReportedUnlessAskedFor) {
  const absl::StatusOr<TokenLogprobs> result = ComputeLogprobs(std::vector<float>{0, 1}, 0, 0);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->top, IsEmpty());
}

TEST(LogprobsTest, UnsoundRowsAreInternal) {
  EXPECT_THAT(ComputeLogprobs(std::vector<float>{0, NAN}, 0, 1), StatusIs(absl::StatusCode::kInternal, _));
  EXPECT_THAT(ComputeLogprobs(std::vector<float>{0, kInfinity}, 0, 1),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("inf")));
  EXPECT_THAT(ComputeLogprobs(std::vector<float>{-kInfinity, -kInfinity}, 0, 1),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("-inf")));
}

}  // namespace
}  // namespace farspan
