// SPDX-License-Identifier: Apache-2.0
#include "clients/cli/flag_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace farspan::cli {
namespace {

using ::testing::HasSubstr;

class FlagSetTest : public ::testing::Test {
 protected:
  FlagSetTest() {
    flags_.AddText("prompt-file", "FILE", "The prompt.", &file_);
    flags_.AddSwitch("ignore-eos", "Goes on.", &ignore_eos_);
  }

  FlagSet flags_;
  std::string file_;
  bool ignore_eos_ = false;
};

TEST_F(FlagSetTest, TakesValuesInBothFormsAndUnderscores) {
  ASSERT_THAT(flags_.Parse({"--prompt-file", "a"}), IsOk());
  EXPECT_EQ(file_, "a");
  ASSERT_THAT(flags_.Parse({"--prompt_file=--b=c"}), IsOk());
  EXPECT_EQ(file_, "--b=c");
  ASSERT_THAT(flags_.Parse({"--prompt-file", "-"}), IsOk());
  EXPECT_EQ(file_, "-");
}

TEST_F(FlagSetTest, TheLastOfTwoValuesCounts) {
  ASSERT_THAT(flags_.Parse({"--prompt-file=a", "--prompt-file=b"}), IsOk());
  EXPECT_EQ(file_, "b");
}

TEST_F(FlagSetTest, AFlagOfSeveralValuesTakesAllUpToTheNextFlag) {
  std::vector<std::string> goals;
  flags_.Add({.name = "goodput", .value_name = "NAME:MS", .several = true, .set = [&](const std::string& text) {
                goals.push_back(text);
                return text == "bad" ? absl::InvalidArgumentError("must be good") : absl::OkStatus();
              }});
  ASSERT_THAT(flags_.Parse({"--goodput", "a", "b", "--ignore-eos", "--goodput=c", "d"}), IsOk());
  EXPECT_EQ(goals, (std::vector<std::string>{"a", "b", "c", "d"}));
  EXPECT_TRUE(ignore_eos_);
  EXPECT_THAT(flags_.Parse({"--goodput", "a", "bad"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--goodput: must be good")));
  EXPECT_THAT(flags_.Parse({"--goodput"}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs a value")));
}

TEST_F(FlagSetTest, SwitchesHaveANegativeForm) {
  ASSERT_THAT(flags_.Parse({"--ignore-eos"}), IsOk());
  EXPECT_TRUE(ignore_eos_);
  ASSERT_THAT(flags_.Parse({"--no-ignore_eos"}), IsOk());
  EXPECT_FALSE(ignore_eos_);
  ASSERT_THAT(flags_.Parse({"--ignore-eos=true"}), IsOk());
  EXPECT_TRUE(ignore_eos_);
}

TEST_F(FlagSetTest, NamesTheFlagThatIsWrong) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& message) {
    EXPECT_THAT(flags_.Parse(arguments), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  };
  refused({"--promptfile", "x"}, "unknown flag '--promptfile', did you mean --prompt-file?");
  refused({"--ignore-oes"}, "did you mean --ignore-eos?");
  refused({"--no-ignore-oes"}, "did you mean --no-ignore-eos?");
  refused({"--zzzzzzzzzz"}, "unknown flag '--zzzzzzzzzz'; --help lists the flags");
  refused({"--no-prompt-file"}, "unknown flag '--no-prompt-file'");
  refused({"--prompt-file"}, "--prompt-file: needs a value (FILE)");
  refused({"--prompt-file", "--ignore-eos"}, "--prompt-file: needs a value (FILE)");
  refused({"--ignore-eos=maybe"}, "--ignore-eos: must be true or false, got 'maybe'");
  refused({"--no-ignore-eos=true"}, "--no-ignore-eos: takes no value");
  refused({"hello"}, "unexpected argument 'hello'");
  refused({"-p"}, "unexpected argument '-p'");
  refused({"--"}, "unexpected argument '--'");
}

TEST_F(FlagSetTest, HelpShowsEveryFlagWithItsDoc) {
  EXPECT_EQ(flags_.Help(80), "Flags:\n  --prompt-file FILE\n      The prompt.\n  --[no-]ignore-eos\n      Goes on.\n");
}

TEST(NearestNameTest, PrefersTheClosestAndRefusesTheFarOnes) {
  EXPECT_EQ(NearestName("temperture", {"top-p", "temperature"}), "temperature");
  EXPECT_EQ(NearestName("abcdef", {"top-p", "temperature"}), std::nullopt);
}

TEST(WrapTest, BreaksAtSpacesAndKeepsLongWordsWhole) {
  EXPECT_EQ(Wrap("aa bb cc", 2, 7), "  aa bb\n  cc\n");
  EXPECT_EQ(Wrap("aaaaaaaaaa b", 0, 4), "aaaaaaaaaa\nb\n");
}

TEST(QuotedTest, ClipsAndEscapes) {
  EXPECT_EQ(Quoted("a\x1b"), "'a\\x1b'");
  EXPECT_EQ(Quoted(std::string(80, 'x')), "'" + std::string(64, 'x') + "...'");
}

}  // namespace
}  // namespace farspan::cli
