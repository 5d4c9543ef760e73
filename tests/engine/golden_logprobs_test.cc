// SPDX-License-Identifier: Apache-2.0
// Prompt log-probabilities of SmolLM2-135M-Instruct against an independent reference (tests/data/reference/README.md).
// The oracle path must be within 1e-3 of every value; the default path must be as close in the mean as llama.cpp is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/kernels/cpu/kernel_table.h"
#include "tests/engine/golden_fixture.h"

namespace farspan {
namespace {

using nlohmann::json;

v1::AttentionSpec SpecOf(const json& policy) {
  v1::AttentionSpec spec;
  if (policy.at("name") == "dense") {
    spec.mutable_dense();
  } else {
    v1::WindowAttention& window = *spec.mutable_window();
    window.set_sink_tokens(policy.at("sink_tokens"));
    window.set_window_tokens(policy.at("window_tokens"));
    if (policy.at("true_positions")) window.set_positions(v1::WindowAttention::POSITIONS_TRUE);
  }
  return spec;
}

struct Difference {
  double maximum = 0;
  double mean = 0;
};

class GoldenLogprobsTest : public GoldenTest {
 protected:
  Difference DifferenceFrom(const json& prompt, const json& run) {
    Request request;
    request.prompt = prompt.at("token_ids").get<std::vector<TokenId>>();
    request.stop.max_tokens = 1;
    request.prompt_logprobs = 0;
    const auto output = Run(std::move(request), SpecOf(run.at("policy")));
    return DifferenceOf(run.at("logprobs"), output->prompt_logprobs());
  }

  static Difference DifferenceOf(const json& expected, const std::vector<TokenLogprobs>& actual) {
    Difference difference;
    EXPECT_EQ(expected.size(), actual.size() + 1);
    for (size_t i = 0; i < actual.size(); ++i) {
      const double error = std::abs(expected.at(i + 1).get<double>() - actual[i].chosen.logprob);
      difference.maximum = std::max(difference.maximum, error);
      difference.mean += error / static_cast<double>(actual.size());
    }
    return difference;
  }

  void ExpectWithin(double limit, int64_t max_prompt_tokens) {
    const json reference = ReadGolden("llama_reference.json");
    for (const json& prompt : reference.at("prompts")) {
      if (static_cast<int64_t>(prompt.at("token_ids").size()) > max_prompt_tokens) continue;
      for (const json& run : prompt.at("runs")) {
        const Difference difference = DifferenceFrom(prompt, run);
        EXPECT_LE(difference.maximum, limit) << prompt.at("name") << " " << run.at("policy");
        std::printf("%-16s %-100s max %.2e mean %.2e\n", prompt.at("name").get<std::string>().c_str(),
                    run.at("policy").dump().c_str(), difference.maximum, difference.mean);
      }
    }
  }
};

TEST_F(GoldenLogprobsTest, OraclePathIsWithinAThousandthOnShortPrompts) {
  StartEngine(CpuIsa::kPortable, KvDtype::kF32);
  ExpectWithin(1e-3, 1000);
}

TEST_F(GoldenLogprobsTest, OraclePathIsWithinAThousandthAtFourThousandTokens) {
  StartEngine(CpuIsa::kPortable, KvDtype::kF32);
  const json reference = ReadGolden("llama_reference.json");
  for (const json& prompt : reference.at("prompts")) {
    if (prompt.at("token_ids").size() != 4000) continue;
    for (size_t i : {0, 1}) {
      EXPECT_LE(DifferenceFrom(prompt, prompt.at("runs").at(i)).maximum, 1e-3) << prompt.at("runs").at(i).at("policy");
    }
  }
}

TEST_F(GoldenLogprobsTest, FloatKernelsWithF32CacheAreWithinAThousandth) {
  if (!kernels::CpuHasAvx2()) GTEST_SKIP() << "this CPU does not run AVX2";
  StartEngine(CpuIsa::kAvx2, KvDtype::kF32);
  ExpectWithin(1e-3, 4000);
}

// Whose products take activations as integers of 16 bits.
TEST_F(GoldenLogprobsTest, IntegerKernelsWithF32CacheAreWithinAHundredth) {
  if (!kernels::CpuHasAvx512()) GTEST_SKIP() << "this CPU does not run AVX-512 with VNNI";
  StartEngine(CpuIsa::kAvx512, KvDtype::kF32);
  ExpectWithin(1e-2, 1000);
}

TEST_F(GoldenLogprobsTest, DefaultPathIsAtLeastAsCloseAsLlamaCpp) {
  StartEngine(CpuIsa::kAuto, KvDtype::kBf16);
  const json reference = ReadGolden("llama_reference.json");
  const json peer = ReadGolden("llama_cpp_logprobs.json");
  for (size_t i = 0; i < reference.at("prompts").size(); ++i) {
    const json& prompt = reference.at("prompts").at(i);
    ASSERT_EQ(prompt.at("name"), peer.at("prompts").at(i).at("name"));
    double bar = 1;
    for (const json& run : peer.at("prompts").at(i).at("runs")) bar = std::min<double>(bar, run.at("mean_abs_diff"));
    const Difference difference = DifferenceFrom(prompt, prompt.at("runs").at(0));
    EXPECT_LE(difference.mean, bar) << prompt.at("name");
    std::printf("%-16s mean %.5f, llama.cpp %.5f\n", prompt.at("name").get<std::string>().c_str(), difference.mean,
                bar);
  }
}

}  // namespace
}  // namespace farspan
