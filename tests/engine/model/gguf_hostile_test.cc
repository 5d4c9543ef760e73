// SPDX-License-Identifier: Apache-2.0
// Every malformed file is refused with a status that names what is wrong, whatever the reader's window.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/model/gguf.h"
#include "tests/engine/model/hostile_gguf.h"
#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

absl::StatusOr<GgufFile> ParseBytes(const std::string& bytes, size_t window_bytes) {
  return GgufFile::Parse(ViewByteSource(std::as_bytes(std::span(bytes))), window_bytes);
}

class HostileGgufTest : public ::testing::TestWithParam<HostileGguf> {};

TEST_P(HostileGgufTest, IsRefusedByName) {
  for (const size_t window_bytes : {size_t{1}, size_t{7}, size_t{65536}}) {
    const absl::Status status = ParseBytes(GetParam().bytes, window_bytes).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const std::string& name : GetParam().named) EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, HostileGgufTest, ::testing::ValuesIn(HostileGgufFiles()),
                         [](const auto& param_info) { return param_info.param.kind; });

TEST(GgufTruncationTest, EveryPrefixOfAValidFileIsRefused) {
  const std::string valid = ValidGguf();
  ASSERT_THAT(ParseBytes(valid, 65536), IsOk());
  for (size_t size = 0; size < valid.size(); ++size) {
    EXPECT_THAT(ParseBytes(valid.substr(0, size), 65536), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")))
        << "prefix of " << size << " bytes";
  }
}

TEST(GgufTruncationTest, EveryFlippedByteIsParsedOrRefusedAlikeForAnyWindow) {
  const std::string valid = ValidGguf();
  for (size_t i = 0; i < valid.size(); ++i) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string changed = valid;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      EXPECT_EQ(ParseBytes(changed, 3).status(), ParseBytes(changed, 65536).status()) << "byte " << i;
    }
  }
}

}  // namespace
}  // namespace farspan
