// SPDX-License-Identifier: Apache-2.0
// Tokens and log-probabilities drawn on the device against the host's.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/backend/cuda_backend.h"
#include "engine/model/device_draws.h"
#include "tests/parity/device_arrays.h"
#include "tests/parity/draw_cases.h"

namespace farspan {
namespace {

using kernels::Random;

constexpr int32_t kPoison = -7;

struct Drawn {
  std::vector<kernels::DrawnRow> rows;
  std::vector<int32_t> next_token_ids;
};

class CudaSamplingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cuda = CudaBackend::Create(0);
    if (!cuda.ok()) GTEST_SKIP() << cuda.status().message();
    backend_ = *std::move(cuda);
  }

  void Prepare(int64_t vocab_size) {
    const ModelShape shape = {.num_layers = 1,
                              .num_heads = 1,
                              .num_kv_heads = 1,
                              .head_dim = 64,
                              .max_context_tokens = 1024,
                              .vocab_size = vocab_size,
                              .page_tokens = 64,
                              .kv_dtype = KvDtype::kBf16};
    ASSERT_TRUE(backend_->Prepare(shape, {}).ok());
  }

  Drawn DrawRows(const std::vector<float>& logits, const DeviceDraws& draws, int64_t vocab_size) {
    DeviceArrays arrays(backend_.get());
    auto* const next = const_cast<int32_t*>(arrays.Put(std::vector<int32_t>(draws.rows.size(), kPoison)));
    const kernels::DrawnRow* const drawn = backend_->Draw({.logits = arrays.Put(logits),
                                                           .rows = arrays.Put(draws.rows),
                                                           .counts = arrays.Put(draws.counts),
                                                           .drawn = nullptr,
                                                           .next_token_ids = next,
                                                           .num_rows = static_cast<int64_t>(draws.rows.size()),
                                                           .vocab_size = vocab_size});
    EXPECT_TRUE(backend_->Wait(backend_->Submit()).ok());
    return {.rows = {drawn, drawn + draws.rows.size()}, .next_token_ids = arrays.Get(next, draws.rows.size())};
  }

  std::unique_ptr<Backend> backend_;
  Random random_;
};

TEST_F(CudaSamplingTest, DrawsWhatTheHostDraws) {
  struct Shape {
    int64_t vocab_size, num_rows;
  };
  int64_t num_draws = 0, num_at_boundary = 0;
  for (const Shape& shape : {Shape{1, 100}, Shape{7, 200}, Shape{131, 200}, Shape{1000, 200}, Shape{8193, 100},
                             Shape{49152, 60}, Shape{50257, 30}, Shape{128256, 40}, Shape{600000, 8}}) {
    Prepare(shape.vocab_size);
    const DrawCase draws =
        RandomDrawCase(shape.num_rows, shape.vocab_size, static_cast<uint32_t>(random_.Integer(0, int64_t{1} << 31)));
    const Drawn drawn = DrawRows(draws.logits, MakeDeviceDraws(draws.requests, 0, shape.num_rows), shape.vocab_size);
    for (size_t row = 0; row < draws.requests.size(); ++row) {
      const DrawResult result = DeviceDrawResult(draws.requests[row], drawn.rows[row]);
      std::string why;
      const DrawAgreement agreement = CompareDraw(draws, row, result, &why);
      EXPECT_NE(agreement, DrawAgreement::kDifferent) << why;
      num_at_boundary += agreement == DrawAgreement::kAtBoundary ? 1 : 0;
      EXPECT_EQ(drawn.next_token_ids[row], result.ok() ? result->token : 0);
    }
    num_draws += shape.num_rows;
  }
  EXPECT_LE(num_at_boundary, num_draws / 200);
}

TEST_F(CudaSamplingTest, EqualLogitsGoToTheLowerToken) {
  constexpr int64_t kVocabSize = 5000;
  Prepare(kVocabSize);
  std::vector<float> logits(static_cast<size_t>(kVocabSize), -3);
  const auto first = static_cast<size_t>(random_.Integer(0, kVocabSize - 2));
  for (size_t token = first; token < logits.size(); token += 1 + static_cast<size_t>(random_.Integer(0, 50))) {
    logits[token] = 2;
  }
  DrawRequest greedy{.num_alternatives = 1};
  greedy.sampling.temperature = 0;
  DrawRequest one_of_one;
  one_of_one.logit_row = 1;
  one_of_one.sampling.top_k = 1;
  std::vector<float> rows = logits;
  rows.insert(rows.end(), logits.begin(), logits.end());
  const Drawn drawn = DrawRows(rows, MakeDeviceDraws(std::vector{greedy, one_of_one}, 0, 2), kVocabSize);
  EXPECT_EQ(drawn.rows[0].token, static_cast<int32_t>(first));
  EXPECT_EQ(drawn.rows[0].alternative_tokens[0], static_cast<int32_t>(first));
  EXPECT_EQ(drawn.rows[1].token, static_cast<int32_t>(first));
}

TEST_F(CudaSamplingTest, IdleRowsAreLeftAlone) {
  constexpr int64_t kVocabSize = 300;
  Prepare(kVocabSize);
  const std::vector<float> logits(size_t{6} * kVocabSize, std::numeric_limits<float>::quiet_NaN());
  DrawRequest given{.logit_row = 2, .given_token = 5};
  const Drawn drawn = DrawRows(logits, MakeDeviceDraws(std::vector{given}, 0, 6), kVocabSize);
  for (size_t row = 0; row < 6; ++row) EXPECT_EQ(drawn.next_token_ids[row], row == 2 ? 5 : kPoison);
}

TEST_F(CudaSamplingTest, ADrawDoesNotDependOnBatchMates) {
  constexpr int64_t kVocabSize = 49152, kRows = 24;
  Prepare(kVocabSize);
  const DrawCase draws = RandomDrawCase(kRows, kVocabSize, static_cast<uint32_t>(random_.Integer(0, 1 << 30)));
  const Drawn together = DrawRows(draws.logits, MakeDeviceDraws(draws.requests, 0, kRows), kVocabSize);
  for (int64_t row = 0; row < kRows; ++row) {
    const auto begin = draws.logits.begin() + row * kVocabSize;
    DrawRequest request = draws.requests[static_cast<size_t>(row)];
    request.logit_row = 0;
    const Drawn alone = DrawRows({begin, begin + kVocabSize}, MakeDeviceDraws(std::vector{request}, 0, 1), kVocabSize);
    const kernels::DrawnRow &one = alone.rows[0], &of_many = together.rows[static_cast<size_t>(row)];
    ASSERT_EQ(one.soundness, of_many.soundness);
    if (one.soundness != kernels::LogitSoundness::kSound) continue;
    EXPECT_EQ(one.token, of_many.token);
    if (!request.num_alternatives) continue;
    EXPECT_EQ(one.logprob, of_many.logprob);
    for (int i = 0; i < one.num_alternatives; ++i) {
      EXPECT_EQ(one.alternative_tokens[i], of_many.alternative_tokens[i]);
      EXPECT_EQ(one.alternative_logprobs[i], of_many.alternative_logprobs[i]);
    }
  }
}

TEST_F(CudaSamplingTest, TokensAreAsFrequentAsTheyAreProbable) {
  constexpr int64_t kVocabSize = 60, kRows = 250, kBatches = 80;
  Prepare(kVocabSize);
  std::vector<float> row;
  for (int64_t token = 0; token < kVocabSize; ++token) row.push_back(static_cast<float>(token % 7) * 0.4f);
  std::vector<float> logits;
  for (int64_t i = 0; i < kRows; ++i) logits.insert(logits.end(), row.begin(), row.end());
  std::vector<double> frequency(static_cast<size_t>(kVocabSize), 0);
  for (int64_t batch = 0; batch < kBatches; ++batch) {
    std::vector<DrawRequest> requests(static_cast<size_t>(kRows));
    for (int64_t i = 0; i < kRows; ++i) {
      DrawRequest& request = requests[static_cast<size_t>(i)];
      request.logit_row = i;
      request.key = {.seed = 11, .position = batch * kRows + i, .sample_index = 0};
    }
    for (const int32_t token : DrawRows(logits, MakeDeviceDraws(requests, 0, kRows), kVocabSize).next_token_ids) {
      frequency[static_cast<size_t>(token)] += 1;
    }
  }
  double sum = 0, chi_squared = 0;
  for (const float logit : row) sum += std::exp(logit);
  for (size_t token = 0; token < row.size(); ++token) {
    const double expected = kRows * kBatches * std::exp(row[token]) / sum;
    chi_squared += (frequency[token] - expected) * (frequency[token] - expected) / expected;
  }
  EXPECT_LT(chi_squared, 100) << "59 degrees of freedom: above 100 once in 1,500 seeds";
}

}  // namespace
}  // namespace farspan
