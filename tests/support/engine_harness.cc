// SPDX-License-Identifier: Apache-2.0
#include "tests/support/engine_harness.h"

#include <gtest/gtest.h>

#include <utility>

#include "engine/attention/registry.h"
#include "engine/backend/cpu_backend.h"
#include "google/protobuf/text_format.h"
#include "tests/support/late_model.h"
#include "tests/support/status_matchers.h"

namespace farspan {

EngineHarness::EngineHarness(const HarnessOptions& options) {
  const ModelShape shape = HashModel::Shape(options.page_tokens, options.max_context_tokens);
  EngineParts parts;
  parts.backend = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  auto model = std::make_unique<HashModel>(shape, options.engine.max_num_batched_tokens);
  model_ = model.get();
  if (options.answers_late) {
    parts.model = std::make_unique<LateModel>(std::move(model));
  } else {
    parts.model = std::move(model);
  }
  parts.kv_cache = *KvCache::Create(shape, options.num_pages, parts.backend.get(), parts.backend->caps());
  parts.metrics = options.metrics != nullptr ? options.metrics : &metrics_;
  parts.clock = &clock_;
  auto engine = Engine::Create(options.engine, std::move(parts));
  EXPECT_THAT(engine, IsOk());
  engine_ = *std::move(engine);
}

Request EngineHarness::MakeRequest(std::vector<TokenId> prompt, int64_t max_tokens, const std::string& attention) {
  v1::AttentionSpec spec;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(attention, &spec)) << attention;
  auto policy = BuiltinPolicies().Create(spec, model_->shape());
  EXPECT_THAT(policy, IsOk());
  return {.id = "test",
          .prompt = std::move(prompt),
          .sampling = {.temperature = 0},
          .stop = {.max_tokens = max_tokens},
          .policy = *policy,
          .arrival = clock_.Now()};
}

LiveRequest EngineHarness::Submit(Request request) {
  LiveRequest live{.output = std::make_shared<RecordingOutput>()};
  auto handle = engine_->Submit(std::move(request), live.output);
  EXPECT_THAT(handle, IsOk());
  if (handle.ok()) live.handle = *handle;
  return live;
}

LiveRequest EngineHarness::Generate(Request request) {
  LiveRequest live = Submit(std::move(request));
  StepUntilIdle();
  return live;
}

void EngineHarness::StepUntilIdle() {
  while (engine_->TEST_Step()) clock_.Advance(std::chrono::milliseconds(1));
}

std::vector<TokenId> MakePrompt(int64_t length, int salt) {
  std::vector<TokenId> prompt;
  for (int64_t i = 0; i < length; ++i) {
    prompt.push_back(static_cast<TokenId>((i * 31 + salt * 17 + i * i % 7) % HashModel::kVocabSize));
  }
  return prompt;
}

std::vector<TokenId> ExpectedTokens(std::vector<TokenId> prompt, int64_t max_tokens,
                                    std::optional<WindowOptions> window) {
  std::vector<TokenId> output;
  for (int64_t i = 0; i < max_tokens; ++i) {
    const auto sees = [&window](int64_t query, int64_t key) {
      return key < window->sink_tokens || key > query - window->window_tokens;
    };
    output.push_back(window ? HashModel::NextToken(prompt, sees) : HashModel::NextToken(prompt));
    prompt.push_back(output.back());
  }
  return output;
}

}  // namespace farspan
