// SPDX-License-Identifier: Apache-2.0
#include "engine/model/llama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/backend/cpu_backend.h"
#include "tests/engine/model/llama_reference.h"
#include "tests/engine/model/model_runner.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

using Rows = std::vector<std::vector<float>>;

std::vector<TokenId> SomeTokens(size_t count, uint32_t seed) {
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525 + 1013904223;
    tokens.push_back(static_cast<TokenId>((seed >> 8) % TinyVocabulary().size()));
  }
  return tokens;
}

struct Loaded {
  std::unique_ptr<Backend> backend;  // outlives the model
  std::unique_ptr<Model> model;
};

Loaded Load(const TinyCheckpointOptions& checkpoint, CpuIsa isa = CpuIsa::kPortable, int num_threads = 1) {
  Loaded loaded;
  loaded.backend = *CpuBackend::Create({.isa = isa, .num_threads = num_threads});
  const TinyCheckpoint file(checkpoint);
  absl::StatusOr<std::unique_ptr<Model>> model =
      LoadModel(file.path(), loaded.backend.get(), {.page_tokens = 16, .kv_dtype = KvDtype::kF32});
  EXPECT_THAT(model, IsOk());
  loaded.model = *std::move(model);
  return loaded;
}

struct ReferenceCase {
  std::string name;
  TinyCheckpointOptions checkpoint;
};

class LlamaReferenceTest : public ::testing::TestWithParam<ReferenceCase> {};

TEST_P(LlamaReferenceTest, PrefillChunksAndDecodeAgreeWithFloat64) {
  const std::string bytes = TinyCheckpointBytes(GetParam().checkpoint);
  const GgufFile file = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes))));
  const std::vector<TokenId> tokens = SomeTokens(150, 3);
  const std::vector<std::vector<double>> expected = ReferenceLogits(file, tokens);

  const Loaded loaded = Load(GetParam().checkpoint);
  ModelRunner runner(loaded.model.get(), loaded.backend.get(), 1, 16);
  // A chunk over a tile border, a short one, then decoding: every path that a sequence takes.
  const std::vector<Chunk> chunks = {{0, {tokens.begin(), tokens.begin() + 130}, false},
                                     {0, {tokens.begin() + 130, tokens.begin() + 147}, false},
                                     {0, {tokens[147]}, true},
                                     {0, {tokens[148]}, true},
                                     {0, {tokens[149]}, true}};
  size_t row = 0;
  for (const Chunk& chunk : chunks) {
    for (const std::vector<float>& logits : runner.Run(std::span(&chunk, 1))) {
      double worst = 0;
      for (size_t i = 0; i < logits.size(); ++i) worst = std::max(worst, std::fabs(logits[i] - expected[row][i]));
      // Logits have a deviation of 3; float32 sums over at most 150 tokens and 96 channels.
      ASSERT_LT(worst, 2e-4) << "row " << row;
      ++row;
    }
  }
  EXPECT_EQ(row, tokens.size());
}

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, LlamaReferenceTest,
    ::testing::Values(
        ReferenceCase{"Q4_1", {}}, ReferenceCase{"Q4_0", {.matrix_type = GgufTensorType::kQ4_0}},
        ReferenceCase{"Q8_0", {.matrix_type = GgufTensorType::kQ8_0}},
        ReferenceCase{"Bf16", {.matrix_type = GgufTensorType::kBf16, .embedding_type = GgufTensorType::kBf16}},
        ReferenceCase{"F32", {.matrix_type = GgufTensorType::kF32, .embedding_type = GgufTensorType::kF32}},
        ReferenceCase{"Tied", {.tied_embeddings = true}},
        ReferenceCase{"RopeFactors", {.rope_factors = {1, 1, 1, 1.5, 2, 4, 8, 8}}},
        ReferenceCase{"RopeLinear", {.rope_linear_factor = 4}}, ReferenceCase{"PartialRope", {.rope_dim = 8}},
        ReferenceCase{"OneKvHeadEach", {.num_kv_heads = 4}},
        ReferenceCase{"WideHeads", {.num_layers = 3, .width = 96, .num_heads = 3, .num_kv_heads = 1, .head_dim = 32}}),
    [](const auto& param_info) { return param_info.param.name; });

class LlamaBatchTest : public ::testing::TestWithParam<std::pair<CpuIsa, int>> {};

TEST_P(LlamaBatchTest, ARowDoesNotDependOnItsBatchMatesOrChunks) {
  const auto& [isa, num_threads] = GetParam();
  const Loaded loaded = Load({}, isa, num_threads);
  const std::vector<TokenId> first = SomeTokens(140, 5), second = SomeTokens(40, 6);

  ModelRunner alone(loaded.model.get(), loaded.backend.get(), 2, 16);
  const std::vector<Chunk> whole = {{0, {first.begin(), first.end() - 1}, false}};
  Rows expected = alone.Run(whole);
  const std::vector<Chunk> last = {{0, {first.back()}, true}};
  expected.push_back(alone.Run(last)[0]);

  ModelRunner mixed(loaded.model.get(), loaded.backend.get(), 2, 16);
  Rows got;
  const auto keep = [&](const Rows& rows, size_t begin, size_t count) {
    got.insert(got.end(), rows.begin() + static_cast<int64_t>(begin),
               rows.begin() + static_cast<int64_t>(begin + count));
  };
  const std::vector<Chunk> step1 = {{1, {second.begin(), second.begin() + 33}, false},
                                    {0, {first.begin(), first.begin() + 50}, false}};
  keep(mixed.Run(step1), 33, 50);
  const std::vector<Chunk> step2 = {{1, {second[33]}, true}, {0, {first.begin() + 50, first.end() - 1}, false}};
  keep(mixed.Run(step2), 1, 89);
  const std::vector<Chunk> step3 = {{1, {second[34]}, true}, {0, {first.back()}, true}};
  keep(mixed.Run(step3), 1, 1);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t row = 0; row < got.size(); ++row) ASSERT_EQ(got[row], expected[row]) << "row " << row;
}

INSTANTIATE_TEST_SUITE_P(IsaAndThreads, LlamaBatchTest,
                         ::testing::Values(std::pair(CpuIsa::kPortable, 1), std::pair(CpuIsa::kPortable, 2),
                                           std::pair(CpuIsa::kAuto, 1), std::pair(CpuIsa::kAuto, 2)));

TEST(LlamaTest, TheNumberOfThreadsDoesNotChangeABit) {
  const std::vector<Chunk> chunk = {{0, SomeTokens(60, 9), false}};
  const Loaded one = Load({}, CpuIsa::kAuto, 1), three = Load({}, CpuIsa::kAuto, 3);
  EXPECT_EQ(ModelRunner(one.model.get(), one.backend.get(), 1, 4).Run(chunk),
            ModelRunner(three.model.get(), three.backend.get(), 1, 4).Run(chunk));
}

TEST(LlamaTest, LogitsCanBeAskedForInAnyOrderAndOfScatteredRows) {
  const Loaded loaded = Load({});
  const std::unique_ptr<KvCache> cache = *KvCache::Create(loaded.model->shape(), 1, loaded.backend.get());
  ForwardBatch batch;
  for (int32_t i = 0; i < 8; ++i) {
    batch.token_ids.push_back(10 + i);
    batch.positions.push_back(i);
    batch.kv_slots.push_back({.page = 0, .token = i});
  }
  batch.entries = {{.page = 0, .num_valid = 8}};
  batch.prefill_tiles = {{.row = 0, .num_queries = 8, .first_position = 0, .left_window = kernels::kNoLeftWindow}};
  batch.prefill_lists.assign(4, {.entries_begin = 0, .num_entries = 1});
  batch.logit_rows = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto vocab = static_cast<size_t>(loaded.model->shape().vocab_size);
  ASSERT_THAT(loaded.model->Forward(batch, *cache), IsOk());
  const std::span<float> all = *loaded.model->Logits(0, 8);
  const std::vector<float> kept(all.begin(), all.end());
  const auto row = [&](int64_t i) {
    return std::vector<float>(kept.begin() + i * static_cast<int64_t>(vocab),
                              kept.begin() + (i + 1) * static_cast<int64_t>(vocab));
  };
  batch.logit_rows = {1, 4, 5, 7};
  ASSERT_THAT(loaded.model->Forward(batch, *cache), IsOk());
  for (const auto& [index, expected] : {std::pair(3, 7), std::pair(0, 1), std::pair(2, 5), std::pair(1, 4)}) {
    const std::span<float> logits = *loaded.model->Logits(index, 1);
    EXPECT_EQ(std::vector<float>(logits.begin(), logits.end()), row(expected));
  }
  EXPECT_TRUE(loaded.model->Logits(4, 0)->empty());
}

// As a GPU's kernels want it.
class Bf16Backend final : public FaultyBackend {
 public:
  using FaultyBackend::FaultyBackend;
  kernels::Activation activation() const override { return kernels::Activation::kBf16; }
};

TEST(LlamaTest, ShapesThatBf16ActivationsCannotHaveAreRefusedByName) {
  DeviceFaults no_faults;
  Bf16Backend backend(*CpuBackend::Create({}), &no_faults);
  const std::string bytes = TinyCheckpointBytes({.feed_forward_width = 100, .matrix_type = GgufTensorType::kF32});
  const auto file = GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes))));
  ASSERT_THAT(file, IsOk());
  const auto model = LoadModel(*file, &backend, {});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model.status().message()),
              testing::HasSubstr("feed_forward_length: expected a multiple of 8 of at most"));
  EXPECT_THAT(std::string(model.status().message()), testing::HasSubstr("got 100"));
}

TEST(LlamaTest, ShapeAndInfoComeFromTheFile) {
  const Loaded loaded = Load({.context_tokens = 777});
  const ModelShape& shape = loaded.model->shape();
  EXPECT_EQ(shape.num_layers, 2);
  EXPECT_EQ(shape.num_heads, 4);
  EXPECT_EQ(shape.num_kv_heads, 2);
  EXPECT_EQ(shape.head_dim, 16);
  EXPECT_EQ(shape.max_context_tokens, 777);
  EXPECT_EQ(shape.vocab_size, static_cast<int64_t>(TinyVocabulary().size()));
  EXPECT_EQ(shape.page_tokens, 16);
  EXPECT_EQ(loaded.model->info().architecture, "llama");
  EXPECT_EQ(loaded.model->info().name, "tiny");
  EXPECT_GT(loaded.model->info().num_parameters, 0);
  EXPECT_LE(loaded.model->info().weight_bytes, loaded.backend->MemoryBytes(MemoryKind::kWeights));
}

TEST(LlamaTest, TheWeightsIdTellsNetworksApart) {
  EXPECT_EQ(Load({}).model->info().weights_id, Load({}).model->info().weights_id);
  EXPECT_NE(Load({}).model->info().weights_id, Load({.seed = 2}).model->info().weights_id);
  EXPECT_NE(Load({}).model->info().weights_id, Load({.rope_freq_base = 5000}).model->info().weights_id);
}

}  // namespace
}  // namespace farspan
