// SPDX-License-Identifier: Apache-2.0
// Ids equal those of the Hugging Face tokenizers package, on a synthetic vocabulary in every run and on SmolLM2's where
// FARSPAN_TEST_MODEL names its file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/golden.h"
#include "tests/engine/text/test_vocabulary.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

TEST(SyntheticGoldenTest, IdsEqualTheReference) {
  Vocabulary vocabulary = ReadSyntheticVocabulary();
  for (const std::string pre_tokenizer : {"gpt-2", "smollm"}) {
    vocabulary.pre_tokenizer = pre_tokenizer;
    EXPECT_GE(CompareWithGoldenIds(*MakeTokenizer(vocabulary), "synthetic." + pre_tokenizer), 4700);
  }
}

TEST(SyntheticGoldenTest, IdsEqualTheReferenceWhenMergesComeInNoNaturalOrder) {
  Vocabulary vocabulary = ReadSyntheticVocabulary();
  std::reverse(vocabulary.merges.begin(), vocabulary.merges.end());
  EXPECT_GE(CompareWithGoldenIds(*MakeTokenizer(vocabulary), "synthetic_reversed.gpt-2"), 4700);
}

TEST(SyntheticGoldenTest, IdsEqualTheReferenceWithUserDefinedTokens) {
  Vocabulary vocabulary = ReadSyntheticVocabulary();
  for (const char* text : {"  ", "    ", "\n\n", "\r\n", "don", "don't", "the ", "\u2192", "\u4F60\u597D", "123", "AAA",
                           "\u0301", "<tag>"}) {
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(TokenType::kUserDefined);
  }
  EXPECT_GE(CompareWithGoldenIds(*MakeTokenizer(vocabulary), "synthetic_literals.gpt-2"), 4700);
}

TEST(SyntheticGoldenTest, ChatsEqualTheJinjaTemplate) {
  Vocabulary vocabulary = ReadSyntheticVocabulary();
  vocabulary.pre_tokenizer = "smollm";
  const auto tokenizer = MakeTokenizer(vocabulary);
  const auto chat_template = ChatTemplate::Create(
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
      "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
      "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
      *tokenizer);
  ASSERT_THAT(chat_template, IsOk());
  CompareWithGoldenChats(*chat_template, "synthetic");
}

// As the words show it: a letter joins "a", a number "1", white space a tab.
char ClassOf(char32_t code_point) {
  for (const auto& [name, neighbour] : {std::pair{'L', "a"}, {'N', "1"}, {'S', "\t"}}) {
    std::string text = neighbour;
    AppendUtf8(code_point, text);
    WordScanner words(PreTokenizer::kGpt2, text);
    if (words.Next()->size() == text.size()) return name;
  }
  return 'O';
}

TEST(UnicodeClassesTest, EveryAssignedCodePointIsOfTheReferencesClass) {
  int64_t num_compared = 0;
  for (const std::string& line : ReadGoldenLines("unicode_classes.txt")) {
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    uint32_t first = 0;
    uint32_t last = 0;
    ASSERT_TRUE(absl::SimpleHexAtoi(fields[0], &first) && absl::SimpleHexAtoi(fields[1], &last)) << line;
    for (uint32_t code_point = first; code_point <= last; ++code_point, ++num_compared) {
      EXPECT_EQ(ClassOf(code_point), fields[2][0]) << std::hex << code_point;
    }
  }
  EXPECT_GT(num_compared, 280000);
}

class ModelGoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("FARSPAN_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "FARSPAN_TEST_MODEL names no model file";
    const auto file = GgufFile::Open(path);
    ASSERT_THAT(file, IsOk());
    auto vocabulary = ReadGgufVocabulary(file->metadata());
    ASSERT_THAT(vocabulary, IsOk());
    vocabulary_ = *std::move(vocabulary);
  }

  Vocabulary vocabulary_;
};

TEST_F(ModelGoldenTest, IdsEqualTheReference) {
  ASSERT_EQ(vocabulary_.pre_tokenizer, "smollm");
  EXPECT_GE(CompareWithGoldenIds(*MakeTokenizer(vocabulary_), "smollm2.smollm"), 4700);
  vocabulary_.pre_tokenizer = "gpt-2";
  EXPECT_GE(CompareWithGoldenIds(*MakeTokenizer(vocabulary_), "smollm2.gpt-2"), 4700);
}

TEST_F(ModelGoldenTest, ChatsEqualTheModelsOwnTemplate) {
  const auto tokenizer = MakeTokenizer(vocabulary_);
  const auto chat_template = ChatTemplate::Create(vocabulary_.chat_template, *tokenizer);
  ASSERT_THAT(chat_template, IsOk());
  CompareWithGoldenChats(*chat_template, "smollm2");
}

TEST_F(ModelGoldenTest, CountsTheTokensOfALicence) {
  std::ifstream file("/usr/share/common-licenses/LGPL-2.1");
  if (!file.good()) GTEST_SKIP() << "there is no /usr/share/common-licenses/LGPL-2.1";
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto ids = MakeTokenizer(vocabulary_)->Encode(text);
  ASSERT_THAT(ids, IsOk());
  EXPECT_EQ(ids->size(), 5865u);
}

}  // namespace
}  // namespace farspan
