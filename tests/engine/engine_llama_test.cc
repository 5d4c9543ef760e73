// SPDX-License-Identifier: Apache-2.0
// Real kernels under the engine: requests of mixed policies in one batch, with random cancels and with freed pages
// turned to NaN, answer bit for bit as each does alone.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <optional>
#include <string>
#include <utility>

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
  std::unique_ptr<Engine> MakeEngine(const EngineConfig& config, int64_t kv_cache_bytes = int64_t{8} << 20) {
    EngineOptions options{.cpu = {.isa = GetParam().isa, .num_threads = 2},
                          .page_tokens = 16,
                          .kv_dtype = GetParam().kv_dtype,
                          .kv_cache_bytes = kv_cache_bytes,
                          .engine = config};
    options.engine.poison_freed_pages = true;
    auto engine = CreateEngine(file_, options, &metrics_);
    EXPECT_THAT(engine, IsOk());
    return *std::move(engine);
  }

  // Request `i`: prompts of 5 to 222 tokens, under policies of which most of them outgrow the window or the budget.
  Request MakeRequest(int i, const Engine& engine) const {
    const std::array<std::string, 4> policies = {
        "dense { }", "window { sink_tokens: 3 window_tokens: 29 }",
        "quest { budget_tokens: 64 sink_tokens: 3 recent_tokens: 9 }",
        "quest { budget_ratio: 0.4 block_tokens: 32 recent_tokens: 5 dense_layers: 1 "
        "group_reduction: GROUP_REDUCTION_RAW_SUM }"};
    return MakeRequest(i, engine, policies[static_cast<size_t>(i) % policies.size()]);
  }

  Request MakeRequest(int i, const Engine& engine, const std::string& attention) const {
    v1::AttentionSpec spec;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(attention, &spec));
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

  // Steps until the request has ended.
  static std::shared_ptr<RecordingOutput> Answer(Engine* engine, Request request) {
    auto output = std::make_shared<RecordingOutput>();
    EXPECT_THAT(engine->Submit(std::move(request), output), IsOk());
    while (engine->TEST_Step()) {
    }
    EXPECT_EQ(output->finished()->reason, FinishReason::kLength) << output->finished()->status;
    return output;
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

// The workspace of the CPU's kernels grows with what they are given, and no further.
TEST_P(EngineLlamaTest, RequestsLikeThoseBeforeTakeNoMemory) {
  const auto engine = MakeEngine({.max_num_seqs = 12, .max_num_batched_tokens = 70, .prefix_caching = false});
  int64_t num_allocations = 0;
  for (const bool again : {false, true}) {
    for (int i = 0; i < 12; ++i) {
      ASSERT_THAT(engine->Submit(MakeRequest(i, *engine), std::make_shared<RecordingOutput>()), IsOk());
    }
    while (engine->TEST_Step()) {
    }
    const int64_t before = std::exchange(num_allocations, engine->backend().NumAllocations());
    EXPECT_TRUE(!again || num_allocations == before) << before << " and then " << num_allocations;
  }
}

// What may differ between two runs of one request, and must not show: batch mates, the size of chunks, preemptions,
// pages found in the cache, samples that share a prompt.
TEST_P(EngineLlamaTest, PreemptionSharedPrefixesAndForksChangeNoBit) {
  constexpr int64_t kPrefixTokens = 75;
  constexpr int kNumSharing = 12;
  const auto make_request = [this](int i, const Engine& engine) {
    Request request = MakeRequest(i, engine);
    request.prompt_logprobs.reset();
    const std::vector<TokenId> prefix = MakeRequest(30, engine).prompt;
    request.prompt.insert(request.prompt.begin(), prefix.begin(), prefix.begin() + kPrefixTokens);
    request.stop.max_tokens = 60;
    request.num_samples = i % 4 == 1 ? 3 : 1;
    return request;
  };
  const auto alone = MakeEngine({.max_num_seqs = 8, .max_num_batched_tokens = 512, .prefix_caching = false});
  std::vector<std::shared_ptr<RecordingOutput>> expected;
  for (int i = 0; i < kNumSharing; ++i) {
    expected.push_back(std::make_shared<RecordingOutput>());
    ASSERT_THAT(alone->Submit(make_request(i, *alone), expected.back()), IsOk());
    while (alone->TEST_Step()) {
    }
  }
  int64_t preemptions = 0, cached_tokens = 0;
  for (const int64_t chunk_tokens : {13, 40, 70}) {
    const int64_t pages = 18;
    const auto together = MakeEngine({.max_num_seqs = 8, .max_num_batched_tokens = chunk_tokens},
                                     pages * alone->shape().kv_bytes_per_page());
    std::vector<std::shared_ptr<RecordingOutput>> outputs;
    for (int i = 0; i < kNumSharing; ++i) {
      outputs.push_back(std::make_shared<RecordingOutput>());
      ASSERT_THAT(together->Submit(make_request(i, *together), outputs.back()), IsOk());
    }
    while (together->TEST_Step()) {
    }
    EXPECT_EQ(together->stats().kv_pages_used, 0);
    for (int i = 0; i < kNumSharing; ++i) {
      SCOPED_TRACE(testing::Message() << "request " << i << " chunk_tokens " << chunk_tokens);
      const RecordingOutput& output = *outputs[static_cast<size_t>(i)];
      ASSERT_EQ(output.finished()->reason, FinishReason::kLength) << output.finished()->status;
      preemptions += output.finished()->statistics.preemptions;
      cached_tokens += output.finished()->statistics.cached_prompt_tokens;
      for (int sample = 0; sample < kMaxSamples; ++sample) {
        ASSERT_EQ(output.tokens(sample), expected[static_cast<size_t>(i)]->tokens(sample)) << "sample " << sample;
        ExpectSameBits(expected[static_cast<size_t>(i)]->logprobs(sample), output.logprobs(sample));
      }
    }
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(cached_tokens, kPrefixTokens);
}

TEST_P(EngineLlamaTest, ABudgetThatCoversTheContextAnswersAsDenseBitForBit) {
  const auto engine = MakeEngine({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  for (const int i : {8, 19, 31}) {
    const auto dense = Answer(engine.get(), MakeRequest(i, *engine, "dense { }"));
    for (const std::string options :
         {"budget_tokens: 1024", "budget_ratio: 1", "budget_tokens: 128 dense_layers: 99"}) {
      const auto quest = Answer(engine.get(), MakeRequest(i, *engine, "quest { " + options + " }"));
      EXPECT_EQ(quest->tokens(), dense->tokens());
      ExpectSameBits(dense->logprobs(), quest->logprobs());
    }
  }
}

// Pages written for a dense request hold no key bounds; a request that is preempted chooses again what it chose
// first.
TEST_P(EngineLlamaTest, SharedPagesAndReplayedTokensChooseTheSameBlocks) {
  const std::string quest = "quest { budget_tokens: 64 sink_tokens: 0 recent_tokens: 9 }";
  const auto roomy = MakeEngine({.max_num_seqs = 4, .max_num_batched_tokens = 64, .prefix_caching = false});
  const auto tight =
      MakeEngine({.max_num_seqs = 8, .max_num_batched_tokens = 64}, 30 * roomy->shape().kv_bytes_per_page());
  const auto request = [&](int i, const Engine& engine) {
    Request made = MakeRequest(i, engine, i % 4 == 0 ? "dense { }" : quest);
    made.stop.max_tokens = 120;
    return made;
  };
  std::vector<std::shared_ptr<RecordingOutput>> outputs;
  for (int i = 0; i < 8; ++i) {
    outputs.push_back(std::make_shared<RecordingOutput>());
    ASSERT_THAT(tight->Submit(request(i, *tight), outputs.back()), IsOk());
  }
  while (tight->TEST_Step()) {
  }
  int64_t preemptions = 0;
  for (int i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    const RecordingOutput& crowded = *outputs[static_cast<size_t>(i)];
    preemptions += crowded.finished()->statistics.preemptions;
    const auto alone = Answer(roomy.get(), request(i, *roomy));
    ASSERT_EQ(crowded.tokens(), alone->tokens());
    ExpectSameBits(alone->logprobs(), crowded.logprobs());
  }
  EXPECT_GT(preemptions, 2) << "the pool is too large for this test";

  // The prompt's pages come from a dense request now.
  const auto sharing = MakeEngine({.max_num_seqs = 4, .max_num_batched_tokens = 64});
  Request dense = MakeRequest(31, *sharing, "dense { }"), shared = MakeRequest(31, *sharing, quest);
  shared.prompt_logprobs.reset();
  const auto alone = Answer(roomy.get(), shared);
  Answer(sharing.get(), std::move(dense));
  const auto hit = Answer(sharing.get(), std::move(shared));
  EXPECT_GE(hit->finished()->statistics.cached_prompt_tokens, 200);
  EXPECT_EQ(hit->tokens(), alone->tokens());
  ExpectSameBits(alone->logprobs(), hit->logprobs());
}

INSTANTIATE_TEST_SUITE_P(Paths, EngineLlamaTest,
                         ::testing::Values(PathCase{"PortableF32", CpuIsa::kPortable, KvDtype::kF32},
                                           PathCase{"FastestBf16", CpuIsa::kAuto, KvDtype::kBf16},
                                           PathCase{"FastestFp16", CpuIsa::kAuto, KvDtype::kF16},
                                           PathCase{"FastestFp8", CpuIsa::kAuto, KvDtype::kF8E4M3}),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace farspan
