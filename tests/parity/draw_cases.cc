// SPDX-License-Identifier: Apache-2.0
#include "tests/parity/draw_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <span>

#include "absl/strings/str_cat.h"
#include "engine/sampling/argmax.h"
#include "engine/sampling/candidates.h"
#include "tests/engine/sampling/random_logits.h"

namespace farspan {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kMoved = 2e-6;

class Dice {
 public:
  explicit Dice(uint32_t seed) : engine_(seed) {}
  int64_t Below(int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(engine_); }
  bool OneIn(int64_t n) { return Below(n) == 0; }
  double Real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  template <typename T, size_t kSize>
  T AnyOf(const T (&values)[kSize]) {
    return values[Below(static_cast<int64_t>(kSize))];
  }

 private:
  std::mt19937_64 engine_;
};

std::vector<float> RowOfLogits(int64_t vocab_size, Dice* dice) {
  const auto kind = dice->AnyOf(kAllLogitKinds);
  std::vector<float> row =
      RandomLogits(kind, static_cast<size_t>(vocab_size), static_cast<uint32_t>(dice->Below(1 << 30)));
  if (dice->OneIn(8)) {  // a few tokens are possible, all others far away
    for (float& logit : row) logit = dice->OneIn(50) ? logit : -1e4f;
  }
  if (!dice->OneIn(12)) return row;
  float& spoilt = row[static_cast<size_t>(dice->Below(vocab_size))];
  switch (dice->Below(3)) {
    case 0:
      spoilt = std::numeric_limits<float>::quiet_NaN();
      break;
    case 1:
      spoilt = kInfinity;
      break;
    default:
      std::fill(row.begin(), row.end(), -kInfinity);
  }
  return row;
}

SamplingParams RandomParams(Dice* dice) {
  SamplingParams params;
  params.temperature = dice->OneIn(4) ? 0 : dice->AnyOf({0.01, 0.3, 0.7, 1.0, 1.5, 100.0});
  params.top_k = dice->OneIn(2) ? 0 : dice->AnyOf({1, 2, 20, 50, 256, 257, 1000, 100000});
  params.top_p = dice->OneIn(2) ? 1 : dice->AnyOf({1e-6, 0.1, 0.5, 0.9, 0.95, 0.999});
  params.min_p = dice->OneIn(2) ? 0 : dice->AnyOf({1e-4, 0.05, 0.3, 1.0});
  if (dice->OneIn(3)) params.frequency_penalty = dice->Real(-2, 2);
  if (dice->OneIn(3)) params.presence_penalty = dice->Real(-2, 2);
  if (dice->OneIn(3)) params.repetition_penalty = dice->Real(0.5, 2);
  params.seed = static_cast<uint64_t>(dice->Below(int64_t{1} << 62));
  return params;
}

std::unique_ptr<TokenCounts> RandomCounts(const std::vector<float>& row, Dice* dice) {
  auto counts = std::make_unique<TokenCounts>();
  const auto vocab_size = static_cast<int64_t>(row.size());
  const auto likeliest = static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
  std::vector<TokenId> prompt;
  for (int64_t i = dice->Below(300); i > 0; --i) prompt.push_back(static_cast<TokenId>(dice->Below(vocab_size)));
  counts->AddPrompt(prompt);
  for (int64_t i = dice->Below(300); i > 0; --i) {
    counts->AddOutput(dice->OneIn(3) ? likeliest : static_cast<TokenId>(dice->Below(vocab_size)));
  }
  return counts;
}

// What the host draws where the uniform and the thresholds are moved a little.
TokenId DrawMoved(const DrawRequest& request, std::span<const float> penalised, double uniform, double top_p,
                  double min_p) {
  Candidates candidates = MakeCandidates(penalised);
  const TokenId likeliest = *Argmax(penalised);
  KeepTopK(request.sampling.top_k, candidates);
  SetWeights(penalised[static_cast<size_t>(likeliest)], request.sampling.temperature, candidates);
  KeepTopP(std::min(top_p, 1.0), candidates);
  KeepMinP(std::min(min_p, 1.0), candidates);
  return Draw(std::clamp(uniform, 0.0, 1 - 0x1p-53), candidates);
}

bool DrawnAtBoundary(const DrawRequest& request, std::vector<float> logits, TokenId token) {
  const SamplingParams& sampling = request.sampling;
  request.counts->ApplyPenalties(sampling, logits);
  for (const double uniform : {0.0, -kMoved, kMoved}) {
    for (const double top_p : {0.0, -kMoved, kMoved}) {
      for (const double min_p : {1.0, 1 - kMoved, 1 + kMoved}) {
        const double p = sampling.top_p < 1 ? std::max(sampling.top_p + top_p, 1e-300) : 1;
        if (DrawMoved(request, logits, UniformDraw(request.key) + uniform, p, sampling.min_p * min_p) == token) {
          return true;
        }
      }
    }
  }
  return false;
}

bool Near(float device, float host) {
  if (std::isinf(host)) return device == host;
  return std::fabs(device - host) <= 2e-6f * (1 + std::fabs(host));
}

std::string CompareLogprobs(const TokenLogprobs& device, const TokenLogprobs& host) {
  if (device.chosen.token == host.chosen.token && !Near(device.chosen.logprob, host.chosen.logprob)) {
    return absl::StrCat("log-probability ", device.chosen.logprob, ", expected ", host.chosen.logprob);
  }
  if (device.top.size() != host.top.size()) return absl::StrCat(device.top.size(), " alternatives");
  for (size_t i = 0; i < host.top.size(); ++i) {
    if (device.top[i].token == host.top[i].token && Near(device.top[i].logprob, host.top[i].logprob)) continue;
    return absl::StrCat("alternative ", i, " is ", device.top[i].token, " with ", device.top[i].logprob, ", expected ",
                        host.top[i].token, " with ", host.top[i].logprob);
  }
  return "";
}

}  // namespace

DrawCase RandomDrawCase(int64_t num_rows, int64_t vocab_size, uint32_t seed) {
  Dice dice(seed);
  DrawCase draws;
  draws.vocab_size = vocab_size;
  for (int64_t row = 0; row < num_rows; ++row) {
    const std::vector<float> logits = RowOfLogits(vocab_size, &dice);
    draws.logits.insert(draws.logits.end(), logits.begin(), logits.end());
    draws.counts.push_back(RandomCounts(logits, &dice));
    DrawRequest& request = draws.requests.emplace_back();
    request.logit_row = row;
    request.sampling = RandomParams(&dice);
    request.counts = draws.counts.back().get();
    request.key = {.seed = request.sampling.seed, .position = dice.Below(1 << 20), .sample_index = dice.Below(8)};
    if (dice.OneIn(3)) request.num_alternatives = static_cast<int>(dice.AnyOf({0, 1, 5, 20}));
    if (request.num_alternatives && dice.OneIn(3)) request.given_token = static_cast<TokenId>(dice.Below(vocab_size));
  }
  return draws;
}

DrawAgreement CompareDraw(const DrawCase& draws, size_t row, const DrawResult& drawn, std::string* why) {
  const DrawRequest& request = draws.requests[row];
  const auto vocab_size = static_cast<size_t>(draws.vocab_size);
  const std::span<const float> model_logits = std::span(draws.logits).subspan(row * vocab_size, vocab_size);
  std::vector<float> logits(model_logits.begin(), model_logits.end());
  const DrawResult expected = DrawFromLogits(request, logits);
  const auto differs = [&](const std::string& what) {
    *why = absl::StrCat("vocabulary ", vocab_size, ", row ", row, ", temperature ", request.sampling.temperature,
                        ", top_k ", request.sampling.top_k, ", top_p ", request.sampling.top_p, ", min_p ",
                        request.sampling.min_p, ", penalises ", request.sampling.penalises(), ": ", what);
    return DrawAgreement::kDifferent;
  };
  if (drawn.status() != expected.status()) {
    return differs(absl::StrCat(drawn.status().ToString(), ", expected ", expected.status().ToString()));
  }
  if (!drawn.ok()) return DrawAgreement::kEqual;
  if (drawn->logprobs.has_value() != expected->logprobs.has_value()) return differs("log-probabilities or none");
  if (drawn->logprobs) {
    const std::string unlike = CompareLogprobs(*drawn->logprobs, *expected->logprobs);
    if (!unlike.empty()) return differs(unlike);
  }
  if (drawn->token == expected->token) return DrawAgreement::kEqual;
  const std::string tokens = absl::StrCat("token ", drawn->token, ", expected ", expected->token);
  if (request.given_token || request.sampling.greedy()) return differs(tokens);
  const bool explained =
      DrawnAtBoundary(request, std::vector<float>(model_logits.begin(), model_logits.end()), drawn->token);
  differs(tokens);
  return explained ? DrawAgreement::kAtBoundary : DrawAgreement::kDifferent;
}

}  // namespace farspan
