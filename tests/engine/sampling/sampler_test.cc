// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/sampler.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/sampling/argmax.h"
#include "tests/engine/sampling/random_logits.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::_;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const TokenCounts kNoCounts;

TokenId Sample(const SamplingParams& params, std::vector<float> logits, const DrawKey& key = {}) {
  const absl::StatusOr<TokenId> token = SampleToken(params, kNoCounts, key, logits);
  EXPECT_THAT(token, IsOk());
  return token.value_or(-1);
}

// How often each token is drawn over `num_draws` positions.
std::vector<int> Histogram(const SamplingParams& params, const std::vector<float>& logits, int num_draws) {
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < num_draws; ++i) {
    ++counts[static_cast<size_t>(Sample(params, logits, {.seed = 7, .position = i}))];
  }
  return counts;
}

// Chi-square of observed counts against probabilities; impossible tokens must not have been drawn.
double ChiSquare(const std::vector<int>& counts, const std::vector<double>& probabilities, int num_draws) {
  double chi_square = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * num_draws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return chi_square;
}

TEST(ArgmaxTest, TakesTheFirstOfEqualsWhereverItStands) {
  for (const size_t size : {1u, 15u, 16u, 17u, 1023u, 1024u, 1025u, 49'152u}) {
    for (const size_t first : {size_t{0}, size / 2, size - 1}) {
      std::vector<float> logits(size, -2);
      logits[first] = 3;
      logits[size - 1] = 3;
      EXPECT_THAT(Argmax(logits), IsOk());
      EXPECT_EQ(*Argmax(logits), static_cast<TokenId>(first));
    }
  }
}

TEST(ArgmaxTest, FindsNaNAnywhere) {
  for (const size_t size : {1u, 17u, 1024u, 1030u}) {
    for (size_t place = 0; place < size; ++place) {
      std::vector<float> logits(size, 1);
      logits[place] = place % 2 == 0 ? NAN : -NAN;
      ASSERT_THAT(Argmax(logits), StatusIs(absl::StatusCode::kInternal, _)) << place << " of " << size;
    }
  }
}

TEST(SamplerTest, GreedyTakesTheLargestForAnyKeyAndFilter) {
  for (const LogitKind kind : kAllLogitKinds) {
    const std::vector<float> logits = RandomLogits(kind, 3000, 1);
    const auto expected = static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    EXPECT_EQ(Sample({.temperature = 0}, logits), expected);
    EXPECT_EQ(Sample({.temperature = 5e-324}, logits, {.seed = 1}), expected);
    EXPECT_EQ(Sample({.temperature = 0.0099, .top_p = 0.5, .min_p = 0.1}, logits, {.position = 9}), expected);
    EXPECT_EQ(Sample({.top_k = 1}, logits, {.seed = 3}), expected);
  }
}

TEST(SamplerTest, DrawsFollowTheSoftmaxAtTemperature) {
  const std::vector<float> logits = {1, -0.5f, 2, 0, -kInfinity, 1.5f};
  for (const double temperature : {0.5, 1.0, 3.0}) {
    std::vector<double> probabilities;
    for (const float logit : logits) probabilities.push_back(std::exp(logit / temperature));
    const double sum = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
    for (double& probability : probabilities) probability /= sum;
    const std::vector<int> counts = Histogram({.temperature = temperature}, logits, 50'000);
    // 4 degrees of freedom: exceeded once in 10,000 by chance; seeds are fixed.
    EXPECT_LT(ChiSquare(counts, probabilities, 50'000), 23.5) << "temperature " << temperature;
  }
}

TEST(SamplerTest, FiltersRenormaliseWhatTheyKeep) {
  // Probabilities 0.4, 0.3, 0.2, 0.1.
  const std::vector<float> logits = {std::log(0.3f), std::log(0.4f), std::log(0.1f), std::log(0.2f)};
  struct Case {
    SamplingParams params;
    std::vector<double> probabilities;
  };
  const Case cases[] = {
      {{.top_k = 2}, {3. / 7, 4. / 7, 0, 0}},
      {{.top_p = 0.69}, {3. / 7, 4. / 7, 0, 0}},
      {{.top_p = 0.71}, {3. / 9, 4. / 9, 0, 2. / 9}},
      {{.min_p = 0.49}, {3. / 9, 4. / 9, 0, 2. / 9}},
      {{.min_p = 0.51}, {3. / 7, 4. / 7, 0, 0}},
      // top_p counts the mass that top_k left: 4/9 < 0.75 <= 7/9, while of all it would need the third token too.
      {{.top_p = 0.75, .top_k = 3}, {3. / 7, 4. / 7, 0, 0}},
  };
  for (const Case& c : cases) {
    EXPECT_LT(ChiSquare(Histogram(c.params, logits, 20'000), c.probabilities, 20'000), 20);
  }
}

TEST(SamplerTest, AFilterThatKeepsEveryTokenChangesNoDraw) {
  const std::vector<float> logits = RandomLogits(LogitKind::kNormal, 500, 3);
  for (int64_t position = 0; position < 200; ++position) {
    const DrawKey key{.seed = 5, .position = position};
    const TokenId plain = Sample({}, logits, key);
    EXPECT_EQ(Sample({.top_k = 500}, logits, key), plain);
    EXPECT_EQ(Sample({.top_p = 1 - 0x1p-53}, logits, key), plain);
    EXPECT_EQ(Sample({.min_p = 1e-300}, logits, key), plain);
  }
}

TEST(SamplerTest, TheSameKeyAndRowGiveTheSameTokenWhateverRanBetween) {
  const SamplingParams params{.temperature = 1.3, .top_p = 0.95, .top_k = 50, .min_p = 0.01};
  const std::vector<float> row = RandomLogits(LogitKind::kNormal, 2000, 8);
  std::vector<TokenId> forwards;
  for (int64_t i = 0; i < 100; ++i) forwards.push_back(Sample(params, row, {.seed = 1, .position = i}));
  for (int64_t i = 99; i >= 0; --i) {
    Sample(params, RandomLogits(LogitKind::kPeaked, 2000, static_cast<uint32_t>(i)), {.seed = 99, .position = i});
    EXPECT_EQ(Sample(params, row, {.seed = 1, .position = i}), forwards[static_cast<size_t>(i)]);
  }
}

TEST(SamplerTest, AddingAConstantToEveryLogitChangesNoDraw) {
  std::vector<float> logits = RandomLogits(LogitKind::kManyTies, 300, 4);  // integers: the sums below are exact
  std::vector<float> shifted = logits;
  for (float& logit : shifted) logit += 1024;
  const SamplingParams params{.top_p = 0.9, .top_k = 100, .min_p = 0.001};
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(Sample(params, logits, {.position = i}), Sample(params, shifted, {.position = i}));
  }
}

TEST(SamplerTest, PenaltiesComeBeforeTheChoice) {
  TokenCounts counts;
  counts.AddOutput(1);
  std::vector<float> logits = {4, 5};
  EXPECT_EQ(*SampleToken({.temperature = 0, .presence_penalty = 1.5}, counts, {}, logits), 0);
}

TEST(SamplerTest, AnUnsoundRowFailsAlone) {
  const std::vector<float> sound = {0, 1, 2};
  for (const std::vector<float>& unsound :
       {std::vector<float>{0, NAN, 2}, std::vector<float>{0, kInfinity, 1}, std::vector<float>(3, -kInfinity)}) {
    for (const double temperature : {0.0, 1.0}) {
      std::vector<float> row = unsound;
      EXPECT_THAT(SampleToken({.temperature = temperature}, kNoCounts, {}, row),
                  StatusIs(absl::StatusCode::kInternal, _));
      EXPECT_EQ(Sample({.temperature = 0}, sound), 2);
    }
  }
}

}  // namespace
}  // namespace farspan
