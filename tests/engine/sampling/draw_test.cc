// SPDX-License-Identifier: Apache-2.0
#include "engine/sampling/draw.h"

#include <gmock/gmock.h>

#include <limits>

#include "engine/sampling/sampler.h"
#include "tests/engine/sampling/random_logits.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::_;

const float kNan = std::numeric_limits<float>::quiet_NaN();
const TokenCounts kNoCounts;

TEST(DrawTest, DrawsWhatTheSamplerDraws) {
  for (int64_t position = 0; position < 50; ++position) {
    const std::vector<float> logits = RandomLogits(LogitKind::kNormal, 1000, static_cast<uint32_t>(position));
    const DrawRequest request = {.sampling = {.temperature = 0.8, .top_p = 0.9, .top_k = 50},
                                 .key = {.seed = 7, .position = position, .sample_index = 2}};
    std::vector<float> row = logits, same = logits;
    const DrawResult drawn = DrawFromLogits(request, row);
    ASSERT_THAT(drawn, IsOk());
    EXPECT_EQ(drawn->token, *SampleToken(request.sampling, kNoCounts, request.key, same));
    EXPECT_FALSE(drawn->logprobs);
  }
}

TEST(DrawTest, ReportsLogprobsOfTheLogitsBeforePenalties) {
  const std::vector<float> logits = RandomLogits(LogitKind::kNormal, 100, 3);
  TokenCounts counts;
  for (TokenId token = 0; token < 100; token += 2) counts.AddOutput(token);
  std::vector<float> row = logits;
  const DrawResult drawn = DrawFromLogits(
      {.num_alternatives = 3, .sampling = {.temperature = 0, .presence_penalty = 2}, .counts = &counts}, row);
  ASSERT_THAT(drawn, IsOk());
  const TokenLogprobs expected = *ComputeLogprobs(logits, drawn->token, 3);
  ASSERT_TRUE(drawn->logprobs);
  EXPECT_EQ(drawn->logprobs->chosen.token, drawn->token);
  EXPECT_EQ(drawn->logprobs->chosen.logprob, expected.chosen.logprob);
  ASSERT_EQ(drawn->logprobs->top.size(), 3);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(drawn->logprobs->top[i].logprob, expected.top[i].logprob);
}

TEST(DrawTest, AGivenTokenIsTakenAndItsLogprobReported) {
  std::vector<float> row = RandomLogits(LogitKind::kNormal, 100, 4);
  const DrawResult drawn = DrawFromLogits({.given_token = 17, .num_alternatives = 0}, row);
  ASSERT_THAT(drawn, IsOk());
  EXPECT_EQ(drawn->token, 17);
  ASSERT_TRUE(drawn->logprobs);
  EXPECT_EQ(drawn->logprobs->chosen.token, 17);
  EXPECT_EQ(drawn->logprobs->chosen.logprob, ComputeLogprobs(row, 17, 0)->chosen.logprob);
}

TEST(DrawTest, AGivenTokenAloneReadsNoLogits) {
  const DrawRequest request = {.given_token = 5};
  EXPECT_FALSE(request.reads_logits());
  const DrawResult drawn = DrawFromLogits(request, {});
  ASSERT_THAT(drawn, IsOk());
  EXPECT_EQ(drawn->token, 5);
}

TEST(DrawTest, AnUnsoundRowFailsWhoeverReadsIt) {
  for (const DrawRequest& request :
       {DrawRequest{.sampling = {.temperature = 0}}, DrawRequest{},
        DrawRequest{.given_token = 1, .num_alternatives = 2}, DrawRequest{.num_alternatives = 2}}) {
    std::vector<float> row = RandomLogits(LogitKind::kNormal, 100, 5);
    row[99] = kNan;
    EXPECT_THAT(DrawFromLogits(request, row), StatusIs(absl::StatusCode::kInternal, _));
  }
}

}  // namespace
}  // namespace farspan
