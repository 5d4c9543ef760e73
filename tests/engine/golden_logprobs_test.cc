// SPDX-License-Identifier: Apache-2.0
// Prompt log-probabilities of SmolLM2-135M-Instruct against an independent reference (tests/data/reference/README.md).
// The oracle path must be within 1e-3 of every value; the default path must be as close in the mean as llama.cpp is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/attention/registry.h"
#include "engine/engine_factory.h"
#include "tests/support/recording_output.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using nlohmann::json;

json ReadJson(const std::string& name) {
  std::ifstream file("tests/data/reference/" + name);
  EXPECT_TRUE(file.good()) << name;
  return json::parse(file);
}

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

class GoldenLogprobsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("FARSPAN_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "FARSPAN_TEST_MODEL names no model file";
    auto file = GgufFile::Open(path);
    ASSERT_THAT(file, IsOk());
    file_.emplace(*std::move(file));
  }

  void StartEngine(CpuIsa isa, KvDtype kv_dtype) {
    EngineOptions options;
    options.backend = {.isa = isa, .num_threads = 2};
    options.kv_dtype = kv_dtype;
    auto engine = CreateEngine(*file_, options, &metrics_);
    ASSERT_THAT(engine, IsOk());
    engine_ = *std::move(engine);
    engine_->Start();
  }

  Difference DifferenceFrom(const json& prompt, const json& run) {
    auto policy = BuiltinPolicies().Create(SpecOf(run.at("policy")), engine_->shape());
    EXPECT_THAT(policy, IsOk());
    Request request;
    request.prompt = prompt.at("token_ids").get<std::vector<TokenId>>();
    request.sampling.temperature = 0;
    request.stop.max_tokens = 1;
    request.prompt_logprobs = 0;
    request.policy = *policy;
    auto output = std::make_shared<RecordingOutput>();
    EXPECT_THAT(engine_->Submit(std::move(request), output), IsOk());
    EXPECT_TRUE(engine_->WaitIdle(kNoDeadline));
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
    const json reference = ReadJson("llama_reference.json");
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

  NullMetricsSink metrics_;
  std::optional<GgufFile> file_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(GoldenLogprobsTest, OraclePathIsWithinAThousandthOnShortPrompts) {
  StartEngine(CpuIsa::kPortable, KvDtype::kF32);
  ExpectWithin(1e-3, 1000);
}

TEST_F(GoldenLogprobsTest, OraclePathIsWithinAThousandthAtFourThousandTokens) {
  StartEngine(CpuIsa::kPortable, KvDtype::kF32);
  const json reference = ReadJson("llama_reference.json");
  for (const json& prompt : reference.at("prompts")) {
    if (prompt.at("token_ids").size() != 4000) continue;
    for (size_t i : {0, 1}) {
      EXPECT_LE(DifferenceFrom(prompt, prompt.at("runs").at(i)).maximum, 1e-3) << prompt.at("runs").at(i).at("policy");
    }
  }
}

TEST_F(GoldenLogprobsTest, FastestKernelsWithF32CacheAreWithinAThousandth) {
  StartEngine(CpuIsa::kAuto, KvDtype::kF32);
  ExpectWithin(1e-3, 4000);
}

TEST_F(GoldenLogprobsTest, DefaultPathIsAtLeastAsCloseAsLlamaCpp) {
  StartEngine(CpuIsa::kAuto, KvDtype::kBf16);
  const json reference = ReadJson("llama_reference.json");
  const json peer = ReadJson("llama_cpp_logprobs.json");
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
