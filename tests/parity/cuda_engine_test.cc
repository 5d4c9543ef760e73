// SPDX-License-Identifier: Apache-2.0
// The whole engine on CUDA against the engine on the CPU, which is forced along the tokens that CUDA chose: at every
// place the CPU's logits say whether CUDA's token was theirs, or a tie within the rounding of bf16 activations.
// FARSPAN_TEST_MODEL names a real model for the last test.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>

#include "engine/attention/registry.h"
#include "engine/backend/cuda_backend.h"
#include "engine/backend/memory_text.h"
#include "engine/engine_factory.h"
#include "google/protobuf/text_format.h"
#include "tests/support/recording_output.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

// Activations of 8 significant bits move a log-probability of these networks by 0.02 as a rule.
constexpr double kRootMeanSquareError = 0.03;
constexpr float kTieLogitGap = 0.1f;

// Prompts outgrow the window and the budget.
constexpr std::array<const char*, 3> kPolicies = {
    "dense { }", "window { sink_tokens: 4 window_tokens: 48 }",
    "quest { budget_tokens: 96 block_tokens: 16 sink_tokens: 16 recent_tokens: 32 }"};

struct Answered {
  Request request;
  std::shared_ptr<RecordingOutput> output;
};

class CudaEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
  }

  // The oracle's kernels are slow: every core helps.
  static int CpuThreads() { return static_cast<int>(std::max(2u, std::thread::hardware_concurrency())); }

  std::unique_ptr<Engine> MakeEngine(const GgufFile& file, const std::string& device, const EngineConfig& config,
                                     int64_t kv_cache_bytes) {
    auto engine = CreateEngine(file,
                               {.device = device,
                                .cpu = {.isa = CpuIsa::kPortable, .num_threads = CpuThreads()},
                                .page_tokens = 16,
                                .kv_dtype = kv_dtype_,
                                .kv_cache_bytes = kv_cache_bytes,
                                .engine = config},
                               &metrics_);
    EXPECT_THAT(engine, IsOk());
    return *std::move(engine);
  }

  static Request MakeRequest(int i, int64_t prompt_tokens, int64_t max_tokens, const Engine& engine) {
    v1::AttentionSpec spec;
    const char* const policy = kPolicies[static_cast<size_t>(i) % kPolicies.size()];
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(policy, &spec));
    Request request{.sampling = {.temperature = i % 4 == 3 ? 0.8 : 0.0, .seed = static_cast<uint64_t>(i)},
                    .stop = {.max_tokens = max_tokens},
                    .logprobs = 2,
                    .policy = *BuiltinPolicies().Create(spec, engine.shape())};
    for (int64_t t = 0; t < prompt_tokens; ++t) {
      request.prompt.push_back(static_cast<TokenId>((t * 37 + i * 11 + t * t % 13) % engine.shape().vocab_size));
    }
    return request;
  }

  static std::vector<Answered> Answer(Engine* engine, const std::vector<Request>& requests) {
    std::vector<Answered> answered;
    for (const Request& request : requests) {
      answered.push_back({request, std::make_shared<RecordingOutput>()});
      EXPECT_THAT(engine->Submit(request, answered.back().output), IsOk());
    }
    while (engine->TEST_Step()) {
    }
    for (const Answered& one : answered) {
      EXPECT_EQ(one.output->finished()->reason, FinishReason::kLength) << one.output->finished()->status;
    }
    return answered;
  }

  // Keys and values that differ in a rounding are stored as either of two neighbours, which lie far apart in fp8.
  float Coarseness() const { return kv_dtype_ == KvDtype::kF8E4M3 ? 4 : 1; }
  float LogprobTolerance(float logprob) const { return Coarseness() * std::max(0.15f, 2e-2f * std::fabs(logprob)); }
  float TieLogitGap() const { return Coarseness() * kTieLogitGap; }

  void Compare(float got, float expected) {
    const float error = std::fabs(got - expected);
    squared_errors_ += static_cast<double>(error) * error;
    largest_error_ = std::max(largest_error_, error);
    ++num_compared_;
  }

  // Counts the ties met on the way.
  void ExpectCpuAgrees(Engine* cpu, const Answered& cuda, int sample) {
    Request request = cuda.request;
    request.num_samples = 1;
    request.forced_tokens = cuda.output->tokens(sample);
    const auto forced = std::make_shared<RecordingOutput>();
    ASSERT_THAT(cpu->Submit(request, forced), IsOk());
    while (cpu->TEST_Step()) {
    }
    const std::vector<TokenLogprobs>&expected = forced->logprobs(), &got = cuda.output->logprobs(sample);
    ASSERT_EQ(got.size(), expected.size());
    // Blocks of nearly equal scores may be chosen one way here and the other way there.
    const bool chooses = (request.policy->needs() & kSelectorFeatures) != PlanFeatures::kNone;
    for (size_t t = 0; t < got.size(); ++t) {
      ASSERT_EQ(got[t].chosen.token, expected[t].chosen.token);
      const float logprob = expected[t].chosen.logprob;
      if (chooses && std::fabs(got[t].chosen.logprob - logprob) > LogprobTolerance(logprob)) {
        ++num_other_choices_;
        continue;
      }
      Compare(got[t].chosen.logprob, logprob);
      if (each_logprob_is_near_) {
        ASSERT_NEAR(got[t].chosen.logprob, logprob, LogprobTolerance(logprob)) << "token " << t;
      }
      if (!request.sampling.greedy() || expected[t].top[0].token == got[t].chosen.token) continue;
      const float gap = expected[t].top[0].logprob - expected[t].chosen.logprob;
      if (chooses && gap > TieLogitGap()) {
        ++num_other_choices_;
        continue;
      }
      ASSERT_LE(gap, TieLogitGap()) << "token " << t;
      ++num_ties_;
    }
    num_tokens_ += static_cast<int64_t>(got.size());
    ASSERT_EQ(cuda.output->prompt_logprobs().size(), forced->prompt_logprobs().size());
    for (size_t t = 0; t < forced->prompt_logprobs().size(); ++t) {
      const float logprob = forced->prompt_logprobs()[t].chosen.logprob;
      Compare(cuda.output->prompt_logprobs()[t].chosen.logprob, logprob);
      ASSERT_NEAR(cuda.output->prompt_logprobs()[t].chosen.logprob, logprob, LogprobTolerance(logprob))
          << "prompt token " << t;
    }
  }

  void ExpectSameAnswers(const GgufFile& file, const std::vector<Answered>& answered) {
    const auto cpu = MakeEngine(file, "cpu", {.max_num_seqs = 1, .max_num_batched_tokens = 512}, int64_t{256} << 20);
    for (size_t i = 0; i < answered.size(); ++i) {
      for (int sample = 0; sample < answered[i].request.num_samples; ++sample) {
        SCOPED_TRACE(testing::Message() << "request " << i << " under " << answered[i].request.policy->name()
                                        << ", sample " << sample);
        ExpectCpuAgrees(cpu.get(), answered[i], sample);
      }
    }
    const double error = std::sqrt(squared_errors_ / static_cast<double>(std::max<int64_t>(num_compared_, 1)));
    EXPECT_LE(error, Coarseness() * kRootMeanSquareError);
    std::cout << "root mean square error of log-probabilities " << error << ", largest " << largest_error_ << "; ";
    std::cout << num_tokens_ << " tokens, " << num_ties_ << " ties, " << num_other_choices_ << " after other choices\n";
    EXPECT_LE(num_other_choices_, num_tokens_ / 20);
  }

  const std::string bytes_ = TinyCheckpointBytes({.width = 128, .feed_forward_width = 192, .head_dim = 64});
  const GgufFile tiny_ = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes_))));
  NullMetricsSink metrics_;
  KvDtype kv_dtype_ = KvDtype::kBf16;
  int64_t num_tokens_ = 0;
  int64_t num_ties_ = 0;
  int64_t num_other_choices_ = 0;
  bool each_logprob_is_near_ = true;
  int64_t num_compared_ = 0;  // log-probabilities but for those after other choices
  double squared_errors_ = 0;
  float largest_error_ = 0;
};

TEST_F(CudaEngineTest, OneRequestUnderEachPolicy) {
  for (int i = 0; i < static_cast<int>(kPolicies.size()); ++i) {
    SCOPED_TRACE(kPolicies[static_cast<size_t>(i)]);
    const auto engine =
        MakeEngine(tiny_, "cuda:0", {.max_num_seqs = 4, .max_num_batched_tokens = 90}, int64_t{64} << 20);
    Request request = MakeRequest(i, 200, 40, *engine);
    request.prompt_logprobs = 1;
    const std::vector<Answered> answered = Answer(engine.get(), {request});
    if (HasFailure()) return;
    ExpectSameAnswers(tiny_, answered);
  }
}

class CudaKvDtypeTest : public CudaEngineTest, public ::testing::WithParamInterface<KvDtype> {};

TEST_P(CudaKvDtypeTest, MixedPoliciesInOneBatch) {
  kv_dtype_ = GetParam();
  const auto engine = MakeEngine(tiny_, "cuda:0", {.max_num_seqs = 9, .max_num_batched_tokens = 90}, int64_t{64} << 20);
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    requests.push_back(MakeRequest(i, 5 + 9 * i, 6 + 2 * i, *engine));
    if (i % 2 == 0) requests.back().prompt_logprobs = 1;
  }
  ExpectSameAnswers(tiny_, Answer(engine.get(), requests));
}

INSTANTIATE_TEST_SUITE_P(EachDtype, CudaKvDtypeTest,
                         ::testing::Values(KvDtype::kBf16, KvDtype::kF32, KvDtype::kF16, KvDtype::kF8E4M3),
                         [](const auto& dtype) { return std::string(KvDtypeName(dtype.param)); });

// All that a step needs is taken before the first one.
TEST_F(CudaEngineTest, NoMemoryIsTakenOnceAnEngineStands) {
  const auto engine = MakeEngine(tiny_, "cuda:0", {.max_num_seqs = 9, .max_num_batched_tokens = 90}, int64_t{64} << 20);
  const Backend& backend = engine->backend();
  const int64_t num_allocations = backend.NumAllocations();
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    requests.push_back(MakeRequest(i, 5 + 9 * i, 6 + 2 * i, *engine));
    if (i % 2 == 0) requests.back().prompt_logprobs = 1;
  }
  Answer(engine.get(), requests);
  EXPECT_EQ(backend.NumAllocations(), num_allocations);
  const DeviceMemory whole = backend.WholeMemory();
  EXPECT_EQ(HeldBytes(backend) + OtherBytes(backend) + whole.free_bytes, whole.total_bytes);
  std::cout << num_allocations << " allocations; " << HeldText(backend) << "\n";
}

TEST_F(CudaEngineTest, SamplesOfOnePrompt) {
  const auto engine =
      MakeEngine(tiny_, "cuda:0", {.max_num_seqs = 16, .max_num_batched_tokens = 128}, int64_t{64} << 20);
  std::vector<Request> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(MakeRequest(i, 100 + 37 * i, 20, *engine));
    requests.back().num_samples = 4;
    requests.back().sampling.temperature = 0.9;
  }
  const std::vector<Answered> answered = Answer(engine.get(), requests);
  for (const Answered& one : answered) EXPECT_NE(one.output->tokens(0), one.output->tokens(1));
  ExpectSameAnswers(tiny_, answered);
}

TEST_F(CudaEngineTest, PreemptedRequests) {
  const auto sizing = MakeEngine(tiny_, "cpu", {}, int64_t{64} << 20);
  const int64_t kv_cache_bytes = 40 * sizing->shape().kv_bytes_per_page();
  const auto engine = MakeEngine(tiny_, "cuda:0", {.max_num_seqs = 8, .max_num_batched_tokens = 64}, kv_cache_bytes);
  std::vector<Request> requests;
  for (int i = 0; i < 9; ++i) requests.push_back(MakeRequest(i, 60 + 5 * i, 120, *engine));
  const std::vector<Answered> answered = Answer(engine.get(), requests);
  int64_t preemptions = 0;
  for (const Answered& one : answered) preemptions += one.output->finished()->statistics.preemptions;
  EXPECT_GT(preemptions, 0);
  ExpectSameAnswers(tiny_, answered);
}

TEST_F(CudaEngineTest, ARealModel) {
  const char* const path = std::getenv("FARSPAN_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "FARSPAN_TEST_MODEL names no model file";
  const auto file = GgufFile::Open(path);
  ASSERT_THAT(file, IsOk());
  const auto engine =
      MakeEngine(*file, "cuda:0", {.max_num_seqs = 12, .max_num_batched_tokens = 512}, int64_t{512} << 20);
  std::vector<Request> requests;
  for (int i = 0; i < 12; ++i) requests.push_back(MakeRequest(i, 20 + 30 * i, 48, *engine));
  ExpectSameAnswers(*file, Answer(engine.get(), requests));
}

// Here and there the network magnifies a rounding, so that each log-probability by itself says little; the choices and
// the error over all tokens are what is held.
TEST_F(CudaEngineTest, GreedyTextOfARealModel) {
  const char* const path = std::getenv("FARSPAN_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "FARSPAN_TEST_MODEL names no model file";
  const auto file = GgufFile::Open(path);
  ASSERT_THAT(file, IsOk());
  const auto engine =
      MakeEngine(*file, "cuda:0", {.max_num_seqs = 20, .max_num_batched_tokens = 512}, int64_t{512} << 20);
  each_logprob_is_near_ = false;
  std::vector<Request> requests;
  for (int i = 0; i < 20; ++i) {
    const int dense = i * static_cast<int>(kPolicies.size());
    requests.push_back(MakeRequest(dense, 20 + 15 * i, 64, *engine));
    requests.back().sampling.temperature = 0;
  }
  ExpectSameAnswers(*file, Answer(engine.get(), requests));
}

}  // namespace
}  // namespace farspan
