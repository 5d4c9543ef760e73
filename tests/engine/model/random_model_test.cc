// SPDX-License-Identifier: Apache-2.0
#include "engine/model/random_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "engine/backend/cpu_backend.h"
#include "engine/model/random_model_options.h"
#include "tests/engine/model/model_runner.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kTiny[] = R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
  "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "hidden_act": "silu"})";

std::string TinyWith(const std::string& key, const std::string& value) {
  const std::string text = kTiny;
  return text.substr(0, text.size() - 1) + ", \"" + key + "\": " + value + "}";
}

class RandomModelTest : public ::testing::Test {
 protected:
  // The name of a random model whose config.json this is.
  std::string NameOf(const std::string& config, const std::string& settings = "") {
    const std::string path = ::testing::TempDir() + "random_model_test.json";
    std::ofstream(path) << config;
    return "random:" + path + settings;
  }

  std::unique_ptr<Model> Load(const std::string& name) {
    const auto options = ParseRandomModelName(name);
    EXPECT_THAT(options, IsOk());
    auto model = LoadModel(*options, backend_.get(), {.max_batch_rows = 64, .page_tokens = 16});
    EXPECT_THAT(model, IsOk());
    return *std::move(model);
  }

  const std::unique_ptr<Backend> backend_ = *CpuBackend::Create({.isa = CpuIsa::kAuto, .num_threads = 2});
};

TEST_F(RandomModelTest, ComputesFiniteLogitsInEveryFormat) {
  for (const char* settings : {"", ",weights=f32", ",weights=q4_0", ",weights=q8_0,seed=7"}) {
    const std::unique_ptr<Model> model = Load(NameOf(kTiny, settings));
    ModelRunner runner(model.get(), backend_.get(), 1, 4);
    const std::vector<float> logits = runner.Run(std::vector<Chunk>{{.tokens = {3, 70, 299, 5, 5, 5}}}).back();
    double squares = 0;
    for (const float logit : logits) {
      ASSERT_TRUE(std::isfinite(logit)) << settings;
      squares += static_cast<double>(logit) * logit;
    }
    EXPECT_GT(squares / static_cast<double>(logits.size()), 1e-4) << settings;
  }
}

TEST_F(RandomModelTest, EqualNamesAreEqualNetworksAndOthersAreNot) {
  const std::string id = Load(NameOf(kTiny))->info().weights_id;
  EXPECT_EQ(Load(NameOf(kTiny, ",seed=0"))->info().weights_id, id);
  EXPECT_NE(Load(NameOf(kTiny, ",seed=1"))->info().weights_id, id);
  EXPECT_NE(Load(NameOf(kTiny, ",weights=q4_0"))->info().weights_id, id);
  EXPECT_NE(Load(NameOf(TinyWith("tie_word_embeddings", "true")))->info().weights_id, id);
  EXPECT_NE(Load(NameOf(TinyWith("rope_scaling", R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
      "high_freq_factor": 4, "original_max_position_embeddings": 128})")))
                ->info()
                .weights_id,
            id);
}

TEST_F(RandomModelTest, CountsItsParametersAndBytes) {
  const std::unique_ptr<Model> model = Load(NameOf(kTiny));
  const ModelInfo& info = model->info();
  const int64_t layer = 64 * (64 + 32 + 32 + 64 + 96 * 3), norms = 3 * 2 * 64 + 64;
  EXPECT_EQ(info.num_parameters, 2 * 300 * 64 + 3 * layer + norms);
  EXPECT_EQ(info.weight_bytes, 2 * (info.num_parameters - norms) + 4 * norms);
  const int64_t beside = backend_->MemoryBytes(MemoryKind::kWeights) - info.weight_bytes;
  EXPECT_GE(beside, 8 * 16 / 2) << "the frequencies";
  EXPECT_LE(beside, 8 * 16 / 2 + 40 * 256) << "and no more than what pieces of one allocation begin at";
}

TEST(RandomModelNameTest, KnownShapesAreThoseOfTheirModels) {
  const auto llama = ParseRandomModelName("random:llama-3.1-8b,context=1048576");
  ASSERT_THAT(llama, IsOk());
  EXPECT_EQ(llama->shape.spec.config.context_tokens, 1 << 20);
  EXPECT_EQ(llama->shape.spec.config.head_dim, 128);
  EXPECT_EQ(llama->shape.rope_factors.size(), 64u);
  EXPECT_EQ(llama->shape.rope_factors.front(), 1.0f) << "short waves stay";
  EXPECT_EQ(llama->shape.rope_factors.back(), 8.0f) << "long ones are stretched";
  const auto small = ParseRandomModelName("random:smollm2-135m,weights=q8_0,seed=3");
  ASSERT_THAT(small, IsOk());
  EXPECT_TRUE(small->shape.tied_embeddings);
  EXPECT_EQ(small->weights, kernels::RandomFormat::kQ8_0);
  EXPECT_EQ(small->seed, 3u);
}

TEST(RandomModelNameTest, RefusalsAreRules) {
  for (const char* name : {"random:", "random:gpt-2", "random:/no/such/config.json", "random:llama-3.1-8b,",
                           "random:llama-3.1-8b,weight=1", "random:llama-3.1-8b,weights=q3",
                           "random:llama-3.1-8b,seed=-1", "random:llama-3.1-8b,context=0"}) {
    EXPECT_THAT(ParseRandomModelName(name), StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("must "))) << name;
  }
}

TEST(HfConfigTest, WrongOrUnknownKeysAreRefusedByName) {
  const std::pair<std::string, std::string> wrong[] = {
      {TinyWith("hidden_size", "0"), "key hidden_size: expected a whole number from 1 to 131072, is 0"},
      {TinyWith("vocab_size", "\"x\""), "key vocab_size: expected a whole number"},
      {TinyWith("num_key_value_heads", "3"), "key num_key_value_heads: expected a divisor of the 4 heads"},
      {TinyWith("head_dim", "12"), "key head_dim: expected a multiple of 8"},
      {TinyWith("model_type", "\"qwen2\""), "key model_type: expected llama, is \\\"qwen2\\\""},
      {TinyWith("hidden_act", "\"gelu\""), "key hidden_act: expected silu"},
      {TinyWith("attention_bias", "true"), "key attention_bias: expected false"},
      {TinyWith("sliding_window", "4096"), "key sliding_window: expected only keys of a Llama that are known here"},
      {TinyWith("rope_scaling", "{\"rope_type\": \"yarn\"}"), "key rope_scaling.rope_type: expected default, linear"},
      {TinyWith("rope_scaling", "{\"rope_type\": \"linear\"}"), "key rope_scaling.factor: expected a number from 1"},
      {TinyWith("rope_scaling", "{\"beta\": 1}"), "key rope_scaling.beta: expected only keys"},
      {"[]", "expected one JSON object"},
      {"{", "expected one JSON object"},
      {"{}", "key model_type: expected llama, is missing"}};
  for (const auto& [json, message] : wrong) {
    EXPECT_THAT(ParseHfConfig(json), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message))) << json;
  }
}

}  // namespace
}  // namespace farspan
