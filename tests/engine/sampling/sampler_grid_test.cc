// SPDX-License-Identifier: Apache-2.0
// Every pair of sampling parameters over their extremes, against the obvious sampler.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "engine/sampling/sampler.h"
#include "tests/engine/sampling/random_logits.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

constexpr size_t kVocabulary = 97;
constexpr double kDenormal = std::numeric_limits<double>::denorm_min();

using Setting = std::function<void(SamplingParams&)>;

// The settings of each parameter: both ends of its range, their neighbours and something usual.
const std::vector<std::vector<Setting>>& AllSettings() {
  static const auto* const settings = [] {
    auto* all = new std::vector<std::vector<Setting>>;
    const auto add = [all](auto member, auto... values) {
      all->push_back({[member, values](SamplingParams& params) { params.*member = values; }...});
    };
    add(&SamplingParams::temperature, 0.0, kDenormal, 1e-5, 0.0099999, 0.01, 0.7, 100.0);
    add(&SamplingParams::top_p, kDenormal, 1e-9, 0.5, 1 - 0x1p-53, 1.0);
    add(&SamplingParams::top_k, 0, 1, 2, 96, 97, 98, std::numeric_limits<int32_t>::max());
    add(&SamplingParams::min_p, 0.0, kDenormal, 0.1, 1 - 0x1p-53, 1.0);
    add(&SamplingParams::frequency_penalty, -2.0, -kDenormal, 0.0, 2.0);
    add(&SamplingParams::presence_penalty, -2.0, kDenormal, 0.0, 2.0);
    add(&SamplingParams::repetition_penalty, kDenormal, 1e-300, 0.5, 1.0, 100.0);
    add(&SamplingParams::seed, uint64_t{0}, ~uint64_t{0});
    return all;
  }();
  return *settings;
}

TokenCounts SomeCounts() {
  TokenCounts counts;
  counts.AddPrompt(std::vector<TokenId>{0, 5, 48, 96});
  for (const TokenId token : {1, 5, 5, 48}) counts.AddOutput(token);
  return counts;
}

struct Weighted {
  TokenId token;
  float logit;
  double weight;
};

// Sorts, walks and cuts; `logits` have had their penalties.
TokenId NaiveSample(const SamplingParams& params, const DrawKey& key, const std::vector<float>& logits) {
  std::vector<Weighted> kept;
  for (size_t i = 0; i < logits.size(); ++i) kept.push_back({static_cast<TokenId>(i), logits[i], 0});
  std::stable_sort(kept.begin(), kept.end(), [](const Weighted& a, const Weighted& b) { return a.logit > b.logit; });
  if (params.temperature < 0.01) return kept[0].token;
  if (params.top_k > 0) kept.resize(std::min(kept.size(), static_cast<size_t>(params.top_k)));
  double total = 0;
  const double largest = kept[0].logit;
  for (Weighted& w : kept) total += w.weight = std::exp((w.logit - largest) / params.temperature);
  if (params.top_p < 1) {
    size_t count = 0;
    for (double sum = 0; count < kept.size() && (count == 0 || sum < params.top_p * total); ++count) {
      sum += kept[count].weight;
    }
    kept.resize(count);
  }
  std::erase_if(kept, [&](const Weighted& w) { return w.weight < params.min_p; });
  std::sort(kept.begin(), kept.end(), [](const Weighted& a, const Weighted& b) { return a.token < b.token; });
  double kept_total = 0;
  for (const Weighted& w : kept) kept_total += w.weight;
  double sum = 0;
  for (const Weighted& w : kept) {
    sum += w.weight;
    if (sum > UniformDraw(key) * kept_total) return w.token;
  }
  return -1;
}

class SamplerGridTest : public ::testing::TestWithParam<LogitKind> {};

TEST_P(SamplerGridTest, EveryPairOfSettingsDrawsAsTheObviousSamplerDoes) {
  const TokenCounts counts = SomeCounts();
  const std::vector<float> logits = RandomLogits(GetParam(), kVocabulary, 11);
  int64_t num_cases = 0;
  const auto check = [&](const SamplingParams& params) {
    const DrawKey key{.seed = params.seed, .position = ++num_cases};
    std::vector<float> penalised = logits;
    counts.ApplyPenalties(params, penalised);
    std::vector<float> row = logits;
    const absl::StatusOr<TokenId> token = SampleToken(params, counts, key, row);
    ASSERT_THAT(token, IsOk());
    ASSERT_EQ(*token, NaiveSample(params, key, penalised))
        << "temperature " << params.temperature << " top_p " << params.top_p << " top_k " << params.top_k << " min_p "
        << params.min_p << " frequency " << params.frequency_penalty << " presence " << params.presence_penalty
        << " repetition " << params.repetition_penalty;
  };
  const std::vector<std::vector<Setting>>& settings = AllSettings();
  for (size_t first = 0; first < settings.size(); ++first) {
    for (size_t second = first + 1; second < settings.size(); ++second) {
      for (const Setting& set_first : settings[first]) {
        for (const Setting& set_second : settings[second]) {
          SamplingParams params;
          set_first(params);
          set_second(params);
          ASSERT_NO_FATAL_FAILURE(check(params));
        }
      }
    }
  }
  EXPECT_GT(num_cases, 600);
}

INSTANTIATE_TEST_SUITE_P(Logits, SamplerGridTest, ::testing::ValuesIn(kAllLogitKinds));

}  // namespace
}  // namespace farspan
