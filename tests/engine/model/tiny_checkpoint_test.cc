// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "engine/model/gguf.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

TEST(TinyCheckpointTest, TheFileParsesAndGoesAwayWithItsOwner) {
  std::string path;
  {
    const TinyCheckpoint checkpoint;
    path = checkpoint.path();
    const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
    ASSERT_THAT(file, IsOk());
    EXPECT_EQ(file->tensors().size(), 2u * 9 + 3);
    EXPECT_EQ(*file->metadata().GetString("general.architecture"), "llama");
    EXPECT_EQ(file->FindTensor("token_embd.weight")->rows(), static_cast<int64_t>(TinyVocabulary().size()));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(TinyCheckpointTest, EqualOptionsGiveEqualBytesAndAnotherSeedOtherWeights) {
  EXPECT_EQ(TinyCheckpointBytes({.seed = 7}), TinyCheckpointBytes({.seed = 7}));
  EXPECT_NE(TinyCheckpointBytes({.seed = 7}), TinyCheckpointBytes({.seed = 8}));
}

TEST(TinyCheckpointTest, EveryMergeJoinsTokensOfTheVocabularyIntoANewOne) {
  const std::vector<std::string> tokens = TinyVocabulary();
  EXPECT_EQ(std::set<std::string>(tokens.begin(), tokens.end()).size(), tokens.size());
  const TinyCheckpoint checkpoint;
  const absl::StatusOr<GgufFile> file = GgufFile::Open(checkpoint.path());
  ASSERT_THAT(file, IsOk());
  const absl::StatusOr<std::span<const std::string>> merges = file->metadata().GetStrings("tokenizer.ggml.merges");
  ASSERT_THAT(merges, IsOk());
  for (const std::string& merge : *merges) {
    const size_t space = merge.find(' ');
    for (const std::string& side : {merge.substr(0, space), merge.substr(space + 1)}) {
      EXPECT_THAT(tokens, ::testing::Contains(side)) << merge;
    }
  }
}

}  // namespace
}  // namespace farspan
