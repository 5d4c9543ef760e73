// SPDX-License-Identifier: Apache-2.0
#include "engine/model/hash_model_options.h"

#include <gmock/gmock.h>

#include "tests/support/status_matchers.h"

namespace farspan {
namespace {

using ::testing::HasSubstr;

TEST(HashModelOptionsTest, SettingsNotNamedKeepTheirDefaults) {
  const auto options = ParseHashModelName("hash:step_us=500,context=64");
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->step_us, 500);
  EXPECT_EQ(options->context_tokens, 64);
  EXPECT_EQ(options->num_layers, HashModelOptions().num_layers);
  EXPECT_EQ(ParseHashModelName("hash:")->context_tokens, HashModelOptions().context_tokens);
}

TEST(HashModelOptionsTest, OnlyThePrefixMakesAHashModel) {
  EXPECT_TRUE(IsHashModelName("hash:"));
  for (const char* name : {"hash", "./hash:", "/models/hash:", "Hash:"}) EXPECT_FALSE(IsHashModelName(name)) << name;
}

TEST(HashModelOptionsTest, WrongSettingsAreRefusedWithTheRule) {
  for (const char* name : {"hash:step", "hash:steps=1", "hash:,", "hash:step_us=1,", "hash:=1", "hash: step_us=1"}) {
    EXPECT_THAT(ParseHashModelName(name),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("NAME one of step_us, prefill_us_per_token")))
        << name;
  }
  for (const char* name : {"hash:context=15", "hash:context=", "hash:context=1e3", "hash:context=16777217"}) {
    EXPECT_THAT(ParseHashModelName(name),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("from 16 to 16777216 as context")))
        << name;
  }
}

TEST(HashModelOptionsTest, TheTextNamesEverySettingWithItsDefault) {
  for (const char* part : {"step_us=0", "prefill_us_per_token=0", "decode_us_per_row=0", "context=8192", "layers=2",
                           "load_ms=0", "fail_at_step=0"}) {
    EXPECT_THAT(HashModelOptionsText(), HasSubstr(part));
  }
}

}  // namespace
}  // namespace farspan
