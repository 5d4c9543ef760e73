// SPDX-License-Identifier: Apache-2.0
#include "clients/loadgen/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace farspan::loadgen {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> Ids(const LoadPrompt& prompt) {
  return {prompt.prompt.tokens().ids().begin(), prompt.prompt.tokens().ids().end()};
}

TEST(RandomDatasetTest, LengthsAreExactAndTokensOfTheVocabulary) {
  const auto dataset = NewRandomDataset({.vocabulary_size = 7, .input_tokens = 200, .output_tokens = 9, .seed = 1});
  const LoadPrompt prompt = dataset->At(0);
  EXPECT_EQ(prompt.output_tokens, 9);
  ASSERT_EQ(prompt.prompt.tokens().ids_size(), 200);
  for (const int32_t id : prompt.prompt.tokens().ids()) {
    EXPECT_GE(id, 0);
    EXPECT_LT(id, 7);
  }
  EXPECT_FALSE(dataset->num_distinct().has_value());
}

TEST(RandomDatasetTest, AnIndexHasOnePromptPerSeed) {
  const RandomDatasetOptions options{.vocabulary_size = 1000, .input_tokens = 50, .seed = 1};
  RandomDatasetOptions other = options;
  other.seed = 2;
  const auto dataset = NewRandomDataset(options);
  const std::vector<int32_t> third = Ids(dataset->At(3));
  dataset->At(9);
  EXPECT_EQ(Ids(dataset->At(3)), third);
  EXPECT_NE(Ids(dataset->At(4)), third);
  EXPECT_NE(Ids(NewRandomDataset(other)->At(3)), third);
}

TEST(RandomDatasetTest, LengthsSpreadOverTheWholeRange) {
  const auto dataset =
      NewRandomDataset({.vocabulary_size = 10, .input_tokens = 10, .output_tokens = 4, .range_ratio = 0.5, .seed = 1});
  std::set<int> inputs;
  std::set<int64_t> outputs;
  for (size_t i = 0; i < 500; ++i) {
    const LoadPrompt prompt = dataset->At(i);
    inputs.insert(prompt.prompt.tokens().ids_size());
    outputs.insert(prompt.output_tokens);
  }
  EXPECT_EQ(*inputs.begin(), 5);
  EXPECT_EQ(*inputs.rbegin(), 15);
  EXPECT_EQ(outputs, (std::set<int64_t>{2, 3, 4, 5, 6}));
}

TEST(RandomDatasetTest, ThePrefixIsSharedAndComesOnTop) {
  const auto dataset = NewRandomDataset({.vocabulary_size = 1000, .input_tokens = 20, .prefix_tokens = 30, .seed = 1});
  const std::vector<int32_t> first = Ids(dataset->At(0));
  const std::vector<int32_t> second = Ids(dataset->At(1));
  ASSERT_EQ(first.size(), 50u);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 30, second.begin()));
  EXPECT_FALSE(std::equal(first.begin() + 30, first.end(), second.begin() + 30));
}

TEST(CustomDatasetTest, JsonLinesMaySayHowManyTokensToAskFor) {
  const auto dataset = ParseCustomDataset("{\"prompt\": \"one\"}\r\n\n{\"prompt\": \"two\", \"output_tokens\": 5}",
                                          "f.jsonl", /*json_lines=*/true, 64);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->num_distinct(), 2u);
  EXPECT_EQ((*dataset)->At(0).prompt.text(), "one");
  EXPECT_EQ((*dataset)->At(0).output_tokens, 64);
  EXPECT_EQ((*dataset)->At(1).output_tokens, 5);
  EXPECT_EQ((*dataset)->At(2).prompt.text(), "one") << "prompts repeat from the start";
}

TEST(CustomDatasetTest, PlainFilesHoldAPromptALine) {
  const auto dataset = ParseCustomDataset("{\"not\": json\n  two words \n", "f.txt", /*json_lines=*/false, 8);
  ASSERT_TRUE(dataset.ok());
  EXPECT_EQ((*dataset)->At(0).prompt.text(), "{\"not\": json");
  EXPECT_EQ((*dataset)->At(1).prompt.text(), "  two words ");
}

TEST(CustomDatasetTest, ABadLineIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"{\"prompt\": \"a\"}\n{\"prompt\": ", "f, line 2: is not valid JSON"},
      {"\n\n[1]", "f, line 3: must be an object with a text under \"prompt\""},
      {"{\"prompt\": 5}", "f, line 1: must be an object with a text under \"prompt\""},
      {"{\"prompt\": \"\"}", "f, line 1: \"prompt\" must not be empty"},
      {"{\"prompt\": \"a\", \"output_tokens\": 0}", "f, line 1: \"output_tokens\" must be a whole number"},
      {"{\"prompt\": \"a\", \"output_tokens\": 1e300}", "f, line 1: \"output_tokens\" must be a whole number"},
      {"{\"prompt\": \"a\", \"output_tokens\": 18446744073709551615}", "f, line 1: \"output_tokens\" must be"},
      {" \n\t\n", "f: holds no prompt"},
      {"", "f: holds no prompt"}};
  for (const auto& [content, message] : cases) {
    const auto dataset = ParseCustomDataset(content, "f", /*json_lines=*/true, 8);
    ASSERT_FALSE(dataset.ok()) << content;
    EXPECT_EQ(dataset.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(dataset.status().message()), HasSubstr(message));
  }
}

TEST(CustomDatasetTest, DeepNestingIsOneBadLine) {
  const std::string deep(1 << 20, '[');
  EXPECT_FALSE(ParseCustomDataset(deep, "f", /*json_lines=*/true, 8).ok());
}

TEST(CustomDatasetTest, FilesAreReadByTheirName) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/prompts.jsonl");
  std::ofstream(path) << "{\"prompt\": \"hello\"}\n";
  const auto dataset = ReadCustomDataset(path, 8);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ((*dataset)->At(0).prompt.text(), "hello");
  std::remove(path.c_str());
  const absl::Status missing = ReadCustomDataset(path, 8).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("No such file"));
  EXPECT_EQ(ReadCustomDataset("/", 8).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace farspan::loadgen
