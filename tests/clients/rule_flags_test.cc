// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/rule_flags.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "absl/algorithm/container.h"
#include "absl/strings/str_replace.h"
#include "clients/cli/command.h"
#include "farspan/v1/inference.pb.h"
#include "farspan/v1/options.pb.h"
#include "tests/support/status_matchers.h"

namespace farspan::cli {
namespace {

using ::testing::HasSubstr;

class RuleFlagsTest : public ::testing::Test {
 protected:
  RuleFlagsTest() {
    AddRuleFlags(&sampling_, "Sampling", &flags_);
    AddRuleFlags(&stopping_, "Stopping", &flags_);
    AddRuleFlags(&output_, "Output", &flags_);
  }

  void ExpectRefused(const std::string& argument, const std::string& message) {
    EXPECT_THAT(flags_.Parse({argument}), StatusIs(absl::StatusCode::kInvalidArgument, message)) << argument;
  }

  v1::Sampling sampling_;
  v1::Stopping stopping_;
  v1::OutputOptions output_;
  FlagSet flags_;
};

TEST_F(RuleFlagsTest, EveryGenerationOptionIsAFlagOfGenerateWithItsDoc) {
  for (const auto& command : AllCommands()) {
    if (command->name() != "generate" && command->name() != "compare" && command->name() != "chat") continue;
    FlagSet flags;
    command->AddFlags(&flags);
    for (const google::protobuf::Descriptor* message :
         {v1::Sampling::descriptor(), v1::Stopping::descriptor(), v1::OutputOptions::descriptor()}) {
      for (int i = 0; i < message->field_count(); ++i) {
        const std::string name = absl::StrReplaceAll(message->field(i)->name(), {{"_", "-"}});
        const auto flag = absl::c_find_if(flags.flags(), [&](const Flag& f) { return f.name == name; });
        ASSERT_NE(flag, flags.flags().end()) << command->name() << " --" << name;
        const std::string& doc = message->field(i)->options().GetExtension(v1::rule).doc();
        EXPECT_FALSE(doc.empty()) << name;
        EXPECT_THAT(flag->doc, HasSubstr(doc));
      }
    }
  }
}

TEST_F(RuleFlagsTest, NoCommandHasTwoFlagsOfOneName) {
  for (const auto& command : AllCommands()) {
    FlagSet flags;
    command->AddFlags(&flags);
    std::vector<std::string> names;
    for (const Flag& flag : flags.flags()) names.push_back(flag.name);
    absl::c_sort(names);
    EXPECT_EQ(absl::c_adjacent_find(names), names.end()) << command->name();
  }
}

TEST_F(RuleFlagsTest, SetsFieldsOfEveryType) {
  ASSERT_THAT(flags_.Parse({"--temperature=0.7", "--top-k=5", "--seed=-9223372036854775808", "--ignore-eos",
                            "--no-include-stop-string", "--stop-token-ids=1", "--stop_token_ids=2", "--stop-strings=\n",
                            "--logprobs=0"}),
              IsOk());
  EXPECT_EQ(sampling_.temperature(), 0.7);
  EXPECT_EQ(sampling_.top_k(), 5);
  EXPECT_EQ(sampling_.seed(), std::numeric_limits<int64_t>::min());
  EXPECT_TRUE(stopping_.ignore_eos());
  EXPECT_FALSE(stopping_.include_stop_string());
  EXPECT_THAT(stopping_.stop_token_ids(), ::testing::ElementsAre(1, 2));
  EXPECT_THAT(stopping_.stop_strings(), ::testing::ElementsAre("\n"));
  EXPECT_TRUE(output_.has_logprobs());
  EXPECT_FALSE(output_.has_prompt_logprobs());
  EXPECT_FALSE(sampling_.has_top_p());
}

TEST_F(RuleFlagsTest, RefusalsNameFlagRuleAndValue) {
  ExpectRefused("--top-p=0", "--top-p: must be above 0 and at most 1, got 0");
  ExpectRefused("--top-p=1.5", "--top-p: must be above 0 and at most 1, got 1.5");
  ExpectRefused("--temperature=nan", "--temperature: must be a finite number, got nan");
  ExpectRefused("--temperature=inf", "--temperature: must be a finite number, got inf");
  ExpectRefused("--temperature=hot", "--temperature: must be a number, got 'hot'");
  ExpectRefused("--max-tokens=0", "--max-tokens: must be between 1 and 2147483647, got 0");
  ExpectRefused("--max-tokens=1e3", "--max-tokens: must be a whole number, got '1e3'");
  ExpectRefused("--max-tokens=99999999999999999999",
                "--max-tokens: must be a whole number, got '99999999999999999999'");
  ExpectRefused("--logprobs=21", "--logprobs: must be between 0 and 20, got 21");
  ExpectRefused("--stop-token-ids=-1", "--stop-token-ids: must be at least 0, got -1");
  ExpectRefused("--stop-token-ids=2147483648",
                "--stop-token-ids: must be between -2147483648 and 2147483647, got 2147483648");
  ExpectRefused("--stop-strings=", "--stop-strings: must be 1 to 256 bytes long, got 0 bytes");
  ExpectRefused("--stop-strings=" + std::string(257, 'a'),
                "--stop-strings: must be 1 to 256 bytes long, got 257 bytes");
}

TEST_F(RuleFlagsTest, RepeatedFlagsHaveTheirLimit) {
  const std::vector<std::string> sixteen(16, "--stop-strings=a");
  ASSERT_THAT(flags_.Parse(sixteen), IsOk());
  ExpectRefused("--stop-strings=a", "--stop-strings: at most 16 may be given, got 17");
}

TEST(CheckRulesTest, FindsAFieldInsideAMessage) {
  v1::GenerateRequest request;
  EXPECT_THAT(CheckRules(request), IsOk());
  request.mutable_attention()->mutable_window()->set_sink_tokens(-1);
  EXPECT_THAT(CheckRules(request), StatusIs(absl::StatusCode::kInvalidArgument,
                                            "attention.window.sink_tokens: must be between 0 and 1048576, got -1"));
}

}  // namespace
}  // namespace farspan::cli
