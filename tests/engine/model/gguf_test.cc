// SPDX-License-Identifier: Apache-2.0
#include "engine/model/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>

#include "tests/engine/model/hostile_gguf.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// A file of the test's own, removed at its end.
class TempFile {
 public:
  explicit TempFile(std::string_view bytes) : path_(::testing::TempDir() + "/gguf_test_" + std::to_string(::getpid())) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

class GgufTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<GgufFile> parsed = GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes_))));
    ASSERT_THAT(parsed, IsOk());
    file_.emplace(*std::move(parsed));
  }

  const GgufMetadata& metadata() const { return file_->metadata(); }

  const std::string bytes_ = ValidGguf();
  std::optional<GgufFile> file_;
};

TEST_F(GgufTest, IntegersOfEveryWidthAreRead) {
  EXPECT_EQ(*metadata().GetUint("u8", 0, kMax), 200u);
  EXPECT_EQ(*metadata().GetUint("u16", 0, kMax), 60000u);
  EXPECT_EQ(*metadata().GetUint("u32", 0, kMax), 4'000'000'000u);
  EXPECT_EQ(*metadata().GetUint("u64", 0, kMax), kMax);
  EXPECT_THAT(*metadata().GetInts("ints"), ElementsAre(1, -2, 3));
}

TEST_F(GgufTest, TextFloatsAndBoolsAreRead) {
  EXPECT_EQ(*metadata().GetString("text"), "caf\xc3\xa9");
  EXPECT_EQ(*metadata().GetFloat("f32", 0, 2), 1.5);
  EXPECT_EQ(*metadata().GetFloat("f64", 0, 2), 0.1);
  EXPECT_EQ(*metadata().GetBool("bool"), true);
  EXPECT_THAT(*metadata().GetStrings("texts"), ElementsAre("a", ""));
}

TEST_F(GgufTest, AWrongTypeOrRangeIsRefusedWithKeyExpectedAndGot) {
  EXPECT_THAT(metadata().GetUint("i8", 0, 5),
              StatusIs(kInvalid, AllOf(HasSubstr("key i8"), HasSubstr("from 0 to 5"), HasSubstr("int8 -100"))));
  EXPECT_THAT(metadata().GetUint("u8", 1, 199), StatusIs(kInvalid, HasSubstr("expected an integer from 1 to 199, got "
                                                                             "uint8 200")));
  EXPECT_THAT(metadata().GetUint("text", 0, 5), StatusIs(kInvalid, HasSubstr("string 'caf\\xc3\\xa9'")));
  EXPECT_THAT(metadata().GetFloat("u32", 0, 5), StatusIs(kInvalid, HasSubstr("got uint32 4000000000")));
  EXPECT_THAT(metadata().GetFloat("f32", 2, 3), StatusIs(kInvalid, HasSubstr("float32 1.5")));
  EXPECT_THAT(metadata().GetString("bool"), StatusIs(kInvalid, HasSubstr("expected a string, got bool true")));
  EXPECT_THAT(metadata().GetBool("u8"), StatusIs(kInvalid, HasSubstr("expected a bool")));
  EXPECT_THAT(metadata().GetStrings("ints"), StatusIs(kInvalid, HasSubstr("got array of 3 int16")));
  EXPECT_THAT(metadata().GetInts("texts"), StatusIs(kInvalid, HasSubstr("got array of 2 string")));
  EXPECT_THAT(metadata().GetFloats("ints"), StatusIs(kInvalid, HasSubstr("array of finite floats")));
}

TEST_F(GgufTest, AMissingKeyIsRefusedByGetAndAbsentForFind) {
  EXPECT_THAT(metadata().GetUint("gone", 0, 5),
              StatusIs(kInvalid, HasSubstr("key gone: expected an integer from 0 to 5, got no such key")));
  EXPECT_EQ(*metadata().FindUint("gone", 0, 5), std::nullopt);
  EXPECT_EQ(*metadata().FindUint("u8", 0, 255), 200u);
  EXPECT_THAT(metadata().FindUint("u8", 0, 5), StatusIs(kInvalid, HasSubstr("key u8")));
}

TEST_F(GgufTest, TheDirectoryHasShapesOutermostFirstAndSizesFromTheType) {
  ASSERT_EQ(file_->tensors().size(), 3u);
  const GgufTensor* f32 = file_->FindTensor("f32.weight");
  ASSERT_NE(f32, nullptr);
  EXPECT_THAT(f32->shape, ElementsAre(2, 3, 4));
  EXPECT_EQ(f32->size_bytes, 96);
  const GgufTensor* q4 = file_->FindTensor("q4.weight");
  ASSERT_NE(q4, nullptr);
  EXPECT_EQ(q4->type, GgufTensorType::kQ4_0);
  EXPECT_EQ(q4->size_bytes, 72);
  EXPECT_EQ(q4->row_bytes(), 36);
  EXPECT_EQ(file_->FindTensor("absent"), nullptr);
}

TEST_F(GgufTest, TensorBytesAreReadFromTheDataSection) {
  std::vector<std::byte> bytes(4);
  ASSERT_THAT(file_->ReadTensor(*file_->FindTensor("f16.weight"), 6, bytes), IsOk());
  EXPECT_THAT(bytes, ElementsAre(std::byte{102}, std::byte{103}, std::byte{104}, std::byte{105}));
}

TEST(GgufFileTest, AFileOnDiskReadsAsItsBytesDo) {
  const TempFile file(ValidGguf());
  const absl::StatusOr<GgufFile> opened = GgufFile::Open(file.path());
  ASSERT_THAT(opened, IsOk());
  EXPECT_EQ(opened->metadata().size(), 14);
  std::vector<std::byte> bytes(1);
  ASSERT_THAT(opened->ReadTensor(*opened->FindTensor("q4.weight"), 0, bytes), IsOk());
  EXPECT_EQ(bytes[0], std::byte{160});
}

TEST(GgufFileTest, ARefusalNamesThePath) {
  const TempFile file("GGML1234");
  EXPECT_THAT(GgufFile::Open(file.path()), StatusIs(kInvalid, AllOf(HasSubstr(file.path()), HasSubstr("magic"))));
}

TEST(GgufFileTest, AFileCutAfterItWasOpenedIsAnErrorThatNamesTheTensor) {
  const TempFile file(ValidGguf());
  const absl::StatusOr<GgufFile> opened = GgufFile::Open(file.path());
  ASSERT_THAT(opened, IsOk());
  const GgufTensor& tensor = *opened->FindTensor("q4.weight");
  std::filesystem::resize_file(file.path(), tensor.file_offset + 10);
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.size_bytes));
  EXPECT_THAT(opened->ReadTensor(tensor, 0, bytes),
              StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr("q4.weight"), HasSubstr("file ended"))));
}

TEST(GgufFileTest, WhatIsNotARegularFileIsRefused) {
  EXPECT_THAT(GgufFile::Open(::testing::TempDir()), StatusIs(kInvalid, HasSubstr("expected a regular file")));
  EXPECT_THAT(GgufFile::Open("/nonexistent/model.gguf"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/model.gguf")));
}

}  // namespace
}  // namespace farspan
