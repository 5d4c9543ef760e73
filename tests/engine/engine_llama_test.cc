// SPDX-License-Identifier: Apache-2.0
// Real kernels under the engine: requests of mixed policies in one batch, with random cancels and with freed pages
// turned to NaN, answer bit for bit as each does alone.
#include <gtest/gtest.h>

#include <bit>
#include <optional>
#include <string>

#include "engine/attention/registry.h"
#include "engine/engine_factory.h"
#include "google/protobuf/text_format.h"
#include "tests/support/recording_output.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

constexpr int kNumRequests = 32;

struct PathCase {
  std::string name;
  CpuIsa isa;
  KvDtype kv_dtype;
};

class EngineLlamaTest : public ::testing::TestWithParam<PathCase> {
 protected:
  std::unique_ptr<Engine> MakeEngine(const EngineConfig& config) {
    EngineOptions options{.backend = {.isa = GetParam().isa, .num_threads = 2},
                          .page_tokens = 16,
                          .kv_dtype = GetParam().kv_dtype,
                          .kv_cache_bytes = int64_t{8} << 20,
                          .engine = config};
    options.engine.poison_freed_pages = true;
    auto engine = CreateEngine(file_, options, &metrics_);
    EXPECT_THAT(engine, IsOk());
    return *std::move(engine);
  }

  // Request `i`: prompts of 5 to 222 tokens, every second one under a window that most of them outgrow.
  Request MakeRequest(int i, const Engine& engine) const {
    v1::AttentionSpec spec;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
        i % 2 == 0 ? "dense { }" : "window { sink_tokens: 3 window_tokens: 29 }", &spec));
    Request request{.sampling = {.temperature = i % 3 == 0 ? 0.8 : 0.0, .seed = static_cast<uint64_t>(i)},
                    .stop = {.max_tokens = 6 + i},
                    .logprobs = 2,
                    .policy = *BuiltinPolicies().Create(spec, engine.shape())};
    for (int t = 0; t < 5 + 7 * i; ++t) {
      request.prompt.push_back(static_cast<TokenId>((t * 37 + i * 11 + t * t % 13) % engine.shape().vocab_size));
    }
    if (i % 4 < 2) request.prompt_logprobs = 1;
    return request;
  }

  static void ExpectSameBits(const std::vector<TokenLogprobs>& expected, const std::vector<TokenLogprobs>& got) {
    ASSERT_LE(got.size(), expected.size());
    for (size_t t = 0; t < got.size(); ++t) {
      ASSERT_EQ(got[t].chosen.token, expected[t].chosen.token) << "token " << t;
      ASSERT_EQ(std::bit_cast<uint32_t>(got[t].chosen.logprob), std::bit_cast<uint32_t>(expected[t].chosen.logprob))
          << "token " << t;
    }
  }

  const std::string bytes_ = TinyCheckpointBytes();
  const GgufFile file_ = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes_))));
  NullMetricsSink metrics_;
};

TEST_P(EngineLlamaTest, ManyStreamsWithCancelsAnswerAsEachAlone) {
  const auto together = MakeEngine({.max_num_seqs = 12, .max_num_batched_tokens = 70});
  std::vector<std::shared_ptr<RecordingOutput>> outputs;
  std::vector<std::shared_ptr<RequestHandle>> handles;
  for (int i = 0; i < kNumRequests; ++i) {
    outputs.push_back(std::make_shared<RecordingOutput>());
    auto handle = together->Submit(MakeRequest(i, *together), outputs.back());
    ASSERT_THAT(handle, IsOk());
    handles.push_back(*std::move(handle));
  }
  for (int step = 0; together->TEST_Step(); ++step) {
    if (step % 3 == 0 && step / 3 * 5 < kNumRequests) handles[static_cast<size_t>(step / 3 * 5)]->Cancel();
  }
  EXPECT_EQ(together->stats().kv_pages_used, 0);

  const auto alone = MakeEngine({.max_num_seqs = 1, .max_num_batched_tokens = 512});
  int num_cancelled = 0;
  for (int i = 0; i < kNumRequests; ++i) {
    SCOPED_TRACE(i);
    const auto output = std::make_shared<RecordingOutput>();
    ASSERT_THAT(alone->Submit(MakeRequest(i, *alone), output), IsOk());
    while (alone->TEST_Step()) {
    }
    ASSERT_EQ(output->finished()->reason, FinishReason::kLength) << output->finished()->status;
    const RecordingOutput& mixed = *outputs[static_cast<size_t>(i)];
    const bool cancelled = mixed.finished()->reason == FinishReason::kCancelled;
    num_cancelled += cancelled ? 1 : 0;
    if (!cancelled) {
      ASSERT_EQ(mixed.finished()->reason, FinishReason::kLength) << mixed.finished()->status;
      ASSERT_EQ(mixed.tokens(), output->tokens());
      ASSERT_EQ(mixed.prompt_logprobs().size(), output->prompt_logprobs().size());
    }
    ExpectSameBits(output->logprobs(), mixed.logprobs());
    ExpectSameBits(output->prompt_logprobs(), mixed.prompt_logprobs());
  }
  EXPECT_GT(num_cancelled, 0);
  EXPECT_LT(num_cancelled, kNumRequests / 2);
}

INSTANTIATE_TEST_SUITE_P(Paths, EngineLlamaTest,
                         ::testing::Values(PathCase{"PortableF32", CpuIsa::kPortable, KvDtype::kF32},
                                           PathCase{"FastestBf16", CpuIsa::kAuto, KvDtype::kBf16}),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace farspan
