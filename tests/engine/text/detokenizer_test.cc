// SPDX-License-Identifier: Apache-2.0
#include "engine/text/detokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engine/text/utf8.h"
#include "tests/engine/text/test_vocabulary.h"

namespace farspan {
namespace {

TEST(DetokenizerTest, HoldsBackAnIncompleteCodePoint) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(ByteId('a')), "a");
  for (const char byte : {'\xF0', '\x9F', '\x98'}) EXPECT_EQ(detokenizer.Push(ByteId(byte)), "");
  EXPECT_EQ(detokenizer.Push(ByteId('\x80')), "\U0001F600");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerTest, HandsOutWhatPrecedesTheIncompleteCodePoint) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary({{"a", "\xE2"}}));
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(259), "a");
  EXPECT_EQ(detokenizer.Push(ByteId('\x82')), "");
  EXPECT_EQ(detokenizer.Push(ByteId('\xAC')), "\u20AC");
}

TEST(DetokenizerTest, FlushReplacesAnIncompleteTailOnce) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(ByteId('\xE2')), "");
  EXPECT_EQ(detokenizer.Push(ByteId('\x82')), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerTest, ReplacesBytesThatCanNeverBecomeText) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(ByteId('\xE2')), "");
  EXPECT_EQ(detokenizer.Push(ByteId('a')), "\uFFFDa");
  EXPECT_EQ(detokenizer.Push(ByteId('\xFF')), "\uFFFD");
}

TEST(DetokenizerTest, SkipsControlTokensOnlyWhenAsked) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  EXPECT_EQ(Detokenizer(*tokenizer, true).Push(kImEnd), "");
  EXPECT_EQ(Detokenizer(*tokenizer, false).Push(kImEnd), "<|im_end|>");
}

TEST(DetokenizerTest, IgnoresIdsOutsideTheVocabulary) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary());
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(100000), "");
  EXPECT_EQ(detokenizer.Push(-1), "");
}

TEST(DetokenizerTest, PiecesAreValidAndTogetherAreTheWholeDecode) {
  const auto tokenizer = MakeTokenizer(MakeVocabulary({{"\xE2", "\x82"}, {"\x98", "\x80"}, {"\xF0", "\x9F"}}));
  std::mt19937 random(1);
  // Mostly bytes that begin or continue a code point, so that every state is met.
  const std::vector<TokenId> likely = {ByteId('a'),
                                       ByteId('\xE2'),
                                       ByteId('\x82'),
                                       ByteId('\xAC'),
                                       ByteId('\xF0'),
                                       ByteId('\x9F'),
                                       ByteId('\x80'),
                                       ByteId('\xED'),
                                       259,
                                       260,
                                       261,
                                       kImEnd};
  for (int round = 0; round < 2000; ++round) {
    const bool skip = round % 2 == 0;
    std::vector<TokenId> ids(random() % 24);
    for (TokenId& id : ids) id = random() % 8 == 0 ? TokenId(random() % 262) : likely[random() % likely.size()];
    Detokenizer detokenizer(*tokenizer, skip);
    std::string text;
    for (const TokenId id : ids) {
      const std::string piece = detokenizer.Push(id);
      EXPECT_EQ(FindInvalidUtf8(piece), std::nullopt);
      text += piece;
    }
    text += detokenizer.Flush();
    EXPECT_EQ(text, *tokenizer->Decode(ids, skip));
  }
}

}  // namespace
}  // namespace farspan
