// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "engine/model/gguf.h"
#include "engine/text/bpe.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace farspan {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

GgufValue Text(std::string text) { return {GgufValueType::kString, std::move(text)}; }
GgufValue Texts(std::vector<std::string> texts) { return {GgufValueType::kArray, std::move(texts)}; }
GgufValue Uint(uint64_t value) { return {GgufValueType::kUint32, value}; }

// Three tokens and no more than the keys that must be there, but for `changes`; an absent value removes the key.
absl::StatusOr<Vocabulary> Read(const std::map<std::string, std::optional<GgufValue>>& changes) {
  std::map<std::string, std::optional<GgufValue>> values = {
      {"tokenizer.ggml.model", Text("gpt2")},
      {"tokenizer.ggml.pre", Text("smollm")},
      {"tokenizer.ggml.tokens", Texts({"<|end|>", "a", "b", "ab"})},
      {"tokenizer.ggml.merges", Texts({"a b"})},
  };
  for (const auto& [key, value] : changes) values[key] = value;
  GgufMetadata metadata;
  for (const auto& [key, value] : values) {
    if (value.has_value()) metadata.Insert(std::string(key), GgufValue(*value));
  }
  return ReadGgufVocabulary(metadata);
}

GgufValue Int32s(const std::vector<int32_t>& values) {
  GgufNumbers numbers{GgufValueType::kInt32, std::vector<std::byte>(values.size() * sizeof(int32_t))};
  std::memcpy(numbers.bytes.data(), values.data(), numbers.bytes.size());
  return {GgufValueType::kArray, std::move(numbers)};
}

TEST(GgufVocabularyTest, ReadsWhatIsThereAndLeavesTheRestEmpty) {
  const auto vocabulary = Read({{"tokenizer.ggml.token_type", Int32s({3, 1, 4, 5})},
                                {"tokenizer.ggml.eos_token_id", Uint(3)},
                                {"tokenizer.chat_template", Text("{{ x }}")}});
  ASSERT_THAT(vocabulary, IsOk());
  EXPECT_EQ(vocabulary->pre_tokenizer, "smollm");
  EXPECT_THAT(vocabulary->tokens, ElementsAre("<|end|>", "a", "b", "ab"));
  EXPECT_THAT(vocabulary->types,
              ElementsAre(TokenType::kControl, TokenType::kNormal, TokenType::kUserDefined, TokenType::kUnused));
  EXPECT_THAT(vocabulary->merges, ElementsAre("a b"));
  EXPECT_EQ(vocabulary->bos_id, std::nullopt);
  EXPECT_EQ(vocabulary->eos_id, 3);
  EXPECT_FALSE(vocabulary->add_bos);
  EXPECT_EQ(vocabulary->chat_template, "{{ x }}");
}

TEST(GgufVocabularyTest, RefusesOtherKindsOfVocabulary) {
  EXPECT_THAT(Read({{"tokenizer.ggml.model", Text("llama")}}),
              StatusIs(kInvalid, "key tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), got 'llama'"));
  EXPECT_THAT(Read({{"tokenizer.ggml.token_type", Int32s({3, 1, 6, 1})}}),
              StatusIs(kInvalid, HasSubstr("expected 1 (normal) to 5 (unused) for token 2, got 6")));
}

TEST(GgufVocabularyTest, NamesTheKeyThatIsMissingOrOutOfRange) {
  for (const char* key :
       {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    EXPECT_THAT(Read({{key, std::nullopt}}), StatusIs(kInvalid, HasSubstr(key)));
    EXPECT_THAT(Read({{key, Uint(1)}}), StatusIs(kInvalid, HasSubstr(key)));
  }
  EXPECT_THAT(Read({{"tokenizer.ggml.bos_token_id", Uint(4)}}), StatusIs(kInvalid, HasSubstr("bos_token_id")));
}

TEST(GgufVocabularyTest, ReadsATokenizerFromAFile) {
  const TinyCheckpoint checkpoint;
  const auto file = GgufFile::Open(checkpoint.path());
  ASSERT_THAT(file, IsOk());
  auto vocabulary = ReadGgufVocabulary(file->metadata());
  ASSERT_THAT(vocabulary, IsOk());
  EXPECT_EQ(vocabulary->tokens, TinyVocabulary());
  const auto tokenizer = CreateBpeTokenizer(*std::move(vocabulary));
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ((*tokenizer)->FindControl("<|im_end|>"), kTinyImEndId);
  EXPECT_EQ(*(*tokenizer)->Decode(*(*tokenizer)->Encode("The code is 48213.")), "The code is 48213.");
}

}  // namespace
}  // namespace farspan
