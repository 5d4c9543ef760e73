// SPDX-License-Identifier: Apache-2.0
// What holds for every text: the ids are those of the definition, and they decode to the text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <functional>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "engine/text/merge_table.h"
#include "engine/text/pre_tokenizer.h"
#include "tests/engine/text/naive_encode.h"
#include "tests/engine/text/nasty_vocabularies.h"

namespace farspan {
namespace {

TEST(EncodePropertyTest, IdsEqualTheDefinition) {
  constexpr std::string_view kParts[] = {"a",         "a",          "b",
                                         "ab",        "aa",         " ",
                                         "  ",        "\n",         "\r\n",
                                         "\t",        "1",          "12",
                                         "\u00B2",    "'s",         "'",
                                         "'T",        "!",          "!!",
                                         "e",         "\u0301",     "\u00E9",
                                         "\u200D",    "\u00A0",     "\u3000",
                                         "\u2028",    "\U0001F600", "\u4F60",
                                         "<a>",       "<",          "|>",
                                         "<|",        "_",          std::string_view("\0", 1),
                                         "\U00010348"};
  std::mt19937 random(1);
  for (const Vocabulary& vocabulary : NastyVocabularies()) {
    const auto tokenizer = MakeTokenizer(vocabulary);
    for (int round = 0; round < 1500; ++round) {
      std::string text;
      // Long words of few symbols now and then, so that both ways of merging are met.
      const size_t num_kinds = round % 3 == 0 ? 5 : std::size(kParts);
      for (size_t parts = random() % (round % 3 == 0 ? 120 : 24); parts > 0; --parts)
        text += kParts[random() % num_kinds];
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      ASSERT_EQ(*ids, NaiveEncode(vocabulary, text)) << absl::CEscape(text);
      ASSERT_EQ(*tokenizer->Decode(*ids), text);
    }
  }
}

TEST(EncodePropertyTest, OneTokenizerServesSeveralThreads) {
  const auto tokenizer = MakeTokenizer(NastyVocabularies()[2]);
  const std::string text = "abab!a <a>b " + std::string(100, 'a') + " e\u0301 12 don't\n\n\n\n\u00A0x";
  const std::vector<TokenId> expected = *tokenizer->Encode(text);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(*tokenizer->Encode(text), expected);
        EXPECT_EQ(*tokenizer->Decode(expected), text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::string Repeat(std::string_view part, size_t size_bytes) {
  std::string text;
  while (text.size() < size_bytes) text += part;
  return text;
}

constexpr size_t kMebibyte = size_t{1} << 20;

// Long runs of everything that has overflowed a stack or taken quadratic time somewhere.
std::vector<std::string> LongTexts(size_t size_bytes) {
  std::vector<std::string> texts = {Repeat("\n", 40000)};
  for (const std::string_view part : {"A", "a", "ab", "\u0301", "e\u0301", " ", " \n", "\t", "1", "'", "'s", "!",
                                      "\u4F60", "\U0001F600", "a ", "\r\n", "<a>", "<|im_start|>", "\u3000"}) {
    texts.push_back(Repeat(part, size_bytes));
  }
  texts.push_back(Repeat(" ", size_bytes) + "a");
  texts.push_back(std::string(size_bytes, '\0'));
  return texts;
}

void RunOnSmallStack(std::function<void()> body) {
  constexpr size_t kStackBytes = size_t{256} << 10;
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, kStackBytes), 0);
  pthread_t thread;
  const auto run = [](void* argument) -> void* {
    (*static_cast<std::function<void()>*>(argument))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &body), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

TEST(LongTextTest, EncodesAndDecodesOnASmallStack) {
  size_t size_bytes = kMebibyte;
  for (const Vocabulary& vocabulary : NastyVocabularies()) {
    const auto tokenizer = MakeTokenizer(vocabulary);
    for (const std::string& text : LongTexts(std::exchange(size_bytes, kMebibyte / 16))) {
      RunOnSmallStack([&] {
        const auto ids = tokenizer->Encode(text);
        ASSERT_TRUE(ids.ok()) << ids.status();
        EXPECT_TRUE(*tokenizer->Decode(*ids) == text) << absl::CEscape(text.substr(0, 16));
      });
    }
  }
}

// Work, not time: a machine under load cannot make this fail.
TEST(LongTextTest, MergingLooksUpLessThanThreePairsForEachSymbol) {
  MergeTable merges;
  constexpr TokenId kNumSymbols = 3;
  // All pairs of the three symbols and of their products, the higher products first: ranks in no natural order.
  TokenId product = 100000;
  for (TokenId left = 11; left >= 0; --left) {
    for (TokenId right = 0; right < 12; ++right) {
      merges.Add(left, right, left < kNumSymbols && right < kNumSymbols ? 3 + left * 3 + right : product++);
    }
  }
  std::mt19937 random(1);
  for (const int64_t size : {2, 31, 32, 33, 1000, 1 << 20}) {
    for (const uint32_t num_kinds : {1, 2, 3}) {
      std::vector<TokenId> word(static_cast<size_t>(size));
      for (TokenId& symbol : word) symbol = static_cast<TokenId>(random() % num_kinds);
      EXPECT_LT(merges.Apply(word), 3 * size);
      EXPECT_LE(static_cast<int64_t>(word.size()), size / 2 + 1);
    }
  }
}

TEST(LongTextTest, WordsFollowEachOtherWithoutAGap) {
  for (const PreTokenizer pre_tokenizer : {PreTokenizer::kGpt2, PreTokenizer::kSmollm}) {
    for (const std::string& text : LongTexts(kMebibyte / 16)) {
      WordScanner words(pre_tokenizer, text);
      const char* end = text.data();
      while (const std::optional<std::string_view> word = words.Next()) {
        ASSERT_FALSE(word->empty());
        ASSERT_EQ(word->data(), end);
        end += word->size();
      }
      EXPECT_EQ(end, text.data() + text.size());
    }
  }
}

}  // namespace
}  // namespace farspan
