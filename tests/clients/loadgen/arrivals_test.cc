// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/arrivals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace farspan::loadgen {
namespace {

constexpr size_t kMany = 100'001;

struct Moments {
  double mean = 0;
  double variance = 0;
};

Moments GapMoments(const std::vector<std::chrono::nanoseconds>& offsets) {
  std::vector<double> gaps;
  for (size_t i = 1; i < offsets.size(); ++i)
    gaps.push_back(std::chrono::duration<double>(offsets[i] - offsets[i - 1]).count());
  Moments moments;
  for (const double gap : gaps) moments.mean += gap / static_cast<double>(gaps.size());
  for (const double gap : gaps) {
    moments.variance += (gap - moments.mean) * (gap - moments.mean) / static_cast<double>(gaps.size());
  }
  return moments;
}

TEST(ArrivalsTest, WithoutARateEverythingIsDueAtOnce) {
  const auto offsets = ArrivalOffsets({.num_requests = 3});
  EXPECT_EQ(offsets, std::vector<std::chrono::nanoseconds>(3, std::chrono::nanoseconds(0)));
}

TEST(ArrivalsTest, StartAtZeroAndAscend) {
  const auto offsets = ArrivalOffsets({.num_requests = 1000, .request_rate = 50, .burstiness = 0.5, .seed = 3});
  ASSERT_EQ(offsets.size(), 1000u);
  EXPECT_EQ(offsets[0].count(), 0);
  EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
}

// The standard error of the mean of 100,000 gaps is 0.3 % of it for a Poisson process, 0.6 % for burstiness 0.25.
TEST(ArrivalsTest, GapsHaveTheGammaDistributionsMoments) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const Moments moments =
        GapMoments(ArrivalOffsets({.num_requests = kMany, .request_rate = 20, .burstiness = burstiness, .seed = 7}));
    EXPECT_NEAR(moments.mean, 0.05, 0.05 * 0.03) << burstiness;
    EXPECT_NEAR(moments.variance, 0.05 * 0.05 / burstiness, 0.05 * 0.05 / burstiness * 0.06) << burstiness;
  }
}

TEST(ArrivalsTest, PoissonGapsExceedTheirMeanWithProbabilityOneOverE) {
  const auto offsets = ArrivalOffsets({.num_requests = kMany, .request_rate = 20, .seed = 11});
  size_t longer = 0;
  for (size_t i = 1; i < offsets.size(); ++i) longer += (offsets[i] - offsets[i - 1]).count() > 50'000'000 ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(longer) / (kMany - 1), std::exp(-1), 0.01);
}

TEST(ArrivalsTest, SeedsDecide) {
  const ArrivalOptions options{.num_requests = 100, .request_rate = 5, .seed = 1};
  ArrivalOptions other = options;
  other.seed = 2;
  EXPECT_EQ(ArrivalOffsets(options), ArrivalOffsets(options));
  EXPECT_NE(ArrivalOffsets(options), ArrivalOffsets(other));
}

}  // namespace
}  // namespace farspan::loadgen
