// SPDX-License-Identifier: Apache-2.0
// A file that is a valid GGUF and not a model that we can run is refused by name, before anything is served.
#include "engine/model/model_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "engine/backend/cpu_backend.h"
#include "tests/engine/model/edited_checkpoint.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

struct Loaded {
  std::unique_ptr<Backend> backend = *CpuBackend::Create({.isa = CpuIsa::kPortable});
  absl::StatusOr<std::unique_ptr<Model>> model;
};

Loaded Load(const EditedCheckpoint& checkpoint, const ModelOptions& options = {.max_batch_rows = 4}) {
  const std::string bytes = checkpoint.Bytes();
  const GgufFile file = *GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes))));
  Loaded loaded;
  loaded.model = LoadModel(file, loaded.backend.get(), options);
  return loaded;
}

void PutF32(EditedCheckpoint& checkpoint, const std::string& name, size_t index, float value) {
  std::memcpy(checkpoint.tensors.at(name).data.data() + index * sizeof(value), &value, sizeof(value));
}

struct Edit {
  std::string kind;
  std::function<void(EditedCheckpoint&)> apply;
  std::vector<std::string> named;
};

// Drops `key`, then writes it as a number.
Edit Number(std::string kind, std::string key, uint32_t value, std::vector<std::string> expected) {
  expected.insert(expected.begin(), "key " + key);
  return {std::move(kind),
          [key, value](EditedCheckpoint& file) {
            file.floats.erase(key);
            file.numbers[key] = value;
          },
          std::move(expected)};
}

Edit Missing(std::string kind, std::string key) {
  return {std::move(kind),
          [key](EditedCheckpoint& file) {
            file.texts.erase(key);
            file.numbers.erase(key);
            file.floats.erase(key);
          },
          {"key " + key, "no such key"}};
}

std::vector<Edit> KeyEdits() {
  return {
      {"OtherArchitecture",
       [](EditedCheckpoint& file) { file.texts["general.architecture"] = "mamba\n"; },
       {"key general.architecture", "{llama}", "'mamba\\n'"}},
      Missing("NoArchitecture", "general.architecture"),
      Missing("NoLayers", "llama.block_count"),
      Missing("NoWidth", "llama.embedding_length"),
      Missing("NoFeedForward", "llama.feed_forward_length"),
      Missing("NoHeads", "llama.attention.head_count"),
      Missing("NoContext", "llama.context_length"),
      Missing("NoEpsilon", "llama.attention.layer_norm_rms_epsilon"),
      Number("ZeroLayers", "llama.block_count", 0, {"from 1 to", "uint32 0"}),
      Number("ManyLayers", "llama.block_count", 0xffffffff, {"from 1 to", "uint32 4294967295"}),
      Number("ZeroWidth", "llama.embedding_length", 0, {"from 1 to"}),
      Number("ZeroHeads", "llama.attention.head_count", 0, {"from 1 to"}),
      Number("ZeroKvHeads", "llama.attention.head_count_kv", 0, {"from 1 to"}),
      Number("KvHeadsDoNotDivide", "llama.attention.head_count_kv", 3, {"a divisor of the 4 heads", "got 3"}),
      Number("HeadDimOfPartialVectors", "llama.attention.key_length", 20, {"a multiple of 8 up to 512", "got 20"}),
      Number("HugeHeadDim", "llama.attention.key_length", 1 << 20, {"from 1 to"}),
      Number("ValueLengthDiffers", "llama.attention.value_length", 8, {"the key length 16", "got 8"}),
      Number("RopeBeyondHead", "llama.rope.dimension_count", 18, {"from 2 to 16", "uint32 18"}),
      Number("OddRope", "llama.rope.dimension_count", 7, {"even", "got 7"}),
      Number("FreqBaseIsInteger", "llama.rope.freq_base", 10000, {"finite float", "uint32 10000"}),
      Number("ZeroContext", "llama.context_length", 0, {"from 1 to"}),
      Number("VocabularyDiffers", "llama.vocab_size", 7, {"from 305 to 305", "uint32 7"}),
      Number("OneShardOfThree", "split.count", 3, {"from 0 to 1", "uint32 3"}),
      Number("Experts", "llama.expert_count", 8, {"0", "got 8"}),
      Number("SlidingWindow", "llama.attention.sliding_window", 1024, {"whole context of 4096", "got 1024"}),
      {"MoreTokensThanRows",
       [](EditedCheckpoint& file) { file.lists["tokenizer.ggml.tokens"].push_back("one more"); },
       {"key tokenizer.ggml.tokens", "at most 305 tokens", "token_embd.weight", "got 306"}},
      {"FreqBaseNan",
       [](EditedCheckpoint& file) { file.floats["llama.rope.freq_base"] = NAN; },
       {"key llama.rope.freq_base", "finite float", "nan"}},
      {"EpsilonZero",
       [](EditedCheckpoint& file) { file.floats["llama.attention.layer_norm_rms_epsilon"] = 0; },
       {"key llama.attention.layer_norm_rms_epsilon", "float32 0"}},
      {"YarnScaling",
       [](EditedCheckpoint& file) { file.texts["llama.rope.scaling.type"] = "yarn"; },
       {"key llama.rope.scaling.type", "none, linear", "'yarn'"}},
      {"LinearWithoutFactor",
       [](EditedCheckpoint& file) { file.texts["llama.rope.scaling.type"] = "linear"; },
       {"key llama.rope.scaling.factor", "no such key"}},
      {"NotCausal",
       [](EditedCheckpoint& file) { file.flags["llama.attention.causal"] = false; },
       {"key llama.attention.causal", "true"}},
      {"NameIsNumber",
       [](EditedCheckpoint& file) {
         file.texts.erase("general.name");
         file.numbers["general.name"] = 4;
       },
       {"key general.name", "a string", "uint32 4"}},
  };
}

void PutZeroRopeFactors(EditedCheckpoint& file, int64_t count) {
  file.tensors["rope_freqs.weight"] = {.shape = {count},
                                       .data = std::string(static_cast<size_t>(count) * sizeof(float), '\0')};
}

std::vector<Edit> TensorEdits() {
  const auto drop = [](std::string kind, std::string name, std::string shape) -> Edit {
    return {std::move(kind),
            [name](EditedCheckpoint& file) { file.tensors.erase(name); },
            {"tensor " + name, shape, "no such tensor"}};
  };
  return {
      drop("NoEmbedding", "token_embd.weight", "64]"),
      drop("NoNorm", "output_norm.weight", "[64]"),
      drop("NoLayerTensor", "blk.1.ffn_down.weight", "[64, 96]"),
      {"TransposedMatrix",
       [](EditedCheckpoint& file) {
         file.tensors.at("blk.0.ffn_up.weight").shape = {64, 96};
       },
       {"tensor blk.0.ffn_up.weight", "expected [96, 64]", "got [64, 96]"}},
      {"EmbeddingOfOtherWidth",
       [](EditedCheckpoint& file) {
         file.tensors.at("token_embd.weight").shape = {610, 32};
       },
       {"tensor token_embd.weight", "64]", "got [610, 32]"}},
      {"ConfigOfMoreLayers",
       [](EditedCheckpoint& file) { file.numbers["llama.block_count"] = 3; },
       {"tensor blk.2.attn_norm.weight", "[64]", "no such tensor"}},
      {"ConfigOfFewerLayers",
       [](EditedCheckpoint& file) { file.numbers["llama.block_count"] = 1; },
       {"tensor blk.1.", "only tensors of the architecture"}},
      {"ConfigOfWiderFeedForward",
       [](EditedCheckpoint& file) { file.numbers["llama.feed_forward_length"] = 128; },
       {"tensor blk.0.ffn_gate.weight", "expected [128, 64]", "got [96, 64]"}},
      {"ConfigOfMoreKvHeads",
       [](EditedCheckpoint& file) { file.numbers["llama.attention.head_count_kv"] = 4; },
       {"tensor blk.0.attn_k.weight", "expected [64, 64]", "got [32, 64]"}},
      {"Bias",
       [](EditedCheckpoint& file) { file.tensors["blk.0.attn_q.bias"] = {.shape = {1}, .data = std::string(4, '\0')}; },
       {"tensor blk.0.attn_q.bias", "without biases", "[1]"}},
      {"UnknownTensor",
       [](EditedCheckpoint& file) {
         file.tensors["blk.0.attn_q_norm.weight"] = {.shape = {1}, .data = std::string(4, '\0')};
       },
       {"tensor blk.0.attn_q_norm.weight", "only tensors of the architecture"}},
      {"NanInNorm",
       [](EditedCheckpoint& file) { PutF32(file, "blk.1.ffn_norm.weight", 3, NAN); },
       {"tensor blk.1.ffn_norm.weight", "finite values"}},
      {"InfinityInScale",
       [](EditedCheckpoint& file) {
         constexpr uint16_t kInfinity = 0x7c00;
         std::memcpy(file.tensors.at("blk.0.attn_v.weight").data.data() + 40, &kInfinity, sizeof(kInfinity));
       },
       {"tensor blk.0.attn_v.weight", "NaN or infinity in row 1"}},
      {"RopeFactorsOfOtherSize",
       [](EditedCheckpoint& file) { PutZeroRopeFactors(file, 4); },
       {"tensor rope_freqs.weight", "expected [8]", "got [4]"}},
      {"RopeFactorsZero",
       [](EditedCheckpoint& file) { PutZeroRopeFactors(file, 8); },
       {"tensor rope_freqs.weight", "at least 1/4096"}},
  };
}

class RefusedModelTest : public ::testing::TestWithParam<Edit> {};

TEST_P(RefusedModelTest, NamesKeyOrTensorExpectedAndGot) {
  EditedCheckpoint checkpoint;
  GetParam().apply(checkpoint);
  const Loaded loaded = Load(checkpoint);
  ASSERT_EQ(loaded.model.status().code(), kInvalid) << loaded.model.status();
  for (const std::string& name : GetParam().named) {
    EXPECT_THAT(std::string(loaded.model.status().message()), HasSubstr(name));
  }
  EXPECT_EQ(loaded.backend->MemoryBytes(MemoryKind::kWeights), 0);
}

const auto kKindName = [](const auto& param_info) { return param_info.param.kind; };
INSTANTIATE_TEST_SUITE_P(Keys, RefusedModelTest, ::testing::ValuesIn(KeyEdits()), kKindName);
INSTANTIATE_TEST_SUITE_P(Tensors, RefusedModelTest, ::testing::ValuesIn(TensorEdits()), kKindName);

TEST(ModelRegistryTest, AnUneditedCheckpointLoads) { EXPECT_THAT(Load(EditedCheckpoint()).model, IsOk()); }

TEST(ModelRegistryTest, OptionalKeysMayBeAbsent) {
  EditedCheckpoint checkpoint({.num_kv_heads = 4});
  for (const char* key : {"llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length",
                          "llama.rope.dimension_count", "llama.vocab_size"}) {
    checkpoint.numbers.erase(key);
  }
  checkpoint.floats.erase("llama.rope.freq_base");
  checkpoint.texts.erase("general.name");
  const Loaded loaded = Load(checkpoint);
  ASSERT_THAT(loaded.model, IsOk());
  EXPECT_EQ((*loaded.model)->shape().num_kv_heads, 4);
  EXPECT_EQ((*loaded.model)->shape().head_dim, 16);
}

TEST(ModelRegistryTest, OptionsAreRefusedByName) {
  const EditedCheckpoint checkpoint({.context_tokens = 4096});
  EXPECT_THAT(Load(checkpoint, {.max_context_tokens = 4097}).model,
              StatusIs(kInvalid, "max_context_tokens: expected at most the model's 4096, got 4097"));
  EXPECT_THAT(Load(checkpoint, {.max_batch_rows = 0}).model, StatusIs(kInvalid, HasSubstr("max_batch_rows")));
  EXPECT_THAT(Load(checkpoint, {.page_tokens = 20}).model, StatusIs(kInvalid, HasSubstr("page_tokens")));
  const Loaded loaded = Load(checkpoint, {.max_batch_rows = 7, .max_context_tokens = 100});
  ASSERT_THAT(loaded.model, IsOk());
  EXPECT_EQ((*loaded.model)->shape().max_context_tokens, 100);
  EXPECT_EQ((*loaded.model)->max_batch_rows(), 7);
}

TEST(ModelRegistryTest, AModelsNameCannotBreakALogLine) {
  EditedCheckpoint checkpoint;
  checkpoint.texts["general.name"] = "a\n\xff" + std::string(1000, 'x');
  const Loaded loaded = Load(checkpoint);
  ASSERT_THAT(loaded.model, IsOk());
  EXPECT_THAT((*loaded.model)->info().name, ::testing::StartsWith("a\\n\\xffxxx"));
  EXPECT_LT((*loaded.model)->info().name.size(), 600u);
}

TEST(ModelRegistryTest, AFileCutBetweenOpeningAndLoadingIsAnErrorThatNamesTheTensor) {
  const TinyCheckpoint checkpoint;
  const std::unique_ptr<Backend> backend = *CpuBackend::Create({});
  const absl::StatusOr<GgufFile> file = GgufFile::Open(checkpoint.path());
  ASSERT_THAT(file, IsOk());
  std::filesystem::resize_file(checkpoint.path(), file->FindTensor("blk.1.attn_v.weight")->file_offset + 1);
  EXPECT_THAT(LoadModel(*file, backend.get(), {}),
              StatusIs(absl::StatusCode::kDataLoss,
                       ::testing::AllOf(HasSubstr("tensor blk.1.attn_v.weight"), HasSubstr("file ended"))));
}

TEST(ModelRegistryTest, ARefusalOfAFileNamesItsPath) {
  const TinyCheckpoint checkpoint;
  const std::unique_ptr<Backend> backend = *CpuBackend::Create({});
  EXPECT_THAT(LoadModel(checkpoint.path(), backend.get(), {.max_context_tokens = 1 << 20}),
              StatusIs(kInvalid, HasSubstr(checkpoint.path())));
}

}  // namespace
}  // namespace farspan
